"""Moving the alias `production`: promotion, rollback, and completing or undoing a move that was cut off.

The alias is the truth that programs read; it moves in one transaction of the store, and setting it commits the move.
A move first writes a note of what it is about to do, sets the alias, then the stage, and closes with an entry in the
audit log. So a process that is killed anywhere leaves either the old or the new version in Production, and a note by
which the next command completes or undoes what was begun (`recover`).
"""

import random
import time
from collections.abc import Callable, Mapping

from pipeline.params import Params
from pipeline.registry import audit_log, checks, verify
from pipeline.registry.checks import CheckResult
from pipeline.registry.names import choose, production_of
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.tracking import connection, logged_model, versions
from pipeline.tracking.versions import ModelVersion

TRIES = 5  # to be the only one that promotes, where several begin at the same moment
Agree = Callable[[ModelVersion, ModelVersion | None, list[CheckResult]], None]


def promote(name: str, number: int | None, params: Params, force: bool, reason: str, agree: Agree) -> dict:
    """Make a version the Production one.

    Args:
        name: the registered model.
        number: version, or None for the newest that passed the gate. The present Production version may be named
            to set right what was moved by hand.
        params: switches checks off, see `checks.run_checks`.
        force: override the checks of `checks.FORCIBLE`; needs a reason.
        reason: kept in the audit log, and on the version when something was overridden.
        agree: called with the version, the present Production version or None and the checks, before anything moves;
            raises to stop it.

    Returns:
        The entry of the audit log.

    Raises:
        StageError: there is no such version, it is Production already, a check failed, or `force` has no reason.
    """
    if force and not reason.strip():
        raise StageError("--force needs a reason, which stays on record: --reason 'TEXT'; with make: REASON='TEXT'")
    chosen = choose(name, number)
    production = production_of(name)
    if production is not None and str(production.version) == str(chosen.version) and verify.agrees(name):
        raise StageError(f"{name} version {chosen.version} is in Production already; nothing was changed")
    found = checks.run_checks(chosen, params, production)
    failed = checks.failures(found)
    hard = [one for one in failed if one.name not in checks.FORCIBLE]
    if hard if force else failed:
        mend = (
            "  these can't be overridden: `busi run` completes an unfinished version;\n"
            "  where files or tags were changed, promote another version"
            if hard
            else "  to promote it all the same, on record: --force --reason 'TEXT'; with make: REASON='TEXT'"
        )
        raise StageError("\n".join([f"{name} version {chosen.version} is refused", *checks.lines(failed), mend]))
    agree(chosen, production, found)
    entry = _move("promote", chosen, production, [one.name for one in failed], reason)
    _give_up_damaged(name)
    return entry


def rollback(name: str, reason: str, agree: Agree) -> dict:
    """Go back to the last version that was Production before the present one and is whole, by the audit log.

    Also from a Production version that was deleted. Verdict and comparison are not checked again. A version that is
    passed over is named. Arguments and errors as for `promote`.
    """
    before = audit_log.production_stack(audit_log.entries(name).values())
    production = production_of(name)
    if not before and production is None:
        raise StageError(f"{name} has no Production version, so there is nothing to go back from")
    if production is not None and before[-1:] != [str(production.version)]:
        raise StageError(
            f"the audit log says that version {before[-1] if before else 'none'} is in Production, the alias says "
            f"{production.version}: the alias was moved by hand\n  `busi verify` shows it; promote a version to set "
            "both right"
        )
    if len(before) < 2:
        raise StageError(
            f"no version of {name} was in Production before version {before[-1]}\n"
            "  `busi run` registers the present model anew where it is lost, and `busi promote` promotes it"
        )
    passed_over = []
    for number in reversed(before[:-1]):
        chosen, found = _try_to_return(name, number)
        failed = checks.failures(found)
        if chosen is not None and not failed:
            for line in passed_over:
                print(line)
            agree(chosen, production, found)
            return _move("rollback", chosen, production, [], reason)
        passed_over += [f"version {number} can't become Production again", *checks.lines(failed)]
    raise StageError(
        "\n  ".join(
            [
                f"none of {name}'s earlier Production versions can become Production again",
                *passed_over,
                "promote another version; `busi run` registers the present model anew where it is lost",
            ]
        )
    )


def _try_to_return(name: str, number: str) -> tuple[ModelVersion | None, list[CheckResult]]:
    """A version that was Production, None where it is gone, and whether it is whole."""
    try:
        chosen = choose(name, int(number))
        found = [checks.finished(chosen)]
        if not found[0].passed:
            return chosen, found
        with logged_model.files_of(chosen) as files:
            found += [checks.kind(chosen, files), checks.integrity(chosen, files)]
            if found[-1].passed:
                found.append(checks.smoke_test(chosen, files))
    except ExternalServiceError:
        raise
    except StageError as error:
        return None, [checks.check("files", False, str(error).splitlines()[0])]
    return chosen, found


def recover(name: str) -> list[str]:
    """Complete or undo moves that were cut off; one sentence for each. Every command begins with it.

    Raises:
        StageError: another machine may be in the middle of a move.
    """
    connection.connect()
    with connection.locked():
        return _recover(name)


def _recover(name: str) -> list[str]:
    notes = audit_log.notes(name).values()
    # In the embedded store the lock keeps other moves out; a server has clients on other machines, which it does not
    if not connection.is_embedded() and (busy := [note for note in notes if audit_log.age(note) < audit_log.PATIENCE]):
        note = busy[0]
        raise StageError(
            f"{note['who']} began to {note['action']} {name} version {note['to']} {audit_log.age(note):.0f} s ago\n"
            f"  wait for it; after {audit_log.PATIENCE} s it counts as cut off, and is completed or undone"
        )
    done = []
    for note in notes:
        moved = versions.production_version(name) == note["to"]
        if moved:
            _close(name, note)
        else:
            audit_log.delete_note(name, note)
        what = "completed" if moved else "undone"
        done.append(f"{what}: {note['action']} of version {note['to']}, begun by {note['who']} at {note['when']}")
    return done


def _move(action: str, to: ModelVersion, production: ModelVersion | None, overridden: list[str], reason: str) -> dict:
    """Move Production: note, alias, stage, entry, note gone. Setting the alias commits the move."""
    name, before = to.name, None if production is None else str(production.version)
    note = audit_log.new_note(action, to, before, overridden, reason)
    with connection.locked():
        _recover(name)
        _announce(name, note)
        now = versions.production_version(name)
        if now != before:
            audit_log.delete_note(name, note)
            raise StageError(
                f"{name} version {now} is in Production by now, not {before}: another promotion came first\n"
                "  `busi history` says who; look again and repeat"
            )
        versions.set_alias(name, note["to"])
        _close(name, note)
    return note


def _give_up_damaged(name: str) -> None:
    """Tag what was Production before and is not whole, down to the last whole one, to which a rollback would go."""
    present = {str(version.version): version for version in versions.list_versions(name)}
    for number in reversed(audit_log.production_stack(audit_log.entries(name).values())[:-1]):
        if number in present:
            damage = checks.damage(present[number])
            if damage is None:
                return
            versions.set_version_tags(name, number, {versions.LOST_TAG: damage})


def _announce(name: str, note: Mapping) -> None:
    """Write the note, and make sure that it is the only one.

    A server orders writes and reads: of two processes that write first and then read, at least one sees the other's
    note. That one withdraws, so never do both continue. Both may withdraw; they try again after a random time.
    """
    for _ in range(TRIES):
        audit_log.write_note(name, note)
        others = [other for tag, other in audit_log.notes(name).items() if tag != audit_log.tag_of(note)]
        if not others:
            return
        audit_log.delete_note(name, note)
        time.sleep(random.uniform(0.2, 1.5))  # noqa: S311 - nothing secret
    raise StageError(f"{others[0]['who']} is promoting a version of {name}\n  `busi history` says what came of it")


def _close(name: str, note: Mapping) -> None:
    """What follows once the alias has moved; may be repeated."""
    versions.set_production_stage(name, note["to"])
    audit_log.append(name, note)
    audit_log.delete_note(name, note)
