"""Promotion: which registered version is Production, why, since when, and the way back.

The alias `production` is the truth that programs read; it moves in one transaction of the store. A promotion first
writes down what it is about to do, moves the alias, then the stage, and closes with an entry in the audit log. So a
process that is killed anywhere leaves either the old or the new version in Production, and a note by which the next
command completes or undoes what was begun (`recover`).

Audit log and note are kept in the registered model's tags, so that they live where the model lives: `audit.NNNN` is an
entry, `promoting.ID` a note. Both are the same JSON:
    {"id", "action": "promote"|"rollback", "from": version|null, "to": version, "who", "when" (UTC, ISO 8601),
     "verdict", "overridden": names of checks, "reason"}
"""

import contextlib
import datetime
import getpass
import json
import os
import random
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from busi import DISCLAIMER
from busi.evaluation import gate
from busi.evaluation.metrics import accuracy_difference
from busi.reporting import card
from pipeline.params import Params
from pipeline.paths import ROOT
from pipeline.registry import lineage
from pipeline.runtime.atomic_io import sha256
from pipeline.runtime.errors import StageError
from pipeline.runtime.locks import scratch
from pipeline.tracking import store as tracking
from pipeline.tracking.store import ModelVersion

NAME = "busi-densenet121"
SYNTHETIC_NAME = "busi-densenet121-phantom"

SMOKE_TAG, SMOKE_PASSED = "smoke", "passed"
SMOKE_SECONDS = 300
SMOKE_TOLERANCE = 1e-3  # of a probability: another processor changes the last digits, another model changes more

# What somebody may answer for with a reason. The other checks say that a version is not what it is taken for.
FORCIBLE = ("verdict", "not_worse_than_production")

AUDIT, NOTE = "audit.", "promoting."
PATIENCE = 60  # seconds that a promotion may take; after them the note of another machine is a killed process's
LONGEST_REASON = 2000  # characters; a tag of MLflow holds 5000
TRIES = 5  # to be the only one who promotes, where several begin in the same moment
Agree = Callable[[ModelVersion, ModelVersion | None, list[dict]], None]

SHOWN = 10  # entries of the audit log in the model's description


def registered_name(data: Mapping) -> str:
    """The model's name in the registry; a model of synthetic images has one of its own and never replaces another."""
    return SYNTHETIC_NAME if data["synthetic"] else NAME


# Choosing and checking


def choose(name: str, number: int | None) -> ModelVersion:
    """The version with this number, or the newest that passed the gate.

    Raises:
        StageError: there is no such version, or none has passed.
    """
    found = tracking.versions(name)
    if number is None:
        passed = [version for version in found if version.tags.get("verdict") == gate.PASSED]
        if not passed:
            raise StageError(
                f"no version of {name} has passed the gate, so there is nothing to promote\n"
                "  see reports/gate.json, or name a version with --force --reason"
            )
        return passed[0]
    for version in found:
        if int(version.version) == number:
            return version
    have = ", ".join(str(version.version) for version in reversed(found)) or "none"
    raise StageError(f"{name} has no version {number}; it has {have}\n  `make versions` shows them")


def run_checks(version: ModelVersion, params: Params, production: ModelVersion | None) -> list[dict]:
    """Every check of a promotion, each `{"name", "value", "threshold", "passed", "sentence"}` like a rule of the gate.

    Args:
        version: the candidate.
        params: `params.promote` switches checks off, `params.evaluate` says how intervals are made.
        production: the present Production version, or None.
    """
    with tracking.files_of(version) as files:
        whole = unaltered(version, files)
        checks = [verdict(version, files), finished(version), kind(version, files)]
        checks.append(whole if params.promote.unaltered else _off("unaltered"))
        if not params.promote.smoke:
            checks.append(_off("smoke"))
        elif not whole["passed"]:
            checks.append(_check("smoke", False, "Not tried: what was altered is not loaded."))
        else:
            checks.append(smoke(version, files))
        checks.append(not_worse_than_production(version, files, production, params))
    return checks


def verdict(version: ModelVersion, files: Path) -> dict:
    """The gate's verdict, from the file beside the model and not only from the tag, which anyone may edit."""
    said, decision = version.tags.get("verdict", "none"), _evidence(files, "gate.json")
    if decision is None:
        return _check("verdict", False, "The version carries no gate.json, so no gate has decided on it.")
    if decision["verdict"] != said:
        return _check(
            "verdict", False, f"The tag says {said}, gate.json says {decision['verdict']}: the tag was edited."
        )
    if said == gate.PASSED:
        return _check("verdict", True, "The gate passed it.")
    rows = [row for row in decision["rules"] if row["passed"] is False]
    failed = "; ".join(f"{row['name']} {row['value']:.3f}, threshold {row['threshold']:.3f}" for row in rows)
    return _check("verdict", False, f"The gate rejected it by {failed}.")


def finished(version: ModelVersion) -> dict:
    """Its run ended well, its files are there and it was tried at registration."""
    if not tracking.is_finished(version):
        return _check("finished", False, "Its run has not ended well, or its model is not complete.")
    tried = version.tags.get(SMOKE_TAG)
    if tried != SMOKE_PASSED:
        return _check(
            "finished", False, f"The trial at registration: {tried or 'none'}; `dvc repro` or `make run` tries."
        )
    return _check("finished", True, "Its run ended well and it was tried at registration.")


def kind(version: ModelVersion, files: Path) -> dict:
    """A model of synthetic images is never taken for one of real images, nor the other way round."""
    synthetic = (_evidence(files, "lineage.json") or {}).get("synthetic")
    if synthetic not in ("true", "false"):
        return _check("kind", False, "It does not say whether it was trained on synthetic images.")
    if version.tags.get("synthetic") != synthetic:
        return _check("kind", False, "Its tag `synthetic` says other than lineage.json: the tag was edited.")
    expected = registered_name({"synthetic": synthetic == "true"})
    images = "synthetic" if synthetic == "true" else "real"
    if version.name != expected:
        return _check(
            "kind", False, f"It was trained on {images} images and belongs to {expected}, not {version.name}."
        )
    return _check("kind", True, f"It was trained on {images} images, as its name says.")


def unaltered(version: ModelVersion, files: Path) -> dict:
    """Its files are those of the registration, by checksum."""
    changes = tracking.altered_files(version, files)
    if changes:
        return _check("unaltered", False, f"Since registration: {'; '.join(changes)}.", value=len(changes), threshold=0)
    return _check("unaltered", True, "Its files are those of the registration.", value=0, threshold=0)


def smoke(version: ModelVersion, files: Path) -> dict:
    """Load the version in a fresh process that knows only the store, and have it classify known images."""
    with scratch(tracking.FOLDER, "trying") as folder:
        try:
            images = tracking.smoke_images(version, folder)
        except StageError as error:
            return _check("smoke", False, f"Its test images can't be read: {str(error).splitlines()[0]}.")
        expected = _evidence(files, "smoke.json")
        if not expected:
            return _check("smoke", False, "The version carries no smoke.json, which says what is expected of it.")
        for row in expected:
            image = images / f"{row['sha256']}.image"
            if not image.is_file() or sha256(image) != row["sha256"]:
                return _check("smoke", False, f"The test image {row['path']} was changed or is missing.")
        (images / "smoke.json").write_bytes((files / "smoke.json").read_bytes())
        script, uri = ROOT / "pipeline" / "smoke.py", f"models:/{version.name}/{version.version}"
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(script), uri, str(images.resolve())],
                env={**os.environ, "MLFLOW_TRACKING_URI": tracking.store_address()},
                capture_output=True, text=True, timeout=SMOKE_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return _check("smoke", False, f"It did not answer within {SMOKE_SECONDS} s.")
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        return _check("smoke", False, f"It can't be loaded and used: {reason}")
    found = json.loads(done.stdout.splitlines()[-1])
    gap = found["largest_difference"]
    sentence = f"{found['images']} test images are classified as at evaluation, to {gap:.1g} of a probability."
    if gap > SMOKE_TOLERANCE:
        sentence = f"Its probabilities differ by up to {gap:.3f} from those at evaluation."
    return _check("smoke", gap <= SMOKE_TOLERANCE, sentence, value=round(gap, 6), threshold=SMOKE_TOLERANCE)


def not_worse_than_production(
    version: ModelVersion, files: Path, production: ModelVersion | None, params: Params
) -> dict:
    """The paired difference of accuracy to the Production version, on the test images that both were tested on."""
    name, threshold = "not_worse_than_production", params.promote.not_worse_than_production
    if threshold is None:
        return _off(name)

    def passes(sentence: str) -> dict:
        return _check(name, True, sentence, threshold=threshold)

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
        with tracking.files_of(production) as others:
            before = pd.read_csv(others / "predictions.csv", dtype={"duplicate_group": str})
    except (StageError, OSError) as error:
        reason = str(error).splitlines()[0]
        return _check(
            name, False, f"Predictions of version {production.version} can't be read: {reason}", threshold=threshold
        )
    after = pd.read_csv(files / "predictions.csv", dtype={"duplicate_group": str})
    both = after.merge(before[["path", "predicted"]], on="path", suffixes=("", "_before"))
    if both.empty:
        return passes(f"Not compared: no test image in common with version {production.version}.")
    label = both["label"].to_numpy()
    gain = accuracy_difference(
        both["predicted"].to_numpy() == label,
        both["predicted_before"].to_numpy() == label,
        both["duplicate_group"].to_numpy(),
        params.evaluate.bootstrap,
        params.evaluate.confidence,
        params.evaluate.seed,
    )
    sentence = (
        f"Accuracy changes by {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) against version "
        f"{production.version}, on {gain['n']} test images of both."
    )
    return _check(name, gain["low"] >= threshold, sentence, value=gain["low"], threshold=threshold)


# Promotion and the way back


def promote(
    name: str,
    number: int | None,
    params: Params,
    force: bool,
    reason: str,
    agree: Callable[[object, object, list], None],
) -> dict:
    """Make a version the Production one.

    Args:
        name: the registered model.
        number: version, or None for the newest that passed the gate. The present Production version may be named
            to set right what was moved by hand.
        force: override the checks of `FORCIBLE`; needs a reason.
        reason: kept in the audit log, and on the version when something was overridden.
        agree: called with the version, the present Production version or None and the checks, before anything moves;
            raises to stop it.

    Returns:
        The entry of the audit log.

    Raises:
        StageError: there is no such version, it is Production already, or a check failed.
    """
    chosen = choose(name, number)
    production = _production(name)
    if production is not None and str(production.version) == str(chosen.version) and _agrees(name):
        raise StageError(f"{name} version {chosen.version} is in Production already; nothing was changed")
    checks = run_checks(chosen, params, production)
    failed = [check for check in checks if check["passed"] is False]
    hard = [check for check in failed if check["name"] not in FORCIBLE]
    refused = hard if force else failed
    if refused:
        lines = [f"  {check['name']}: {check['sentence']}" for check in failed]
        mend = (
            "  these can't be overridden: register the model anew with `make run`"
            if hard
            else "  to promote it all the same and keep the reason on record: --force --reason 'TEXT'"
        )
        raise StageError("\n".join([f"{name} version {chosen.version} is refused", *lines, mend]))
    if force and not reason.strip():
        raise StageError("--force needs a reason, which stays on record: --reason 'TEXT'")
    agree(chosen, production, checks)
    return _move("promote", chosen, production, [check["name"] for check in failed], reason)


def rollback(name: str, reason: str, agree: Agree) -> dict:
    """Go back to the version that was Production before the present one, by the audit log.

    Its verdict and how it compares are not asked again, but it must be whole. Arguments and errors as for `promote`.
    """
    before = production_stack(audit_log(name).values())
    production = _production(name)
    if production is None:
        raise StageError(f"{name} has no Production version, so there is nothing to go back from")
    if not before or before[-1] != str(production.version):
        raise StageError(
            f"the audit log says that version {before[-1] if before else 'none'} is in Production, the alias says "
            f"{production.version}: somebody has gone round the gate\n  `make verify` shows it; promote a version to "
            "set both right"
        )
    if len(before) < 2:
        raise StageError(f"no version of {name} was in Production before version {production.version}")
    chosen = choose(name, int(before[-2]))
    with tracking.files_of(chosen) as files:
        checks = [finished(chosen), kind(chosen, files), unaltered(chosen, files)]
        if checks[-1]["passed"]:
            checks.append(smoke(chosen, files))
    failed = [check for check in checks if not check["passed"]]
    if failed:
        lines = [f"  {check['name']}: {check['sentence']}" for check in failed]
        raise StageError(
            "\n".join([f"{name} version {chosen.version} can't be gone back to", *lines, "  promote another version"])
        )
    agree(chosen, production, checks)
    return _move("rollback", chosen, production, [], reason)


def production_stack(entries: Iterable[Mapping]) -> list[str]:
    """The versions that were Production, each on those it replaced; the last is the present one.

    A promotion puts one on top and a rollback takes one off, so that a second rollback goes back further.
    """
    stack = []
    for entry in entries:
        if entry["action"] == "rollback" and len(stack) > 1 and stack[-2] == entry["to"]:
            stack.pop()
        elif stack[-1:] != [entry["to"]]:
            stack.append(entry["to"])
    return stack


def audit_log(name: str) -> dict[int, dict]:
    """The audit log of a registered model: number to entry, oldest first."""
    return _log_of(tracking.model_tags(name))


def _log_of(tags: Mapping[str, str]) -> dict[int, dict]:
    numbers = sorted(int(tag.removeprefix(AUDIT)) for tag in tags if tag.startswith(AUDIT))
    return {number: json.loads(tags[f"{AUDIT}{number:04d}"]) for number in numbers}


def recover(name: str) -> list[str]:
    """Complete or undo promotions that were cut off; what was done. Every command begins with it.

    Raises:
        StageError: another machine may still be at it.
    """
    tracking.connect()
    with tracking.locked():
        return _recover(name)


def _recover(name: str) -> list[str]:
    notes = _notes(name)
    # In the embedded store the lock says that nobody is at it; a server has clients that this lock does not hold
    if not tracking.is_embedded() and (busy := [note for note in notes.values() if _age(note) < PATIENCE]):
        raise StageError(
            f"{busy[0]['who']} began to {busy[0]['action']} {name} version {busy[0]['to']} {_age(busy[0]):.0f} s ago\n"
            f"  wait for it; after {PATIENCE} s it is taken for cut off, and completed or undone"
        )
    done = []
    for tag, note in notes.items():
        moved = tracking.production_version(name) == note["to"]
        if moved:
            _close(name, note)
        else:
            tracking.delete_model_tag(name, tag)
        what = "completed" if moved else "undone"
        done.append(f"{what}: {note['action']} of version {note['to']}, begun by {note['who']} at {note['when']}")
    return done


def _move(action: str, to: ModelVersion, production: ModelVersion | None, overridden: list[str], reason: str) -> dict:
    """Move Production: note, alias, stage, entry, note gone. From the alias on it is so."""
    name, before = to.name, None if production is None else str(production.version)
    if len(reason) > LONGEST_REASON:
        raise StageError(f"the reason has {len(reason)} characters; at most {LONGEST_REASON} fit into the audit log")
    note = {
        "action": action,
        "from": before,
        "to": str(to.version),
        "who": _who(),
        "when": _now().isoformat(timespec="seconds"),
        "verdict": to.tags.get("verdict", "none"),
        "overridden": overridden,
        "reason": reason.strip(),
        "id": uuid.uuid4().hex,
    }
    with tracking.locked():
        _recover(name)
        _announce(name, note)
        now = tracking.production_version(name)
        if now != before:
            tracking.delete_model_tag(name, f"{NOTE}{note['id']}")
            raise StageError(
                f"{name} version {now} is in Production by now, not {before}: somebody was faster\n"
                "  `make history` says who; look again and repeat"
            )
        tracking.set_alias(name, note["to"])
        _close(name, note)
    return note


def _announce(name: str, note: Mapping) -> None:
    """Write the note, and see that it is the only one.

    A server orders writes and reads: of two that write first and read then, one at least sees the other. It draws
    back, so that never two go on; both may draw back, and try again after a while of chance.
    """
    tag = f"{NOTE}{note['id']}"
    for _ in range(TRIES):
        tracking.set_model_tag(name, tag, json.dumps(note, ensure_ascii=False))
        others = [other for found, other in _notes(name).items() if found != tag]
        if not others:
            return
        tracking.delete_model_tag(name, tag)
        time.sleep(random.uniform(0.2, 1.5))  # noqa: S311 - nothing secret
    raise StageError(f"{others[0]['who']} is promoting a version of {name}\n  `make history` says what came of it")


def _close(name: str, note: Mapping) -> None:
    """What follows once the alias has moved; may be repeated."""
    tracking.stages(name, production=note["to"])
    log = audit_log(name)
    if note["id"] not in [entry["id"] for entry in log.values()]:
        number = max(log, default=0) + 1
        log[number] = dict(note)
        tracking.set_model_tag(name, f"{AUDIT}{number:04d}", json.dumps(note, ensure_ascii=False))
    if note["overridden"]:
        number = next(number for number, entry in log.items() if entry["id"] == note["id"])
        text = f"{note['reason']} ({', '.join(note['overridden'])} overridden by {note['who']}, {note['when']})"
        tracking.set_version_tags(name, note["to"], {f"override.{number:04d}": text})
    tracking.describe_model(name, _description(log))
    tracking.delete_model_tag(name, f"{NOTE}{note['id']}")


def _notes(name: str) -> dict[str, dict]:
    return _notes_of(tracking.model_tags(name))


def _notes_of(tags: Mapping[str, str]) -> dict[str, dict]:
    return {tag: json.loads(value) for tag, value in tags.items() if tag.startswith(NOTE)}


def _age(note: Mapping) -> float:
    return (_now() - datetime.datetime.fromisoformat(note["when"])).total_seconds()


# Verification


def verify(name: str, every: bool = False) -> list[dict]:
    """Hold registry, alias, stage, audit log and files against each other; changes nothing.

    Args:
        name: the registered model.
        every: look at the files of every version, not of the Production version alone.

    Returns:
        A list of `{"name", "value", "threshold", "passed", "sentence"}`; one that failed says that somebody has gone
        round the gate, or that a promotion was cut off. One that is under way is waited for.
    """
    log, alias, checks = _verify_moves(name)
    for version in tracking.versions(name):
        if every or str(version.version) == alias:
            try:
                with tracking.files_of(version) as files:
                    found = _verify_files(version, files, log, alias)
            except StageError as error:
                found = [_check("files", False, str(error).splitlines()[0])]
            checks += [{**check, "name": f"{check['name']} of version {version.version}"} for check in found]
    return checks


@contextlib.contextmanager
def production_files(name: str) -> Iterator[tuple[ModelVersion, Path]]:
    """The Production version and a copy of its files for the length of a block, after `verify`; for what serves it.

    The checksums are those of the copy itself, so what is loaded from it is what was registered.

    Raises:
        StageError: there is no Production version, or something does not agree.
    """
    log, number, checks = _verify_moves(name)
    if number is None:
        raise StageError(
            f"{name} has no Production version\n  `make promote` makes the newest that passed the gate one"
        )
    version = choose(name, int(number))
    with tracking.files_of(version) as files:
        checks += _verify_files(version, files, log, number)
        wrong = [f"  {check['name']}: {check['sentence']}" for check in checks if check["passed"] is False]
        if wrong:
            raise StageError("\n".join([f"{name} version {number} is not served", *wrong]))
        yield version, files


def _verify_moves(name: str) -> tuple[dict[int, dict], str | None, list[dict]]:
    """The audit log, the Production version, and what `verify` finds of the moves; one under way is waited for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        tags = tracking.model_tags(name)
        log, alias = _log_of(tags), tracking.production_version(name)
        checks = [
            _verify_log(log, _notes_of(tags)),
            _verify_alias(alias, production_stack(log.values())),
            _verify_stages(tracking.stages(name), alias),
        ]
        if all(check["passed"] for check in checks) or time.monotonic() > deadline or not _is_moving(name, tags):
            return log, alias, checks
        time.sleep(0.2)


def _is_moving(name: str, before: Mapping[str, str]) -> bool:
    """Whether a promotion is under way, or has been since the model's tags were `before`.

    It begins with a note and ends with an entry, both of which are tags. In the embedded store it holds the lock
    meanwhile; of a server's clients there is only the note to go by.
    """
    at_it = not tracking.is_embedded() or tracking.is_locked()
    tags = tracking.model_tags(name)
    return tags != before or (at_it and any(_age(note) < PATIENCE for note in _notes_of(tags).values()))


def _verify_log(log: Mapping[int, Mapping], notes: Mapping[str, Mapping]) -> dict:
    for note in notes.values():
        sentence = f"{note['who']} began to {note['action']} version {note['to']}; the next command sets it right."
        return _check("audit log", False, sentence)
    before, unknown = None, []
    for place, (number, entry) in enumerate(log.items(), start=1):
        if number != place:
            return _check("audit log", False, f"Entry {place} is missing: it was deleted by hand.")
        if entry["from"] != before:
            unknown.append(f"; entry {number} found version {entry['from']} in Production, where no entry had put it")
        before = entry["to"]
    count = f"{len(log)} {'entry' if len(log) == 1 else 'entries'}, no gap"
    # What was moved by hand and set right by a later entry stays in sight, but is not so any more
    return _check("audit log", True, f"{count}{''.join(unknown)}.")


def _verify_alias(alias: str | None, stack: list[str]) -> dict:
    logged = stack[-1] if stack else None
    if alias == logged:
        return _check(
            "alias", True, f"It names version {alias}, as the log says." if alias else "No version is Production."
        )
    return _check(
        "alias", False, f"It names version {alias}, but by the log {logged} is in Production: it was moved by hand."
    )


def _verify_stages(stages: Mapping[str, str], alias: str | None) -> dict:
    if not stages:
        return _check("stage", True, "This MLflow has no stages.") if alias else _check("stage", True, "No version.")
    wrong = []
    in_production = [number for number, stage in stages.items() if stage == tracking.PRODUCTION.capitalize()]
    wrong += [
        f"version {number} is in stage Production and not the alias's" for number in in_production if number != alias
    ]
    if stages and alias is not None and alias not in in_production:
        wrong.append(f"version {alias} is in stage {stages.get(alias, 'none')}, not Production")
    if wrong:
        return _check("stage", False, f"{'; '.join(wrong)}: moved by hand.")
    return _check("stage", True, "Stage and alias agree.")


def _verify_files(version: ModelVersion, files: Path, log: Mapping[int, Mapping], alias: str | None) -> list[dict]:
    whole, decided = unaltered(version, files), verdict(version, files)
    origin = _evidence(files, "lineage.json") or {}
    edited = [field for field in lineage.FIELDS if version.tags.get(field) != origin.get(field)]
    tags = _check("tags", not edited, f"Edited: {', '.join(edited)}." if edited else "They say what the files say.")
    number = str(version.version)
    entries = [entry for entry in log.values() if entry["to"] == number]
    overridden = any("verdict" in entry["overridden"] for entry in entries)
    in_production = bool(entries) or number == alias
    if not decided["passed"] and version.tags.get("verdict") == gate.FAILED and (overridden or not in_production):
        said = "overridden on record" if overridden else "never in Production"
        decided = {**decided, "passed": True, "sentence": f"{decided['sentence'][:-1]}; {said}."}
    return [whole, decided, tags]


def short_time(when: str) -> str:
    """An entry's `when` to the minute."""
    return f"{when[:16].replace('T', ' ')} UTC"


# Below this line nothing is for other modules


def _agrees(name: str) -> bool:
    """Whether alias, stage and audit log say the same."""
    alias, stack = tracking.production_version(name), production_stack(audit_log(name).values())
    return _verify_alias(alias, stack)["passed"] and _verify_stages(tracking.stages(name), alias)["passed"]


def _production(name: str) -> ModelVersion | None:
    number = tracking.production_version(name)
    return None if number is None else choose(name, int(number))


def _check(name: str, passed: bool, sentence: str, value: float | None = None, threshold: float | None = None) -> dict:
    return {"name": name, "value": value, "threshold": threshold, "passed": passed, "sentence": sentence}


def _off(name: str) -> dict:
    return {"name": name, "value": None, "threshold": None, "passed": None, "sentence": "Switched off in params.yaml."}


def _evidence(files: Path, name: str) -> dict | list | None:
    path = files / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _description(log: Mapping[int, Mapping]) -> str:
    rows = []
    for entry in list(log.values())[::-1][:SHOWN]:
        moved = f"{entry['from'] or 'none'} → {entry['to']}"
        verdict = entry["verdict"] + (", overridden" if entry["overridden"] else "")
        cells = [short_time(entry["when"]), entry["action"], moved, verdict, entry["who"], _cell(entry["reason"])]
        rows.append(f"| {' | '.join(cells)} |")
    head = "| when | what | version | verdict | who | reason |\n| --- | --- | --- | --- | --- | --- |"
    current = list(log.values())[-1]["to"]
    lines = [f"**{DISCLAIMER}**", "", f"In Production: version {current}.", "", head, *rows, ""]
    return card.describe("\n".join(lines), tracking.DESCRIPTION_LIMIT, "")


def _cell(text: str) -> str:
    """A reason in a table: short, and without what Markdown would take for markup."""
    return textwrap.shorten(text, 80, placeholder=" ...").replace("|", "\\|").replace("<", "&lt;") or "-"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
