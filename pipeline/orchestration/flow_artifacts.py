"""What a flow run leaves with Prefect: tables, pictures and links; and the notification of a failure."""

import base64
import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from prefect.artifacts import create_image_artifact, create_link_artifact, create_table_artifact
from prefect.blocks.core import Block
from prefect.states import State

from busi import DISCLAIMER
from pipeline.orchestration.dvc_steps import SUMMARY, Outcome
from pipeline.paths import DATA_DOCS_PAGE, FIGURES, GATE, METRICS, RECEIPT
from pipeline.registry.lineage import without_credentials

CACHED = "Cached"  # name of a state: DVC skipped the stage

MLFLOW_UI = "http://127.0.0.1:5000"  # where `busi ui` listens first

TARGET = "BUSI_NOTIFY"  # environment variable: a webhook's URL or a Prefect block, TYPE/NAME; never shown
NOTIFY_SECONDS = 10


def write_artifacts(states: Mapping[str, State], logger) -> None:
    """Write the artifacts of the completed steps, and notify of a new version that the gate rejected.

    Args:
        states: the state of each step, in order.
        logger: of the flow run; the table of steps goes there too.
    """
    rows = [_row(step, state) for step, state in states.items()]
    create_table_artifact(rows, key="stages", description="What each stage did. Outputs: their hashes in dvc.lock.")
    logger.info("\n".join(["stage        what         seconds  outputs", *map(_line, rows)]))
    done = {step for step, state in states.items() if state.is_completed()}
    if "validate" in done and DATA_DOCS_PAGE.is_file():
        create_link_artifact(
            DATA_DOCS_PAGE.absolute().as_uri(),
            link_text=DATA_DOCS_PAGE.as_posix(),
            key="data-docs",
            description="Great Expectations' page on the data, a file on the machine that ran the flow.",
        )
    if "evaluate" in done:
        _show_metrics()
    if "report" in done:
        _show_confusion()
        _show_gate()
    if "register" in done and states["register"].name != CACHED:
        _notify_of_rejection(logger)
    if SUMMARY in done:
        _show_run()


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
        for name, metric in intervals(_read(METRICS))
    ]
    create_table_artifact(rows, key="metrics", description=f"Test images, with intervals. {DISCLAIMER}")


def _show_confusion() -> None:
    picture = base64.b64encode((FIGURES / "confusion.png").read_bytes()).decode()
    create_image_artifact(
        f"data:image/png;base64,{picture}", key="confusion", description=f"Confusion matrix, test images. {DISCLAIMER}"
    )


def _show_gate() -> None:
    decision = _read(GATE)
    marks = {True: "passed", False: "failed", None: "off"}
    rows = [{**rule, "passed": marks[rule["passed"]]} for rule in decision["rules"]]
    create_table_artifact(rows, key="gate", description=f"Verdict: {decision['verdict']}")


def _notify_of_rejection(logger) -> None:
    failed = [rule["name"] for rule in _read(GATE)["rules"] if rule["passed"] is False]
    if failed:
        notify(f"the gate rejected the model by {', '.join(failed)}", logger)


def _show_run() -> None:
    receipt = _read(RECEIPT)
    store = os.environ.get("MLFLOW_TRACKING_URI", "")  # as pipeline.tracking, whose import takes seconds
    is_server = store.startswith(("http://", "https://"))
    address = without_credentials(store).rstrip("/") if is_server else MLFLOW_UI
    create_link_artifact(
        f"{address}/#/runs/{receipt['run_id']}",
        link_text=f"{receipt['name']} version {receipt['version']}, {receipt['verdict']}",
        key="mlflow-run",
        description="The MLflow run." + ("" if is_server else " Start `busi ui` first."),
    )


def intervals(metrics: Mapping, prefix: str = "") -> Iterator[tuple[str, Mapping]]:
    """Every metric of metrics.json that has an interval, wherever it is nested, with its dotted name."""
    for name, found in metrics.items():
        if isinstance(found, Mapping) and {"value", "low", "high", "n"} <= set(found):
            yield prefix + name, found
        elif isinstance(found, Mapping):
            yield from intervals(found, f"{prefix}{name}.")


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
