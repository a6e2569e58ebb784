"""The checks of a promotion, each a `CheckResult` like a rule of the gate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from busi.evaluation import gate
from busi.evaluation.metrics import accuracy_difference
from busi.evaluation.records import CheckResult, Resampling
from pipeline.params import Params
from pipeline.paths import ROOT, STORE
from pipeline.registry.names import registered_name
from pipeline.runtime.atomic_io import sha256
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.locks import scratch
from pipeline.tracking import connection, logged_model, versions
from pipeline.tracking.versions import ModelVersion

# Names of checks as the audit log and params.yaml keep them
VERDICT, INTEGRITY, SMOKE = "verdict", "unaltered", "smoke"
NOT_WORSE = "not_worse_than_production"
# What --force overrides with a reason. The other checks say that a version is broken or is not what its name says.
FORCIBLE = (VERDICT, NOT_WORSE)

SMOKE_TAG, SMOKE_PASSED = "smoke", "passed"
SMOKE_SCRIPT = ROOT / "pipeline" / "registry" / "smoke_test.py"
SMOKE_SECONDS = 300
SMOKE_TOLERANCE = 1e-3  # of a probability: another processor changes the last digits, another model changes more


def run_checks(version: ModelVersion, params: Params, production: ModelVersion | None) -> list[CheckResult]:
    """Every check of a promotion.

    Args:
        version: the candidate.
        params: `params.promote` switches checks off, `params.evaluate` says how intervals are made.
        production: the present Production version, or None.
    """
    with logged_model.files_of(version) as files:
        whole = integrity(version, files)
        checks = [verdict(version, files), finished(version), kind(version, files)]
        checks.append(whole if params.promote.unaltered else _off(INTEGRITY))
        if not params.promote.smoke:
            checks.append(_off(SMOKE))
        elif not whole.passed:
            checks.append(check(SMOKE, False, "Not run: files that were altered are not loaded."))
        else:
            checks.append(smoke_test(version, files))
        checks.append(not_worse_than_production(version, files, production, params))
    return checks


def verdict(version: ModelVersion, files: Path) -> CheckResult:
    """The gate's verdict, from the file beside the model and not only from the tag, which anyone may edit."""
    tag, decision = version.tags.get("verdict", "none"), evidence(files, "gate.json")
    if decision is None:
        return check(VERDICT, False, "The version carries no gate.json, so no gate has decided on it.")
    if decision["verdict"] != tag:
        return check(VERDICT, False, f"The tag says {tag}, gate.json says {decision['verdict']}: the tag was edited.")
    if tag == gate.PASSED:
        return check(VERDICT, True, "The gate passed it.")
    rows = [row for row in decision["rules"] if row["passed"] is False]
    failed = "; ".join(f"{row['name']} {row['value']:.3f}, threshold {row['threshold']:.3f}" for row in rows)
    return check(VERDICT, False, f"The gate rejected it by {failed}.")


def finished(version: ModelVersion) -> CheckResult:
    """Its run ended well, its files are there and it passed the smoke test at registration."""
    if lost := versions.lost(version):
        return check("finished", False, lost)
    tried = version.tags.get(SMOKE_TAG)
    if tried != SMOKE_PASSED:
        return check(
            "finished",
            False,
            f"Its smoke test at registration: {tried or 'none'}; `busi run` repeats it.",
        )
    return check("finished", True, "Its run ended well and it passed the smoke test at registration.")


def kind(version: ModelVersion, files: Path) -> CheckResult:
    """The version belongs to the registered model it is in: that of synthetic images, or that of real ones."""
    synthetic = (evidence(files, "lineage.json") or {}).get("synthetic")
    if synthetic not in ("true", "false"):
        return check("kind", False, "Its lineage.json does not say whether it was trained on synthetic images.")
    if version.tags.get("synthetic") != synthetic:
        return check("kind", False, "Its tag `synthetic` says other than lineage.json: the tag was edited.")
    expected = registered_name({"synthetic": synthetic == "true"})
    images = "synthetic" if synthetic == "true" else "real"
    if version.name != expected:
        return check("kind", False, f"It was trained on {images} images and belongs to {expected}, not {version.name}.")
    return check("kind", True, f"It was trained on {images} images, as its name says.")


def integrity(version: ModelVersion, files: Path) -> CheckResult:
    """Its files are those of the registration, by checksum."""
    changes = logged_model.altered_files(version, files)
    if changes:
        return check(INTEGRITY, False, f"Since registration: {'; '.join(changes)}.", value=len(changes), threshold=0)
    return check(INTEGRITY, True, "Its files are those of the registration.", value=0, threshold=0)


def damage(version: ModelVersion) -> str | None:
    """What was deleted or changed of a version since its registration, as a sentence; None when it is whole.

    Raises:
        ExternalServiceError: the store does not answer.
    """
    if lost := versions.lost(version):
        return lost
    try:
        with logged_model.files_of(version) as files:
            whole = integrity(version, files)
    except ExternalServiceError:
        raise
    except StageError as error:
        return str(error).splitlines()[0]
    return None if whole.passed else whole.sentence


def smoke_test(version: ModelVersion, files: Path) -> CheckResult:
    """Load the version in a fresh process that knows only the store, and have it classify known images."""
    with scratch(STORE, "trying") as folder:
        try:
            images = versions.smoke_images(version, folder)
        except StageError as error:
            return check(SMOKE, False, f"Its test images can't be read: {str(error).splitlines()[0]}.")
        expected = evidence(files, "smoke.json")
        if not expected:
            return check(SMOKE, False, "The version carries no smoke.json, which says what is expected of it.")
        for row in expected:
            image = images / f"{row['sha256']}.image"
            if not image.is_file() or sha256(image) != row["sha256"]:
                return check(SMOKE, False, f"The test image {row['path']} was changed or is missing.")
        (images / "smoke.json").write_bytes((files / "smoke.json").read_bytes())
        uri = f"models:/{version.name}/{version.version}"
        print(f"trying version {version.version} in a fresh process", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(SMOKE_SCRIPT), uri, str(images.resolve())],
                env={**os.environ, "MLFLOW_TRACKING_URI": connection.store_address()},
                capture_output=True, encoding="utf-8", errors="replace", timeout=SMOKE_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return check(SMOKE, False, f"It did not answer within {SMOKE_SECONDS} s.")
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        return check(SMOKE, False, f"It can't be loaded and used: {reason}")
    found = json.loads(done.stdout.splitlines()[-1])
    gap = found["largest_difference"]
    sentence = f"{found['images']} test images are classified as at evaluation, to {gap:.1g} of a probability."
    if gap > SMOKE_TOLERANCE:
        sentence = f"Its probabilities differ by up to {gap:.3f} from those at evaluation."
    return check(SMOKE, gap <= SMOKE_TOLERANCE, sentence, value=round(gap, 6), threshold=SMOKE_TOLERANCE)


def not_worse_than_production(
    version: ModelVersion, files: Path, production: ModelVersion | None, params: Params
) -> CheckResult:
    """The paired difference of accuracy to the Production version, on the test images that both were tested on."""
    threshold = params.promote.not_worse_than_production
    if threshold is None:
        return _off(NOT_WORSE)

    def passes(sentence: str) -> CheckResult:
        return check(NOT_WORSE, True, sentence, threshold=threshold)

    if production is None:
        return passes("There is no Production version to compare with.")
    if str(production.version) == str(version.version):
        return passes("It is the Production version.")
    here, there = version.tags.get("data_md5"), production.tags.get("data_md5")
    if here != there:
        return passes(
            f"Not compared: Production is version {production.version}, trained on another data version ({there})."
        )
    try:
        with logged_model.files_of(production) as others:
            before = _predictions(others)
    except (StageError, OSError) as error:
        reason = f"predictions of version {production.version} can't be read: {str(error).splitlines()[0]}"
        if versions.lost(production):  # it can't be served either; to stay with it would be no safer
            return passes(f"Not compared: {reason}")
        return check(NOT_WORSE, False, reason[0].upper() + reason[1:], threshold=threshold)
    both = _predictions(files).merge(before[["path", "predicted"]], on="path", suffixes=("", "_before"))
    if both.empty:
        return passes(f"Not compared: no test image in common with version {production.version}.")
    label = both["label"].to_numpy()
    gain = accuracy_difference(
        both["predicted"].to_numpy() == label,
        both["predicted_before"].to_numpy() == label,
        both["duplicate_group"].to_numpy(),
        Resampling(params.evaluate.bootstrap, params.evaluate.confidence, params.evaluate.seed),
    )
    sentence = (
        f"Accuracy changes by {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) against version "
        f"{production.version}, on {gain.n} test images of both."
    )
    return check(NOT_WORSE, gain.low >= threshold, sentence, value=gain.low, threshold=threshold)


def check(
    name: str, passed: bool, sentence: str, value: float | None = None, threshold: float | None = None
) -> CheckResult:
    """A `CheckResult` of a check that decides; most have no number."""
    return CheckResult(name, value, threshold, passed, sentence)


def failures(checks: list[CheckResult]) -> list[CheckResult]:
    """The checks that failed; one that is switched off did not."""
    return [one for one in checks if one.passed is False]


def lines(checks: list[CheckResult]) -> list[str]:
    """A line of an error message for each check."""
    return [f"  {one.name}: {one.sentence}" for one in checks]


def evidence(files: Path, name: str) -> dict | list | None:
    """The content of a JSON file beside the model, or None where the version carries none."""
    path = files / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _off(name: str) -> CheckResult:
    return CheckResult(name, None, None, None, "Switched off in params.yaml.")


def _predictions(files: Path) -> pd.DataFrame:
    return pd.read_csv(files / "predictions.csv", dtype={"duplicate_group": str})
