"""The stages as a Prefect flow: `busi flow`.

A task a stage, each run through DVC (`pipeline.orchestration.dvc_steps`), which is the only cache. Prefect adds retries
where something outside can fail, logs, artifacts, a schedule and workers. Without `PREFECT_API_URL` the flow brings a
server along for as long as it runs.
"""

import atexit
import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow, flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_link_artifact, create_table_artifact
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.logging.loggers import flow_run_logger
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings
from prefect.states import Completed, Failed, State

from busi import DISCLAIMER
from pipeline.orchestration.dvc_steps import (
    DATA,
    SUMMARY,
    Outcome,
    StageTimeout,
    alone,
    run_step,
    stage_names,
    wait_for_dvc,
)
from pipeline.params import Flow as Settings
from pipeline.params import override, read_params
from pipeline.paths import DATA_DOCS, FIGURES, GATE, METRICS, RECEIPT
from pipeline.registry.lineage import without_credentials
from pipeline.runtime.errors import ExternalServiceError, StageError

CONFUSION = FIGURES / "confusion.png"
DATA_DOCS_PAGE = DATA_DOCS / "index.html"
NEXT_CHANGE = re.compile(r"\s+(?=[\w.]+=)")  # between two KEY=VALUE in one text

TARGET = "BUSI_NOTIFY"  # environment variable: a webhook's URL or a Prefect block, TYPE/NAME; never shown
NOTIFY_SECONDS = 10

HOST = "127.0.0.1"
START_SECONDS = 120
MLFLOW_UI = f"http://{HOST}:5000"  # where `make ui` listens first

CACHED, TIMED_OUT, UNREACHABLE = "Cached", "TimedOut", "Unreachable"  # names of states


def notify_of_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Hook: tell that a flow run failed or crashed, with the last lines of the stage that did."""
    notify(f"{flow.name} flow run {flow_run.name}: {state.name}\n{state.message}", flow_run_logger(flow_run))


def may_work_later(task, task_run, state: State) -> bool:
    """Whether a failed task is worth another try."""
    return state.name == UNREACHABLE


@flow(
    name="busi",
    description="The stages of dvc.yaml, in order, each through DVC",
    persist_result=False,
    on_failure=[notify_of_failure],
    on_crashed=[notify_of_failure],
)
def run_stages(until: str | None = None, force: bool = False, overrides: dict[str, Any] | None = None) -> State:
    """Bring data in if it is missing, then run every stage that has something to do.

    Args:
        until: the last step to run; all of them without it.
        force: run the stages although nothing changed.
        overrides: values to write into params.yaml first, by dotted key: {"train.seed": 3}.
    """
    logger = get_run_logger()
    try:
        steps = plan(until)
        with alone(logger.info):
            settings = _settings()
            if overrides:
                wait_for_dvc(time.monotonic() + settings.timeout[DATA], logger.info)
                override(overrides)
                settings = _settings()
            states: dict[str, State] = {}
            for step in steps:
                before = list(states.values())[-1:]
                states[step] = _task(step, settings)(
                    step, settings.timeout[step], force, wait_for=before, return_state=True
                )
            return close(states)
    except StageError as error:
        logger.error(error)
        return Failed(message=str(error))


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=may_work_later)
def run_stage(step: str, timeout: int, force: bool = False) -> State:
    """Run one step through DVC. The state is Completed if it ran, Cached if DVC skipped it, or says what failed."""
    try:
        outcome = run_step(step, timeout=timeout, say=get_run_logger().info, force=force)
    except StageTimeout as error:
        return Failed(name=TIMED_OUT, message=str(error))
    except ExternalServiceError as error:
        return Failed(name=UNREACHABLE, message=str(error))
    except StageError as error:
        return Failed(message=str(error))
    if outcome.ran:
        return Completed(data=outcome)
    return Completed(name=CACHED, message="DVC: nothing changed", data=outcome)


def plan(until: str | None) -> list[str]:
    """The steps of a flow run, in order."""
    steps = [DATA, *stage_names(), SUMMARY]
    if until is None:
        return steps
    if until not in steps:
        raise StageError(f"no step {until!r}; the steps are {', '.join(steps)}")
    return steps[: steps.index(until) + 1]


def close(states: Mapping[str, State]) -> State:
    """Write the flow run's artifacts and give its final state."""
    logger = get_run_logger()
    rows = [_row(step, state) for step, state in states.items()]
    create_table_artifact(rows, key="stages", description="What each stage did. Outputs: their hashes in dvc.lock.")
    logger.info("\n".join(["stage        what         seconds  outputs", *map(_line, rows)]))
    done = {step for step, state in states.items() if state.is_completed()}
    if "evaluate" in done:
        _show_metrics()
    if "report" in done:
        _show_confusion()
        _show_gate()
    if "validate" in done and DATA_DOCS_PAGE.is_file():
        create_link_artifact(
            DATA_DOCS_PAGE.absolute().as_uri(),
            link_text=DATA_DOCS_PAGE.as_posix(),
            key="data-docs",
            description="Great Expectations' page on the data, a file on the machine that ran the flow.",
        )
    if "register" in done and states["register"].name != CACHED:
        _tell_of_rejection()
    if SUMMARY in done:
        _show_run()
    failed = next((state for state in states.values() if state.is_failed()), None)
    if failed is None:
        return Completed()
    if error := failed.result(raise_on_failure=False):
        raise error  # a bug: it keeps its traceback
    return Failed(name=failed.name, message=failed.message)


def notify(text: str, logger) -> None:
    """Send a text to the block or webhook that `BUSI_NOTIFY` names; without one, or if that fails, log it."""
    target = os.environ.get(TARGET)
    if not target:
        logger.warning("%s\n(no notification: %s is not set)", text, TARGET)
        return
    try:
        if target.startswith(("https://", "http://")):
            body = json.dumps({"text": text}).encode()
            request = urllib.request.Request(target, body, {"Content-Type": "application/json"})  # noqa: S310
            urllib.request.urlopen(request, timeout=NOTIFY_SECONDS).close()  # noqa: S310
        else:
            Block.load(target).notify(text, subject="busi")
    # A block raises whatever its service's library does, with the address in its text
    except Exception as error:
        logger.warning("%s\n(notification failed: %s)", text, type(error).__name__)
    else:
        logger.info("notification sent")


def run(until: str | None, force: bool, overrides: Mapping[str, Any]) -> None:
    """Run the flow in this process, with a server of its own where none is named. Exits with 1 if the flow failed.

    Args:
        until, force, overrides: as `run_stages` takes them.

    Raises:
        StageError: the flow was cancelled, or Prefect's server did not start.
    """
    try:
        with _server():
            state = run_stages(until, force, dict(overrides) or None, return_state=True)
    except KeyboardInterrupt:
        raise StageError("cancelled; the stage's processes are ended, `dvc repro` or `busi flow` goes on") from None
    if not state.is_completed():
        sys.exit(1)


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """Values of params.yaml by dotted key, from texts like `train.seed=3` or `train.seed=3 split.seed=4`.

    Raises:
        StageError: a text is not of this form.
    """
    overrides = {}
    for change in (part for text in changes for part in NEXT_CHANGE.split(text.strip())):
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise StageError(f"--set {change!r}: expected KEY=VALUE, such as train.seed=3")
        overrides[key] = yaml.safe_load(value)
    return overrides


def _server() -> contextlib.AbstractContextManager:
    """Start Prefect's server for as long as this process runs, where `PREFECT_API_URL` names none.

    Prefect would start the same one itself, but 2 s later, since it loads the server's code into the flow as well; and
    where Ctrl-C ends the server too, before the flow can tell it that it was cancelled.

    Returns:
        A block in which Prefect uses it.
    """
    if PREFECT_API_URL.value():
        return contextlib.nullcontext()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
            *("--host", HOST, "--port", str(port), "--log-level", "error"),
        ],
        env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"},  # as Prefect does
        start_new_session=True,
    )
    atexit.register(process.terminate)  # after Prefect has sent its last logs and events at its own exit
    _wait_until_up(process, f"http://{HOST}:{port}/api/health")
    return temporary_settings({PREFECT_API_URL: f"http://{HOST}:{port}/api", PREFECT_UI_URL: ""})


def _wait_until_up(process: subprocess.Popen, address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StageError(f"Prefect's server ended with exit code {process.returncode}; its own words are above")
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):  # noqa: S310
            return
        time.sleep(0.1)
    raise StageError(f"Prefect's server did not answer within {START_SECONDS} s")


def _settings() -> Settings:
    settings = read_params().flow
    steps = plan(None)
    if set(steps) != set(settings.timeout):
        differing = ", ".join(sorted(set(steps) ^ set(settings.timeout)))
        raise StageError(
            f"params.yaml: flow.timeout and the steps of the flow differ by {differing}\n"
            f"  it needs one number for each of {', '.join(steps)}"
        )
    return settings


def _task(step: str, settings: Settings):
    delays = [settings.retry_seconds * 2**attempt for attempt in range(settings.retries)]
    return run_stage.with_options(
        name=step, task_run_name=step, retries=settings.retries, retry_delay_seconds=delays or None
    )


def _row(step: str, state: State) -> dict[str, str]:
    if not state.is_completed():
        return {
            "stage": step,
            "what": "not run" if state.is_pending() else state.name.lower(),
            "seconds": "",
            "outputs": "",
        }
    outcome: Outcome = state.result()
    return {
        "stage": step,
        "what": "ran" if outcome.ran else "cached",
        "seconds": f"{outcome.seconds:.1f}",
        "outputs": "changed" if outcome.changed else "the same",
    }


def _line(row: Mapping[str, str]) -> str:
    return f"{row['stage']:<12} {row['what']:<12} {row['seconds']:>7}  {row['outputs']}".rstrip()


def _show_metrics() -> None:
    rows = [
        {"metric": name, **{key: metric[key] for key in ("value", "low", "high", "n")}}
        for name, metric in _intervals(_read(METRICS))
    ]
    create_table_artifact(rows, key="metrics", description=f"Test images, with intervals. {DISCLAIMER}")


def _show_confusion() -> None:
    picture = base64.b64encode(CONFUSION.read_bytes()).decode()
    create_image_artifact(
        f"data:image/png;base64,{picture}", key="confusion", description=f"Confusion matrix, test images. {DISCLAIMER}"
    )


def _show_gate() -> None:
    decision = _read(GATE)
    marks = {True: "passed", False: "failed", None: "off"}
    rows = [{**rule, "passed": marks[rule["passed"]]} for rule in decision["rules"]]
    create_table_artifact(rows, key="gate", description=f"Verdict: {decision['verdict']}")


def _tell_of_rejection() -> None:
    failed = [rule["name"] for rule in _read(GATE)["rules"] if rule["passed"] is False]
    if failed:
        notify(f"the gate rejected the model by {', '.join(failed)}", get_run_logger())


def _show_run() -> None:
    receipt = _read(RECEIPT)
    store = os.environ.get("MLFLOW_TRACKING_URI", "")  # as pipeline.tracking, whose import takes seconds
    is_server = store.startswith(("http://", "https://"))
    address = without_credentials(store).rstrip("/") if is_server else MLFLOW_UI
    create_link_artifact(
        f"{address}/#/runs/{receipt['run_id']}",
        link_text=f"{receipt['name']} version {receipt['version']}, {receipt['verdict']}",
        key="mlflow-run",
        description="The MLflow run." + ("" if is_server else " Start `make ui` first."),
    )


def _intervals(metrics: Mapping, prefix: str = "") -> Iterator[tuple[str, Mapping]]:
    for name, found in metrics.items():
        if isinstance(found, Mapping) and {"value", "low", "high", "n"} <= set(found):
            yield prefix + name, found
        elif isinstance(found, Mapping):
            yield from _intervals(found, f"{prefix}{name}.")


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
