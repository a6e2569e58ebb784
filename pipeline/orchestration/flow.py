"""The stages as a Prefect flow: `busi flow`.

One task a step, each run through DVC (`pipeline.orchestration.dvc_steps`), which is the only cache. Prefect adds
retries where something outside can fail, logs, artifacts, a schedule and workers. Without `PREFECT_API_URL` a server
runs for as long as the flow does.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

from prefect import Flow, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.logging.loggers import flow_run_logger
from prefect.states import Completed, Failed, State

from pipeline.orchestration.dvc_steps import (
    DATA,
    SUMMARY,
    StageTimeout,
    alone,
    run_step,
    stage_names,
    wait_for_dvc,
)
from pipeline.orchestration.flow_artifacts import CACHED, notify, write_artifacts
from pipeline.orchestration.prefect_server import server
from pipeline.params import Flow as Settings
from pipeline.params import override, read_params
from pipeline.runtime.errors import ExternalServiceError, StageError

TIMED_OUT, UNREACHABLE = "TimedOut", "Unreachable"  # names of states, beside CACHED


def notify_of_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Hook: notify that a flow run failed or crashed, with the last lines of the failed stage."""
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
            settings = read_settings()
            if overrides:
                wait_for_dvc(time.monotonic() + settings.timeout[DATA], logger.info)
                override(overrides)
                settings = read_settings()
            states: dict[str, State] = {}
            for step in steps:
                before = list(states.values())[-1:]
                states[step] = _task(step, settings)(
                    step, settings.timeout[step], force, wait_for=before, return_state=True
                )
            write_artifacts(states, logger)
            return final_state(states)
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


def final_state(states: Mapping[str, State]) -> State:
    """The flow run's state: completed, or that of the first step that failed. An unexpected error is raised again."""
    failed = next((state for state in states.values() if state.is_failed()), None)
    if failed is None:
        return Completed()
    if error := failed.result(raise_on_failure=False):
        raise error
    return Failed(name=failed.name, message=failed.message)


def run(until: str | None, force: bool, overrides: Mapping[str, Any]) -> None:
    """Run the flow in this process, with a server of its own where none is named. Exits with 1 if the flow failed.

    Args:
        until, force, overrides: as `run_stages` takes them.

    Raises:
        StageError: there is no such step, the flow was cancelled, or Prefect's server did not start.
    """
    plan(until)  # a wrong word is refused before the server starts
    try:
        with server():
            state = run_stages(until, force, dict(overrides) or None, return_state=True)
    except KeyboardInterrupt:
        raise StageError("cancelled, and the stage ended\n  `dvc repro` or `busi flow` continues from there") from None
    if not state.is_completed():
        sys.exit(1)


def read_settings() -> Settings:
    """Section flow of params.yaml. Raises StageError where its timeouts are not those of the steps."""
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
