"""The registry's front door: `python -m pipeline.promote COMMAND`, or make versions, show, promote, rollback, ...

Each command first completes or undoes a promotion that was cut off. What it decides by is in `pipeline/promotion.py`.
"""

import datetime
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from tabulate import tabulate

from busi import DISCLAIMER
from pipeline.params import read_params
from pipeline.runtime.atomic_io import write_text
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Registered versions of the model: see them, promote one to Production, go back, and check that nobody went "
    "round the gate.",
)

Version = Annotated[int | None, typer.Argument(help="Number of a version. Left out: the newest that passed the gate.")]
Model = Annotated[
    str | None, typer.Option("--model", help="Registered model. Left out: that of the data set that is in data/.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]

MARKS = {True: "passed", False: "FAILED", None: "off"}
CARDS = Path("artifacts")
TAGS = ("verdict", "failed_rules", "accuracy", "smoke", "temperature", "run_id", "model_sha256", "files_sha256")


@app.command("list")
def list_versions(model: Model = None) -> None:
    """List the versions with verdict, accuracy and interval, data, stage, alias and age."""
    with stage("promote list"):
        from pipeline.tracking import store as tracking

        name = _begin(model)
        stages = tracking.stages(name)
        rows = [
            {
                "version": version.version,
                "verdict": version.tags.get("verdict", "none"),
                "accuracy": version.tags.get("accuracy", "not recorded"),
                "data set": version.tags.get("data_set", "not recorded"),
                "data version": version.tags.get("data_md5", "not recorded")[:8],
                "stage": stages.get(str(version.version), ""),
                "alias": ", ".join(version.aliases),
                "age": _age(version.creation_timestamp),
            }
            for version in tracking.versions(name)
        ]
        typer.echo(name)
        typer.echo(_table(rows) if rows else "  no version; `make run` registers one")


@app.command()
def show(version: Version = None, model: Model = None) -> None:
    """Show all that is known of a version: gate, metrics, lineage, and the commands that rebuild it."""
    with stage("promote show"):
        from pipeline.registry import lineage, promotion
        from pipeline.tracking import store as tracking

        name = _begin(model)
        chosen = promotion.choose(name, version)
        with tracking.files_of(chosen) as files:
            decision, metrics = (json.loads((files / file).read_text()) for file in ("gate.json", "metrics.json"))
        typer.echo(f"{name} version {chosen.version}, registered {_age(chosen.creation_timestamp)} ago")
        aliases = ", ".join(chosen.aliases) or "none"
        current = tracking.stages(name).get(str(chosen.version), "none")
        typer.echo(f"alias {aliases}, stage {current}\n{DISCLAIMER}\n")
        typer.echo(_checks(decision["rules"]))
        columns = ("value", "low", "high", "n")
        rows = [
            {"metric": name, **{column: metric[column] for column in columns}}
            for name, metric in metrics.items()
            if set(metric) == set(columns)
        ]
        typer.echo(f"\n{_table(rows)}\n")
        overrides = sorted(tag for tag in chosen.tags if tag.startswith("override."))
        for tag in (*TAGS, *lineage.FIELDS, *overrides):
            typer.echo(f"{tag:<18} {chosen.tags.get(tag, 'not recorded')}")
        typer.echo("\nto rebuild it beside the working tree and compare")
        typer.echo(f"  busi reproduce {chosen.version} --model {name}")
        typer.echo("to go back to it by hand")
        typer.echo(f"  git checkout {chosen.tags.get('commit', 'COMMIT')} && dvc checkout && dvc repro")


@app.command()
def promote(
    version: Version = None,
    force: Annotated[bool, typer.Option("--force", help="Override the verdict and the comparison with the present "
                                        "Production version; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why; stays in the audit log, and with --force on the version.")] = "",
    yes: Yes = False,
    model: Model = None,
) -> None:  # fmt: skip
    """Make a version the Production one, which `models:/NAME@production` names.

    Reads the verdict again and runs the checks of params.yaml's `promote`. Refuses a version that failed the gate,
    is unfinished or altered, or is of synthetic images where real ones are meant. Shows what would change, asks, and
    writes down who did it, when and why.
    """
    with stage("promote"):
        from pipeline.registry import promotion

        name = _begin(model)
        params = read_params()
        entry = promotion.promote(name, version, params, force, reason, lambda *found: _agree("promote", yes, *found))
        _tell(name, entry)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; stays in the audit log.")] = "",
    yes: Yes = False,
    model: Model = None,
) -> None:
    """Go back to the version that was Production before, by the audit log; twice goes back two."""
    with stage("promote rollback"):
        from pipeline.registry import promotion

        name = _begin(model)
        _tell(name, promotion.rollback(name, reason, lambda *found: _agree("roll back to", yes, *found)))


@app.command()
def history(model: Model = None) -> None:
    """Show which version was Production when, who made it so, and why."""
    with stage("promote history"):
        from pipeline.registry import promotion

        name = _begin(model)
        log = list(promotion.audit_log(name).items())
        ends = [promotion.short_time(entry["when"]) for _, entry in log[1:]] + ["now"]
        rows = [
            {
                "entry": number,
                "Production": f"version {entry['to']}",
                "from": promotion.short_time(entry["when"]),
                "until": end,
                "by": f"{entry['action']}, {entry['who']}",
                "verdict": entry["verdict"],
                "overridden": ", ".join(entry["overridden"]) or "none",
                "reason": entry["reason"] or "none given",
            }
            for (number, entry), end in zip(log, ends, strict=bool(log))
        ]
        typer.echo(name)
        typer.echo(_table(rows) if rows else "  no version has been in Production")


@app.command()
def verify(
    every: Annotated[
        bool, typer.Option("--all", help="Look at every version's files, not Production's alone.")
    ] = False,
    model: Model = None,
) -> None:
    """Say whether somebody has gone round the gate: a stage or alias moved by hand, a changed file, an edited tag.

    Exit code 1 when so.
    """
    with stage("promote verify"):
        from pipeline.registry import promotion

        name = _begin(model)
        checks = promotion.verify(name, every)
        typer.echo(f"{name}\n{_checks(checks)}")
        if any(check["passed"] is False for check in checks):
            raise StageError(
                f"{name}: registry, audit log and files do not agree\n"
                "  to set alias and stage right: make rollback or make promote; to restore a file: make run"
            )


@app.command()
def card(
    version: Version = None,
    output: Annotated[Path | None, typer.Option(help="Left out: artifacts/NAME-vVERSION.md.")] = None,
    model: Model = None,
) -> None:
    """Export the model card of a version as Markdown."""
    with stage("promote card"):
        from pipeline.registry import promotion
        from pipeline.tracking import store as tracking

        name = _begin(model)
        chosen = promotion.choose(name, version)
        path = output or CARDS / f"{name}-v{chosen.version}.md"
        with tracking.files_of(chosen) as files:
            write_text(path, (files / "model_card.md").read_text(encoding="utf-8"))
        typer.echo(f"model card of {name} version {chosen.version}: {path}")


def _begin(model: str | None) -> str:
    """The registered model that is meant, once what was cut off has been completed or undone."""
    from pipeline.dataset import read_dataset
    from pipeline.registry import promotion

    name = model or promotion.registered_name(read_dataset())
    for done in promotion.recover(name):
        typer.echo(f"note: a promotion had been cut off; {done}")
    return name


def _agree(action: str, yes: bool, version, production, checks: list[dict]) -> None:
    """Show what a promotion or rollback changes, and ask."""
    typer.echo(f"{_checks(checks)}\n\n{_changes(version, production)}\n")
    if yes:
        return
    if not sys.stdin.isatty():
        raise StageError("nobody is there to be asked\n  add --yes (YES=1 with make) to go on without asking")
    if not typer.confirm(f"{action} {version.name} version {version.version}?"):
        raise StageError("stopped; nothing was changed")


def _changes(version, production) -> str:
    fields = ("verdict", "accuracy", "data_set", "data_md5", "split_md5", "params_md5", "weights", "commit")
    before = production.tags if production is not None else {}
    now = f"Production: {f'version {production.version}' if production is not None else 'none'}"
    to_be = f"to be: version {version.version}"
    return _table([{"": field, now: _short(before, field), to_be: _short(version.tags, field)} for field in fields])


def _short(tags: Mapping[str, str], field: str) -> str:
    value = tags.get(field, "")
    return value[:12] if field.endswith("md5") or field == "commit" else value


def _tell(name: str, entry: Mapping) -> None:
    before = f"version {entry['from']}" if entry["from"] else "none"
    typer.echo(f"{name} version {entry['to']} is in Production, before it {before}")
    typer.echo(f"  programs read it as models:/{name}@production; make rollback goes back")


def _checks(rows: list[dict]) -> str:
    return _table(
        [{"": MARKS[row["passed"]], "rule or check": row["name"], "value": row["value"], "threshold": row["threshold"],
          "what was found": row.get("sentence", "-")} for row in rows]
    )  # fmt: skip


def _table(rows: list[dict]) -> str:
    return tabulate(rows, headers="keys", tablefmt="simple", floatfmt=".3f", missingval="-", disable_numparse=False)


def _age(milliseconds: int) -> str:
    seconds = datetime.datetime.now(datetime.UTC).timestamp() - milliseconds / 1000
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "under a minute"


if __name__ == "__main__":
    app()
