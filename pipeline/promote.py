"""Promote a registered version to Production: `python -m pipeline.promote [VERSION]`, or `make promote`.

The verdict is read again from the registry. A version that the gate rejected is refused unless it is forced, and then
the reason stays on the version for good.
"""

from typing import Annotated

import typer

from busi import gate
from pipeline.outputs import StageError, stage

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    version: Annotated[int | None, typer.Argument(help="Left out: the newest version that passed the gate.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote although the gate rejected it; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, kept as a tag of the version.")] = "",
) -> None:
    """Promote a version of the present data set's model to Production.

    The alias `production` moves to it, so `models:/NAME@production` serves it, and the stage Production is set beside.
    """
    with stage("promote"):
        promote(version, force, reason)


def promote(number: int | None, force: bool, reason: str) -> None:
    """Move the alias, or say why not.

    Raises:
        StageError: there is no such version, it did not pass and is not forced, or it is forced without a reason.
    """
    from pipeline import tracking
    from pipeline.lineage import dataset
    from pipeline.register import registered_name

    name = registered_name(dataset())
    candidates = tracking.versions(name)
    if number is not None:
        candidates = [version for version in candidates if int(version.version) == number]
        if not candidates:
            raise StageError(f"{name} has no version {number}\n  `make ui` shows what there is")
    elif not (candidates := [version for version in candidates if version.tags.get("verdict") == gate.PASSED]):
        raise StageError(
            f"no version of {name} has passed the gate, so there is nothing to promote\n"
            "  see reports/gate.json, or name a version with --force --reason"
        )
    chosen = candidates[0]
    verdict = chosen.tags.get("verdict", "unknown")
    if verdict != gate.PASSED:
        failed = chosen.tags.get("failed_rules", "not recorded")
        if not (force and reason.strip()):
            raise StageError(
                f"{name} version {chosen.version} did not pass the gate: verdict {verdict}, failed rules {failed}\n"
                "  to promote it all the same and keep the reason on record: --force --reason 'TEXT'"
            )
    before = tracking.production_version(name)
    tracking.set_production(chosen, {"promotion_override": reason} if verdict != gate.PASSED else {})
    after = "first Production version" if before is None else f"was version {before}"
    typer.echo(f"{name} version {chosen.version} is in Production ({after}); verdict {verdict}")
    typer.echo(f"  programs read it as models:/{name}@{tracking.PRODUCTION}")


if __name__ == "__main__":
    app()
