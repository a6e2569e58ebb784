"""Stage `register`: the gate's verdict on the evaluation, then the model in the registry with verdict and lineage.

`reports/gate.json` is a declared output and a function of metrics and thresholds alone. What goes to the store is
not declared: a registered version under one key a (model, metrics, verdict, name), so that running this again
registers nothing new, and a deleted store gets run and version back. `mlruns/registration.json` is the receipt.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from busi.evaluation import gate
from busi.reporting import card
from pipeline.dataset import read_dataset
from pipeline.params import Params, read_params
from pipeline.registry import lineage, promotion
from pipeline.runtime.atomic_io import sha256, write_json, write_text
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import STAGES, seconds_of, stage
from pipeline.tracking import store as tracking

MODEL = Path("artifacts/train/model.keras")
NOVELTY = Path("artifacts/evaluate/novelty.npz")
HISTORY = Path("artifacts/train/history.csv")
RUN = Path("artifacts/train/run.json")
PREDICTIONS = Path("artifacts/evaluate/predictions.csv")
SMOKE = Path("artifacts/evaluate/smoke")
EVALUATED = (Path("artifacts/evaluate/figures"), PREDICTIONS, Path("artifacts/evaluate/report.html"), SMOKE)
METRICS = Path("reports/metrics.json")
VALIDATION = Path("reports/validation.json")
SPLIT = Path("reports/split.json")
GATE = Path("reports/gate.json")
# Says what gate.json says, in one line. It is not in git, so that in a fresh clone, whose store is empty, DVC runs
# this stage although gate.json is there already
VERDICT = Path("artifacts/register/verdict.txt")
RECEIPT = tracking.FOLDER / "registration.json"

UNCOMMITTED = "uncommitted.patch"  # beside the model: what decided the run and was not in the commit
REST_OF_CARD = "*The whole card is `model_card.md` beside the model.*"


def main() -> None:
    params = read_params()
    metrics = _read(METRICS)
    decision = gate.decide(metrics, params.register_.gate.model_dump())
    write_json(GATE, decision)
    receipt = ensure_registered(params)
    failed = f" by {', '.join(gate.failed_rules(decision))}" if decision["verdict"] == gate.FAILED else ""
    write_text(VERDICT, f"{decision['verdict']}{failed}\n")
    print(f"{receipt['name']} version {receipt['version']}: {decision['verdict']} the gate{failed}")


def ensure_registered(params: Params) -> dict:
    """Make the store hold the run and the version of what the stages have written, and write the receipt.

    Costs a few queries where nothing is missing, and never loads the model.

    Returns:
        The receipt: `{"name", "version", "run_id", "verdict", "lineage": {...}}`, as the store has them.

    Raises:
        StageError: an output of an earlier stage is missing, or the store refuses.
    """
    data = read_dataset()
    name = promotion.registered_name(data)
    decision, metrics = _read(GATE), _read(METRICS)
    model_sha256 = sha256(_made(MODEL))
    key = _registration_key(name, _read(RUN)["key"], model_sha256, metrics, decision)

    run = _complete_run(params, metrics, data)
    version = tracking.find_version(run, name, key)
    if version is None:
        origin = lineage.collect(params.featurize.weights)
        model_card = _card(name, params, decision, metrics, data, origin)
        tags = {**_verdict_tags(decision, metrics), **origin}
        patch = lineage.uncommitted()
        run.set_tags(tags)
        run.log_data_set(data["name"], origin["data_md5"], data["source"])
        if patch:
            run.log_text(patch, f"lineage/{UNCOMMITTED}")
        version = tracking.register_version(
            run,
            name=name,
            key=key,
            keras_file=MODEL,
            novelty_file=_made(NOVELTY),
            evidence={
                "model_card.md": model_card,
                "gate.json": _json(decision),
                "metrics.json": _json(metrics),
                "lineage.json": _json(origin),
                "predictions.csv": _made(PREDICTIONS).read_text(encoding="utf-8"),
                "smoke.json": _made(SMOKE / "smoke.json").read_text(encoding="utf-8"),
                **({UNCOMMITTED: patch} if patch else {}),
            },
            tags={
                **tags,
                "model_sha256": model_sha256,
                "temperature": str(_read(RUN)["temperature"]),
                "run_id": run.id,
            },
            description=card.describe(model_card, tracking.DESCRIPTION_LIMIT, REST_OF_CARD),
        )
    _try_out(version)
    receipt = {
        "name": version.name,
        "version": str(version.version),
        "run_id": version.run_id,
        "verdict": version.tags["verdict"],
        "lineage": {field: version.tags[field] for field in lineage.FIELDS},
    }
    write_json(RECEIPT, receipt)
    return receipt


def _try_out(version: tracking.ModelVersion) -> None:
    """Try a version once that has not been, and keep what came of it as its tag `smoke`."""
    if version.tags.get(promotion.SMOKE_TAG) != promotion.SMOKE_PASSED:
        with tracking.files_of(version) as files:
            outcome = promotion.smoke(version, files)
        tracking.set_version_tags(
            version.name,
            version.version,
            {promotion.SMOKE_TAG: promotion.SMOKE_PASSED if outcome["passed"] else "failed"},
        )
        if not outcome["passed"]:
            raise StageError(
                f"{version.name} version {version.version} is registered but can't be promoted: {outcome['sentence']}"
            )


def _complete_run(params: Params, metrics: Mapping, data: Mapping) -> tracking.Run:
    key = _read(RUN)["key"]
    run = tracking.open_run(key, tracking.run_name(data["name"], key))
    if not run.is_training_logged():
        run.log_training(params.of_training(), pd.read_csv(_made(HISTORY)))
    run.log_evaluation(metrics, EVALUATED)
    run.log_seconds(seconds_of(STAGES[: STAGES.index("register")]))  # this one's own time is not known yet
    run.finish()
    return run


def _card(
    name: str, params: Params, decision: Mapping, metrics: Mapping, data: Mapping, origin: Mapping[str, str]
) -> str:
    return card.render(
        name,
        decision=decision,
        metrics=metrics,
        confidence=params.evaluate.confidence,
        data=data,
        validation=_read(VALIDATION),
        split=_read(SPLIT),
        training=params.of_training(),
        temperature=_read(RUN)["temperature"],
        lineage=origin,
    )


def _verdict_tags(decision: Mapping, metrics: Mapping) -> dict[str, str]:
    accuracy = metrics["accuracy"]
    interval = f"{accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}, n = {accuracy['n']})"
    failed = ", ".join(gate.failed_rules(decision)) or "none"
    return {"verdict": decision["verdict"], "failed_rules": failed, "accuracy": interval}


def _registration_key(name: str, run_key: str, model_sha256: str, metrics: Mapping, decision: Mapping) -> str:
    parts = [name, run_key, model_sha256, json.dumps(metrics, sort_keys=True), json.dumps(decision, sort_keys=True)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _made(path: Path) -> Path:
    if not path.is_file():
        raise StageError(f"{path} not found\n  run `dvc repro register`, which makes it first")
    return path


def _read(path: Path) -> dict:
    try:
        return json.loads(_made(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StageError(f"{path} is not JSON: {error}\n  delete it and run `dvc repro`, which writes it") from error


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    with stage("register"):
        main()
