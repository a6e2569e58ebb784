"""Stage `register`: the model in the registry with the gate's verdict, its lineage and the code that serves it.

Reads what the earlier stages wrote, `reports/gate.json` with the verdict of stage `report` included. What goes to the
store is not declared as an output. A version is registered under a key, a hash of name, run, model, serving code,
metrics and verdict: running this again registers nothing new, and a deleted store gets run and version back.
`mlruns/registration.json` is the receipt.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from busi.evaluation.gate import Decision
from busi.evaluation.records import Metric
from busi.reporting import card
from pipeline import paths
from pipeline.dataset import read_dataset
from pipeline.params import Params, read_params
from pipeline.registry import checks, lineage
from pipeline.registry.names import registered_name
from pipeline.runtime.atomic_io import sha256, write_json, write_text
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import STAGES, seconds_of, stage
from pipeline.tracking import bundle, logged_model, runs, versions
from pipeline.tracking.versions import ModelVersion

LOGGED = (paths.FIGURES, paths.PREDICTIONS, paths.REPORT, paths.SMOKE)  # to the run, under evaluate/
REST_OF_CARD = "*The whole card is `model_card.md` beside the model.*"


def main() -> None:
    params = read_params()
    decision = Decision.from_json(_read(paths.GATE))
    receipt = ensure_registered(params)
    # Not in git: in a fresh clone, whose store is empty, DVC runs this stage although gate.json is there already
    write_text(paths.VERDICT, f"{decision.summary}\n")
    failed = f" by {', '.join(decision.failed_rules)}" if decision.failed_rules else ""
    print(f"{receipt['name']} version {receipt['version']}: {decision.verdict} the gate{failed}")


def ensure_registered(params: Params) -> dict:
    """Make the store hold the run and the version of what the stages have written, and write the receipt.

    Costs a few queries where nothing is missing, and never loads the model.

    Returns:
        The receipt: `{"name", "version", "run_id", "verdict", "lineage": {...}}`, as the store has them.

    Raises:
        StageError: an output of an earlier stage is missing, or the store refuses.
    """
    dataset = read_dataset()
    name = registered_name(dataset)
    decision, metrics = _read(paths.GATE), _read(paths.METRICS)
    model_sha256 = sha256(_existing(paths.MODEL))
    code = bundle.collect()
    key = _registration_key(name, _read(paths.RUN)["key"], model_sha256, code.digest, metrics, decision)

    run = _complete_run(params, metrics, dataset)
    version = versions.find_version(run, name, key)
    if version is not None and (reason := _damage(version, run)):
        versions.give_up(version, key, reason)
        print(f"note: {name} version {version.version} is not whole any more and is registered anew. {reason}")
        version = None
    if version is None:
        origin = lineage.collect(params.featurize.weights)
        model_card = _card(name, params, decision, metrics, dataset, origin)
        tags = {**_verdict_tags(decision, metrics), **origin}
        patch = lineage.uncommitted()
        run.set_tags(tags)
        run.log_data_set(dataset["name"], origin["data_md5"], dataset["source"])
        if patch:
            run.log_text(patch, f"lineage/{lineage.UNCOMMITTED}")
        evidence = {
            "model_card.md": model_card,
            "gate.json": _json(decision),
            "metrics.json": _json(metrics),
            "lineage.json": _json(origin),
            "predictions.csv": _existing(paths.PREDICTIONS).read_text(encoding="utf-8"),
            "smoke.json": _existing(paths.SMOKE / "smoke.json").read_text(encoding="utf-8"),
            **({lineage.UNCOMMITTED: patch} if patch else {}),
        }
        own = {
            "model_sha256": model_sha256,
            "bundle_sha256": code.digest,
            "temperature": str(_read(paths.RUN)["temperature"]),
            "run_id": run.id,
        }
        version = versions.register_version(
            run,
            name=name,
            key=key,
            parts=logged_model.Parts(paths.MODEL, _existing(paths.OOD_DETECTOR), code, evidence),
            tags={**tags, **own},
            description=card.registry_description(model_card, versions.DESCRIPTION_LIMIT, REST_OF_CARD),
        )
    _smoke_test(version)
    receipt = {
        "name": version.name,
        "version": str(version.version),
        "run_id": version.run_id,
        "verdict": version.tags["verdict"],
        "lineage": {field: version.tags[field] for field in lineage.FIELDS},
    }
    write_json(paths.RECEIPT, receipt)
    return receipt


def _damage(version: ModelVersion, run: runs.Run) -> str | None:
    """What was deleted or changed of a version since its registration, or None."""
    if version.run_id != run.id:  # a run that was deleted is not found by its key, and another one was made
        return f"Its run {version.run_id} was deleted."
    return checks.damage(version)


def _smoke_test(version: ModelVersion) -> None:
    """Run the smoke test of a version that has not passed one, and keep the outcome as its tag `smoke`."""
    if version.tags.get(checks.SMOKE_TAG) == checks.SMOKE_PASSED:
        return
    with logged_model.files_of(version) as files:
        outcome = checks.smoke_test(version, files)
    tag = checks.SMOKE_PASSED if outcome.passed else "failed"
    versions.set_version_tags(version.name, version.version, {checks.SMOKE_TAG: tag})
    if not outcome.passed:
        raise StageError(
            f"{version.name} version {version.version} is registered but can't be promoted: {outcome.sentence}"
        )


def _complete_run(params: Params, metrics: Mapping, dataset: Mapping) -> runs.Run:
    """The run of the training, with everything that the stages wrote logged to it."""
    key = _read(paths.RUN)["key"]
    run = runs.open_run(key, runs.run_name(dataset["name"], key))
    if not run.is_training_logged():
        run.log_training(params.of_training(), pd.read_csv(_existing(paths.HISTORY)))
    run.log_evaluation(metrics, LOGGED)
    run.log_seconds(seconds_of(STAGES[: STAGES.index("register")]))  # the time of `register` is not known yet
    run.finish()
    return run


def _card(
    name: str, params: Params, decision: Mapping, metrics: Mapping, dataset: Mapping, origin: Mapping[str, str]
) -> str:
    content = card.Content(
        name=name,
        decision=decision,
        metrics=metrics,
        confidence=params.evaluate.confidence,
        slice_images=params.register_.gate_slice_images,
        data=dataset,
        validation=_read(paths.VALIDATION_REPORT),
        split=_read(paths.SPLIT_REPORT),
        training=params.of_training(),
        temperature=_read(paths.RUN)["temperature"],
        lineage=origin,
    )
    return card.render(content)


def _verdict_tags(decision: Mapping, metrics: Mapping) -> dict[str, str]:
    accuracy = Metric.from_json(metrics["accuracy"])
    failed = ", ".join(Decision.from_json(decision).failed_rules) or "none"
    interval = f"{accuracy.value:.4f} ({accuracy.low:.4f} to {accuracy.high:.4f}, n = {accuracy.n})"
    return {"verdict": decision["verdict"], "failed_rules": failed, "accuracy": interval}


def _registration_key(name: str, *parts: str | Mapping) -> str:
    """The key that two registrations of the same thing share, 64 hex digits."""
    parts = [name, *(part if isinstance(part, str) else json.dumps(part, sort_keys=True) for part in parts)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise StageError(f"{path} not found\n  `dvc repro register` runs the stages before, which write it")
    return path


def _read(path: Path) -> dict:
    if path == paths.GATE and not path.is_file():
        raise StageError(f"{path} not found\n  `dvc repro report` runs the stage that writes it")
    try:
        return json.loads(_existing(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StageError(f"{path} is not JSON: {error}\n  delete it and run `dvc repro`, which writes it") from error


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    with stage("register"):
        main()
