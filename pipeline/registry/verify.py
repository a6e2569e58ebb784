"""Verification: whether registry, alias, stage, audit log and files agree. It only reads.

A failed check means that somebody has gone round the gate, or that a move was cut off.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from busi.evaluation import gate
from pipeline.registry import audit_log, checks, lineage
from pipeline.registry.checks import CheckResult, check
from pipeline.registry.names import choose
from pipeline.runtime.errors import StageError
from pipeline.tracking import connection, logged_model, versions
from pipeline.tracking.versions import ModelVersion


def verify(name: str, every: bool = False) -> list[CheckResult]:
    """Hold registry, alias, stage, audit log and files against each other. A move that is under way is waited for.

    Args:
        name: the registered model.
        every: look at every version that was not given up, not only at the Production version and the one that a
            rollback goes back to.
    """
    log, alias, found = _verify_moves(name)
    present = {str(version.version): version for version in versions.list_versions(name)}
    stack = audit_log.production_stack(log.values())
    # Found lost by a promotion that followed: either the version says so, or it was gone, so that nothing was replaced
    given_up = {number for number, version in present.items() if versions.LOST_TAG in version.tags}
    given_up |= {one["to"] for one, then in itertools.pairwise(log.values()) if not then["from"]} - present.keys()
    earlier = [number for number in stack[:-1] if number not in given_up]
    wanted = {alias, *stack[-1:], *earlier[-1:]} - {None}
    for number in sorted(wanted - present.keys(), key=int):
        found.append(
            check(f"version {number}", False, "It was deleted; `busi rollback` goes back to the last whole one.")
        )
    for number, version in present.items():
        if number in wanted or (every and number not in given_up):
            lost = versions.lost(version)
            of_version = [check("run", lost is None, lost or "Its run and its logged model are there.")]
            try:
                with logged_model.files_of(version) as files:
                    of_version += _verify_files(version, files, log, alias)
            except StageError as error:
                of_version.append(check("files", False, str(error).splitlines()[0]))
            found += [one._replace(name=f"{one.name} of version {number}") for one in of_version]
    return found


@contextlib.contextmanager
def production_files(name: str) -> Iterator[tuple[ModelVersion, Path]]:
    """The Production version and a copy of its files for the length of a block, verified; for what serves it.

    The checksums are those of the copy itself, so what is loaded from it is what was registered.

    Raises:
        StageError: there is no Production version, or something does not agree.
    """
    log, number, found = _verify_moves(name)
    if number is None:
        way = "`busi promote` promotes the newest version that passed the gate"
        if stack := audit_log.production_stack(log.values()):
            way = f"version {stack[-1]} was, until it or its alias was deleted; `busi rollback` goes back, or {way}"
        raise StageError(f"{name} has no Production version\n  {way}")
    version = choose(name, int(number))
    with logged_model.files_of(version) as files:
        found += _verify_files(version, files, log, number)
        if failed := checks.failures(found):
            raise StageError("\n".join([f"{name} version {number} is not served", *checks.lines(failed)]))
        yield version, files


def agrees(name: str) -> bool:
    """Whether alias, stage and audit log say the same."""
    alias, stack = versions.production_version(name), audit_log.production_stack(audit_log.entries(name).values())
    return bool(_verify_alias(alias, stack).passed and _verify_stages(versions.stages(name), alias).passed)


def _verify_moves(name: str) -> tuple[dict[int, dict], str | None, list[CheckResult]]:
    """The audit log, the Production version, and what `verify` finds of the moves; one under way is waited for."""
    deadline = time.monotonic() + audit_log.PATIENCE
    while True:
        tags = versions.model_tags(name)
        log, alias = audit_log.entries_in(tags), versions.production_version(name)
        found = [
            _verify_log(log, audit_log.notes_in(tags)),
            _verify_alias(alias, audit_log.production_stack(log.values())),
            _verify_stages(versions.stages(name), alias),
        ]
        if all(one.passed for one in found) or time.monotonic() > deadline or not _is_moving(name, tags):
            return log, alias, found
        time.sleep(0.2)


def _is_moving(name: str, before: Mapping[str, str]) -> bool:
    """Whether a move is under way, or has been since the model's tags were `before`.

    It begins with a note and ends with an entry, both of which are tags. In the embedded store it holds the lock
    meanwhile; of a server's clients there is only the note to go by.
    """
    is_held = not connection.is_embedded() or connection.is_locked()
    tags = versions.model_tags(name)
    notes = audit_log.notes_in(tags).values()
    return tags != before or (is_held and any(audit_log.age(note) < audit_log.PATIENCE for note in notes))


def _verify_log(log: Mapping[int, Mapping], notes: Mapping[str, Mapping]) -> CheckResult:
    for note in notes.values():
        sentence = f"{note['who']} began to {note['action']} version {note['to']}; the next command sets it right."
        return check("audit log", False, sentence)
    before, unknown = None, []
    for place, (number, entry) in enumerate(log.items(), start=1):
        if number != place:
            return check("audit log", False, f"Entry {place} is missing: it was deleted by hand.")
        if entry["from"] != before:
            unknown.append(f"; entry {number} found version {entry['from']} in Production, where no entry had put it")
        before = entry["to"]
    count = f"{len(log)} {'entry' if len(log) == 1 else 'entries'}, no gap"
    # A manual move that a later entry repaired is reported but does not fail the check
    return check("audit log", True, f"{count}{''.join(unknown)}.")


def _verify_alias(alias: str | None, stack: list[str]) -> CheckResult:
    logged = stack[-1] if stack else None
    if alias == logged:
        sentence = f"It names version {alias}, as the log says." if alias else "No version is Production."
        return check("alias", True, sentence)
    if alias is None:
        sentence = f"There is none, but by the log version {logged} is in Production: one of the two was deleted."
        return check("alias", False, sentence)
    sentence = f"It names version {alias}, but by the log {logged} is in Production: it was moved by hand."
    return check("alias", False, sentence)


def _verify_stages(stages: Mapping[str, str], alias: str | None) -> CheckResult:
    if not stages:
        return check("stage", True, "This MLflow has no stages." if alias else "No version.")
    in_production = [number for number, stage in stages.items() if stage == versions.PRODUCTION.capitalize()]
    wrong = [
        f"version {number} is in stage Production and not the alias's" for number in in_production if number != alias
    ]
    if alias is not None and alias not in in_production:
        wrong.append(f"version {alias} is in stage {stages.get(alias, 'none')}, not Production")
    if wrong:
        return check("stage", False, f"{'; '.join(wrong)}: moved by hand.")
    return check("stage", True, "Stage and alias agree.")


def _verify_files(
    version: ModelVersion, files: Path, log: Mapping[int, Mapping], alias: str | None
) -> list[CheckResult]:
    whole = checks.integrity(version, files)
    if not whole.passed:
        return [whole]  # what the changed files say proves nothing
    decided = checks.verdict(version, files)
    origin = checks.evidence(files, "lineage.json") or {}
    edited = [field for field in lineage.FIELDS if version.tags.get(field) != origin.get(field)]
    tags = check("tags", not edited, f"Edited: {', '.join(edited)}." if edited else "They say what the files say.")
    number = str(version.version)
    entries = [entry for entry in log.values() if entry["to"] == number]
    overridden = any(checks.VERDICT in entry["overridden"] for entry in entries)
    in_production = bool(entries) or number == alias
    if not decided.passed and version.tags.get("verdict") == gate.FAILED and (overridden or not in_production):
        reason = "overridden on record" if overridden else "never in Production"
        decided = decided._replace(passed=True, sentence=f"{decided.sentence[:-1]}; {reason}.")
    return [whole, decided, tags]
