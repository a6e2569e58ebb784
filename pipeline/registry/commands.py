"""What `busi versions|show|card|promote|rollback|history|verify` do: a function each, which prints its answer.

Each first completes or undoes a move that was cut off. `model` is the name of a registered model, None for that of the
data set in `data/`; `version` is a number, None for the newest that passed the gate.
"""

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from busi import DISCLAIMER
from busi.evaluation.records import CheckResult
from pipeline.params import read_params
from pipeline.registry import audit_log, checks, lineage, moves, names
from pipeline.registry import verify as verification
from pipeline.runtime.atomic_io import write_text
from pipeline.runtime.errors import StageError
from pipeline.tracking import logged_model, versions
from pipeline.tracking.versions import ModelVersion

MARKS = {True: "passed", False: "FAILED", None: "off"}
CARDS = Path("artifacts")
TAGS = (
    "verdict", "failed_rules", "accuracy", "smoke", "temperature", "run_id", "model_sha256", "bundle_sha256",
    "files_sha256",
)  # fmt: skip
COMPARED = ("verdict", "accuracy", "data_set", "data_md5", "split_md5", "params_md5", "weights", "commit")


def list_versions(model: str | None) -> None:
    """List the versions with verdict, accuracy and interval, data, stage, alias and age."""
    name = _begin(model)
    stages = versions.stages(name)
    rows = [
        {
            "version": version.version,
            "verdict": version.tags.get("verdict", "none") + (", lost" if versions.LOST_TAG in version.tags else ""),
            "accuracy": version.tags.get("accuracy", "not recorded"),
            "data set": version.tags.get("data_set", "not recorded"),
            "data version": version.tags.get("data_md5", "not recorded")[:8],
            "stage": stages.get(str(version.version), ""),
            "alias": ", ".join(version.aliases),
            "age": _age(version.creation_timestamp),
        }
        for version in versions.list_versions(name)
    ]
    print(name)
    print(_table(rows) if rows else "  no version; `busi run` registers one")


def show(version: int | None, model: str | None) -> None:
    """Show all that is known of a version: gate, metrics, lineage, and the commands that rebuild it."""
    name = _begin(model)
    chosen = names.choose_to_show(name, version)
    with logged_model.files_of(chosen) as files:
        decision, metrics = (
            json.loads((files / file).read_text(encoding="utf-8")) for file in ("gate.json", "metrics.json")
        )
    print(f"{name} version {chosen.version}, registered {_age(chosen.creation_timestamp)} ago")
    aliases = ", ".join(chosen.aliases) or "none"
    current = versions.stages(name).get(str(chosen.version), "none")
    print(f"alias {aliases}, stage {current}\n{DISCLAIMER}\n")
    # The rules of the first versions have no sentence
    print(_checks([CheckResult(**{"sentence": "-", **rule}) for rule in decision["rules"]]))
    columns = ("value", "low", "high", "n")
    rows = [
        {"metric": name, **{column: metric[column] for column in columns}}
        for name, metric in metrics.items()
        if set(metric) == set(columns)
    ]
    print(f"\n{_table(rows)}\n")
    overrides = sorted(tag for tag in chosen.tags if tag.startswith("override."))
    for tag in (*TAGS, *lineage.FIELDS, *overrides):
        print(f"{tag:<18} {chosen.tags.get(tag, 'not recorded')}")
    commit = chosen.tags.get("commit", lineage.NOT_RECORDED)
    if not lineage.is_commit(commit):
        print("\nit can't be rebuilt, because its commit is not recorded")
        return
    print("\nto rebuild it beside the working tree and compare")
    print(f"  busi reproduce {chosen.version} --model {name}")
    print("to go back to it by hand")
    print(f"  git checkout {commit} && dvc checkout && dvc repro")


def card(version: int | None, output: Path | None, model: str | None) -> None:
    """Write the model card of a version, Markdown, to `output` or `artifacts/NAME-vVERSION.md`."""
    name = _begin(model)
    chosen = names.choose_to_show(name, version)
    path = output or CARDS / f"{name}-v{chosen.version}.md"
    with logged_model.files_of(chosen) as files:
        write_text(path, (files / "model_card.md").read_text(encoding="utf-8"))
    print(f"model card of {name} version {chosen.version}: {path}")


def promote(version: int | None, force: bool, reason: str, yes: bool, model: str | None) -> None:
    """Make a version the Production one, after its checks and a question; `yes` leaves the question out."""
    name = _begin(model)
    entry = moves.promote(name, version, read_params(), force, reason, lambda *found: _agree("promote", yes, *found))
    _print_move(name, entry)


def rollback(reason: str, yes: bool, model: str | None) -> None:
    """Go back to the version that was Production before, by the audit log; twice goes back two."""
    name = _begin(model)
    _print_move(name, moves.rollback(name, reason, lambda *found: _agree("roll back to", yes, *found)))


def history(model: str | None) -> None:
    """Show which version was Production when, who made it so, and why."""
    name = _begin(model)
    log = list(audit_log.entries(name).items())
    ends = [audit_log.short_time(entry["when"]) for _, entry in log[1:]] + ["now"]
    rows = [
        {
            "entry": number,
            "Production": f"version {entry['to']}",
            "from": audit_log.short_time(entry["when"]),
            "until": end,
            "by": f"{entry['action']}, {entry['who']}",
            "verdict": entry["verdict"],
            "overridden": ", ".join(entry["overridden"]) or "none",
            "reason": entry["reason"] or "none given",
        }
        for (number, entry), end in zip(log, ends, strict=bool(log))
    ]
    print(name)
    print(_table(rows) if rows else "  no version has been in Production")


def verify(every: bool, model: str | None) -> None:
    """Check registry, alias, stage, audit log and files; `every` looks at the files of every version.

    Raises:
        StageError: something does not agree: a stage or alias moved by hand, a changed file, an edited tag.
    """
    name = _begin(model)
    found = verification.verify(name, every)
    print(f"{name}\n{_checks(found)}")
    if checks.failures(found):
        raise StageError(
            f"{name}: registry, audit log and files do not agree\n"
            "  `busi promote` or `busi rollback` sets alias and stage right, or replaces a version that was changed;\n"
            "  `busi run` registers the present model anew where something of it was deleted"
        )


def _begin(model: str | None) -> str:
    """The registered model that is meant, once what was cut off has been completed or undone."""
    name = model or names.default_name()
    for done in moves.recover(name):
        print(f"note: a promotion had been cut off; {done}")
    if model is not None:
        names.require_registered(model)
    return name


def _agree(
    action: str, yes: bool, version: ModelVersion, production: ModelVersion | None, found: Sequence[CheckResult]
) -> None:
    """Show what a promotion or rollback changes, and ask."""
    print(f"{_checks(found)}\n\n{_changes(version, production)}\n")
    if yes:
        return
    if not sys.stdin.isatty():
        raise StageError("no terminal to ask on\n  add --yes (YES=1 with make) to go on without asking")
    if input(f"{action} {version.name} version {version.version}? [y/N]: ").strip().lower() not in ("y", "yes"):
        raise StageError("stopped; nothing was changed")


def _changes(version: ModelVersion, production: ModelVersion | None) -> str:
    before = production.tags if production is not None else {}
    now = f"Production: {f'version {production.version}' if production is not None else 'none'}"
    to_be = f"to be: version {version.version}"
    return _table([{"": tag, now: _short(before, tag), to_be: _short(version.tags, tag)} for tag in COMPARED])


def _short(tags: Mapping[str, str], tag: str) -> str:
    value = tags.get(tag, "")
    return value[:12] if tag.endswith("md5") or tag == "commit" else value


def _print_move(name: str, entry: Mapping) -> None:
    before = f"version {entry['from']}" if entry["from"] else "none"
    print(f"{name} version {entry['to']} is in Production, before it {before}")
    print(f"  programs read it as models:/{name}@production; `busi rollback` goes back")


def _checks(found: Sequence[CheckResult]) -> str:
    return _table(
        [
            {
                "": MARKS[check.passed],
                "rule or check": check.name,
                "value": check.value,
                "threshold": check.threshold,
                "what was found": check.sentence,
            }
            for check in found
        ]
    )


def _table(rows: Sequence[Mapping]) -> str:
    return tabulate(rows, headers="keys", tablefmt="simple", floatfmt=".3f", missingval="-", disable_numparse=False)


def _age(milliseconds: int) -> str:
    seconds = datetime.datetime.now(datetime.UTC).timestamp() - milliseconds / 1000
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "under a minute"
