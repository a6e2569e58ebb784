# The front door. `make` or `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env run repro data remote weights ui promote crossval kubeflow test lint lock

PYTHON ?= python3
ENV := .venv/.installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
# DVC keeps its index here instead of below /var/tmp
export DVC_SITE_CACHE_DIR := $(CURDIR)/.cache/dvc
export DVC_NO_ANALYTICS := 1
unexport PYTHONPATH PYTHONHOME

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: $(ENV) ## Install the locked environment into .venv

$(ENV): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {v[0]}.{v[1]}; try make PYTHON=python3.12")'
	@echo "installing the environment into .venv (about 1.5 minutes, 3 GB)"
	@$(PYTHON) -m venv --clear .venv
	@set -o pipefail; .venv/bin/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock \
	  | awk '/^Collecting/ {printf "\r  %d packages", ++n} /^Installing/ {printf ", unpacking"} {fflush()} END {print ""}'
	@touch $@

run: $(ENV) ## Data (the embedded set when there is none), all stages, and a closing summary
	@python -m pipeline.data
	@dvc repro
	@python -m pipeline.summary

data: $(ENV) ## Bring data in: make data SOURCE=phantom | busi | kaggle | path to a zip or folder
	@python -m pipeline.data $(if $(SOURCE),"$(SOURCE)")

remote: $(ENV) ## Add a DVC remote and push to it: make remote URL=s3://bucket/path (or gs://, ssh://, a folder)
	@test -n "$(URL)" || { echo "error: URL is missing; make remote URL=s3://bucket/path"; exit 1; }
	@dvc remote add --force --default storage "$(URL)"
	@dvc push

weights: $(ENV) ## Fetch the ImageNet weights into weights/ (needs the network)
	@python -m pipeline.weights

ui: $(ENV) ## Start the MLflow UI on the pipeline's store
	@python -m pipeline.ui

promote: $(ENV) ## Promote the newest version that passed (VERSION=3; REASON='...' overrides the gate, on record)
	@python -m pipeline.promote $(VERSION) $(if $(REASON),--force --reason "$(REASON)")

crossval: $(ENV) ## Cross-validate on two local Dask workers (FOLDS=5, REPEATS=1; SCHEDULER=tcp://HOST:PORT for a cluster)
	@python -m pipeline.data
	@dvc repro validate
	@python -m pipeline.crossval $(if $(FOLDS),--folds $(FOLDS)) $(if $(REPEATS),--repeats $(REPEATS)) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

kubeflow: $(ENV) ## Compile the stages into a Kubeflow pipeline: make kubeflow IMAGE=registry/busi:tag (installs kfp)
	@test -n "$(IMAGE)" || { echo "error: IMAGE is missing; make kubeflow IMAGE=registry/busi:tag"; exit 1; }
	@python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-kubeflow.lock
	@python -m pipeline.kubeflow --image "$(IMAGE)"

test: $(ENV) ## Run the tests
	@python -m pytest

lint: $(ENV) ## Check style and common errors
	@ruff check . && ruff format --check .

lock: ## Renew requirements.lock and requirements-kubeflow.lock (needs uv)
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet requirements.in -o requirements.lock
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -c requirements.lock requirements-kubeflow.in -o requirements-kubeflow.lock
