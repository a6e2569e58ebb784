# The image that runs the steps of a Kubeflow pipeline: this repository with its locked environment.
#   docker build -t IMAGE .

FROM python:3.11-slim-bookworm AS environment
COPY requirements.lock requirements-kubeflow.lock /
RUN python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes \
        -r /requirements.lock -c /requirements.lock \
    && /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes \
        -r /requirements-kubeflow.lock -c /requirements.lock

FROM python:3.11-slim-bookworm
COPY --from=environment /opt/venv /opt/venv
# Steps write their caches and workplaces below the repository, so it belongs to the user that runs them
RUN useradd --create-home --uid 1000 busi && install -d -o busi -g busi /busi
WORKDIR /busi
COPY --chown=busi:busi dvc.yaml params.yaml ./
COPY --chown=busi:busi src src
COPY --chown=busi:busi pipeline pipeline
COPY --chown=busi:busi weights weights
# GitPython, which DVC brings, refuses to be imported where there is no git unless it is told to be quiet
ENV GIT_PYTHON_REFRESH=quiet \
    PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/busi:/busi/src \
    PYTHONUNBUFFERED=1
USER 1000
CMD ["python", "-m", "pipeline.cli", "kubeflow", "--help"]
