"""The outcome of the expectations: `reports/validation.json`, the lines on the terminal, the error that names files."""

from collections.abc import Sequence

import pandas as pd

from busi.data.images import printable
from busi.data.layout import CLASSES
from pipeline.paths import DATA, DATA_DOCS_PAGE
from pipeline.runtime.errors import StageError
from pipeline.validation.expectations import Check

SHOWN = 20  # files named of each broken expectation
SHOWN_WARNING = 3

_MEND = (
    "  mend, move or remove the files named above, or bring the data in again with `busi data SOURCE`,\n"
    "  which also counts anew; then repeat the command"
)


def summary(dataset: dict, manifest: pd.DataFrame, checks: Sequence[Check], outcomes: Sequence) -> dict:
    """What `reports/validation.json` holds."""
    sizes = manifest["duplicate_group"].value_counts().value_counts().sort_index()
    conflicts = manifest[manifest["label_conflict"]].groupby("duplicate_group")["path"]
    labels = manifest["label"].value_counts()
    return {
        "dataset": dataset["name"],
        "synthetic": dataset["synthetic"],
        "images": len(manifest),
        "masks": int(manifest["mask_count"].sum()),
        "annotated": int(manifest["annotated"].sum()),
        "counts": {label: int(labels.get(label, 0)) for label in CLASSES},
        "groups": {str(size): int(count) for size, count in sizes.items()},
        "conflicts": {group: sorted(paths) for group, paths in conflicts},
        "expectations": [
            {
                "name": check.name,
                "severity": check.severity,
                "sentence": check.sentence,
                "success": outcome.success,
                "unexpected_count": len(outcome.unexpected),
                "unexpected": sorted(path for path, _ in outcome.unexpected)[:SHOWN],
            }
            for check, outcome in zip(checks, outcomes, strict=True)
        ],
    }


def terminal_lines(report: dict, checks: Sequence[Check], outcomes: Sequence) -> str:
    """The stage's lines on the terminal: what was found, warnings, where Data Docs are."""
    groups = {int(size): count for size, count in report["groups"].items()}
    twins = sum(size * count for size, count in groups.items() if size > 1)
    several = sum(count for size, count in groups.items() if size > 1)
    conflicts = report["conflicts"]
    clash = sum(map(len, conflicts.values()))
    counts = ", ".join(f"{count} {label}" for label, count in report["counts"].items())
    warned = [pair for pair in zip(checks, outcomes, strict=True) if pair[0].severity == "warning"]
    passed = sum(outcome.success for outcome in outcomes)
    return "\n".join(
        [
            f"{report['dataset']}: {report['images']} images ({counts}), {report['masks']} masks",
            f"near-duplicates: {twins} images in {several} groups; {len(conflicts)} groups, {clash} images, mix labels",
            f"expectations: {passed} of {len(checks)} passed",
            *(_broken(check, outcome, SHOWN_WARNING) for check, outcome in warned if not outcome.success),
            f"Data Docs: {DATA_DOCS_PAGE.as_posix()}",
        ]
    )


def require(name: str, checks: Sequence[Check], outcomes: Sequence) -> None:
    """Raise a `StageError` that names the files when a critical expectation failed."""
    failed = [
        _broken(check, outcome, SHOWN)
        for check, outcome in zip(checks, outcomes, strict=True)
        if check.severity == "critical" and not outcome.success
    ]
    if failed:
        head = f"{DATA}/ ({name}) fails {len(failed)} critical expectation(s); no manifest was written"
        raise StageError("\n".join([head, *failed, _MEND]))


def _broken(check: Check, outcome, most: int) -> str:
    rows = sorted(outcome.unexpected, key=lambda row: row[0])
    lines = [f"  {check.severity} {check.name}: {check.sentence} Broken by {len(rows)}:"]
    for path, value in rows[:most]:
        shown = check.shows.format(*(value if isinstance(value, tuple) else (value,)))
        lines.append(f"    {printable(path)}: {printable(shown)}")
    if len(rows) > most:
        lines.append(f"    and {len(rows) - most} more")
    return "\n".join(lines)
