"""The audit log of a registered model: which version became Production when, by whom and why.

Log and notes are kept in the registered model's tags, so that they live where the model lives: `audit.NNNN` is an
entry, `promoting.ID` a note of a move that has begun and not ended. Both are the same JSON:
    {"id", "action": "promote"|"rollback", "from": version|null, "to": version, "who", "when" (UTC, ISO 8601),
     "verdict", "overridden": names of checks, "reason"}
"""

import datetime
import getpass
import json
import os
import socket
import textwrap
import uuid
from collections.abc import Iterable, Mapping

from busi import DISCLAIMER
from busi.reporting import card
from pipeline.runtime.errors import StageError
from pipeline.tracking import versions
from pipeline.tracking.versions import ModelVersion

AUDIT, NOTE = "audit.", "promoting."
PATIENCE = 60  # seconds that a promotion may take; an older note of another machine counts as cut off
LONGEST_REASON = 2000  # characters; a tag of MLflow holds 5000
SHOWN = 10  # entries in the model's description


def entries(name: str) -> dict[int, dict]:
    """The audit log of a registered model: number to entry, oldest first."""
    return entries_in(versions.model_tags(name))


def entries_in(tags: Mapping[str, str]) -> dict[int, dict]:
    """The audit log in the tags of a registered model."""
    numbers = sorted(int(tag.removeprefix(AUDIT)) for tag in tags if tag.startswith(AUDIT))
    return {number: json.loads(tags[f"{AUDIT}{number:04d}"]) for number in numbers}


def notes(name: str) -> dict[str, dict]:
    """Tag to note of each move that has begun and not ended."""
    return notes_in(versions.model_tags(name))


def notes_in(tags: Mapping[str, str]) -> dict[str, dict]:
    """The notes in the tags of a registered model."""
    return {tag: json.loads(value) for tag, value in tags.items() if tag.startswith(NOTE)}


def production_stack(log: Iterable[Mapping]) -> list[str]:
    """The versions that were Production, each on those it replaced; the last is the present one.

    A promotion puts one on top. A rollback takes off all above the one that it goes back to, so that a second rollback
    goes back further.
    """
    stack = []
    for entry in log:
        if entry["action"] == "rollback" and entry["to"] in stack[:-1]:
            del stack[len(stack) - stack[::-1].index(entry["to"], 1) :]
        elif stack[-1:] != [entry["to"]]:
            stack.append(entry["to"])
    return stack


def new_note(action: str, to: ModelVersion, before: str | None, overridden: list[str], reason: str) -> dict:
    """A note of a move that begins now, by this user.

    Raises:
        StageError: the reason is longer than `LONGEST_REASON`.
    """
    if len(reason) > LONGEST_REASON:
        raise StageError(f"the reason has {len(reason)} characters; at most {LONGEST_REASON} fit into the audit log")
    return {
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


def tag_of(note: Mapping) -> str:
    """The tag that a note is kept in."""
    return f"{NOTE}{note['id']}"


def write_note(name: str, note: Mapping) -> None:
    """Say that a move begins."""
    versions.set_model_tag(name, tag_of(note), _text(note))


def delete_note(name: str, note: Mapping) -> None:
    """Say that a move has ended."""
    versions.delete_model_tag(name, tag_of(note))


def append(name: str, note: Mapping) -> None:
    """Make a note an entry, tag the version with what was overridden, and describe the model by the log. Repeatable."""
    log = entries(name)
    if note["id"] not in [entry["id"] for entry in log.values()]:
        number = max(log, default=0) + 1
        log[number] = dict(note)
        versions.set_model_tag(name, f"{AUDIT}{number:04d}", _text(note))
    if note["overridden"]:
        number = next(number for number, entry in log.items() if entry["id"] == note["id"])
        text = f"{note['reason']} ({', '.join(note['overridden'])} overridden by {note['who']}, {note['when']})"
        versions.set_version_tags(name, note["to"], {f"override.{number:04d}": text})
    versions.describe_model(name, _description(log))


def age(note: Mapping) -> float:
    """Seconds since a note was written."""
    return (_now() - datetime.datetime.fromisoformat(note["when"])).total_seconds()


def short_time(when: str) -> str:
    """An entry's `when` to the minute."""
    return f"{when[:16].replace('T', ' ')} UTC"


def _text(note: Mapping) -> str:
    return json.dumps(note, ensure_ascii=False)


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
    return card.registry_description("\n".join(lines), versions.DESCRIPTION_LIMIT, "")


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
