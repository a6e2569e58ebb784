"""Stage validate: describe every image in the manifest, and hold the data set to a suite of expectations.

Reads `data/`; writes the manifest, `reports/validation.json` and, not declared because they carry times, Data Docs.
A failed critical expectation fails the stage: the files are named, Data Docs are written, the outputs are not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from busi.data.audit import audit_table
from busi.data.images import printable
from busi.data.layout import CLASSES, DATASET_FILE
from busi.data.manifest import build_manifest
from pipeline.dataset import read_counted_dataset
from pipeline.params import Validate, read_params
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

DATA = Path("data")
MANIFEST = Path("artifacts/validate/manifest.csv")
DATA_DOCS = Path("artifacts/validate/data_docs")
REPORT = Path("reports/validation.json")

SHOWN = 20  # files named of each broken expectation

# What makes an image worthless: gray levels that do not differ, or more than half of its pixels at the upper stop.
BLANK_STD = 1.0
SATURATED_SHARE = 0.5

_MEND = (
    "  mend, move or remove the files named above, or bring the data in again with `make data SOURCE=...`,\n"
    "  which also counts anew; then repeat the command"
)


class Check(NamedTuple):
    """One expectation: its name and sentence, how an offending row is shown, and Great Expectations' own object."""

    name: str
    severity: str
    sentence: str
    shows: str
    expectation: object


def main() -> None:
    limits = read_params().validate_

    dataset = read_counted_dataset()
    manifest, problems = build_manifest(DATA)
    table = audit_table(manifest, problems, dataset["counts"], dataset["masks"])

    # Not at the top: the processes that read images import this module too, and this import takes seconds.
    from pipeline.validation.data_docs import run_checkpoint

    checks = suite(limits)
    outcomes = run_checkpoint(dataset["name"], table, [check.expectation for check in checks], DATA_DOCS)
    report = summary(dataset, manifest, checks, outcomes)

    print(describe(report, checks, outcomes))
    require(dataset["name"], checks, outcomes)
    write_csv(MANIFEST, manifest)
    write_json(REPORT, report)


def suite(limits: Validate) -> list[Check]:
    """The expectations, over the columns of `audit_table`."""
    import great_expectations.expectations as gxe

    def in_set(column: str, *values: object) -> tuple:
        return gxe.ExpectColumnValuesToBeInSet, {"column": column, "value_set": list(values)}

    def between(column: str, low: float | None, high: float | None) -> tuple:
        return gxe.ExpectColumnValuesToBeBetween, {"column": column, "min_value": low, "max_value": high}

    def equal(one: str, other: str) -> tuple:
        pair = {"column_A": one, "column_B": other, "ignore_row_if": "either_value_is_missing"}
        return gxe.ExpectColumnPairValuesToBeEqual, pair

    side = f"{limits.min_side} to {limits.max_side} pixels"
    rows = [
        ("label_set", "critical", f"The folders are {', '.join(CLASSES)} and no other.", "folder {!r}",
         in_set("label", *CLASSES)),
        ("no_empty_class", "critical", "Each class has images.", "{:g} images", between("images", 1, None)),
        ("counts", "critical", f"There are as many images a class, and masks, as {DATASET_FILE} says.",
         "{:g} found, {:g} expected", equal("found", "expected")),
        ("unique_paths", "critical", "Each path occurs once.", "more than once",
         (gxe.ExpectColumnValuesToBeUnique, {"column": "path"})),
        ("no_nested_folders", "critical", "Class folders hold no folders.", "{}", in_set("nested_folder", "ok")),
        ("no_other_files", "warning", "There are no files but images and masks.", "{}", in_set("other_file", "ok")),
        ("decodable", "critical", "Each image can be read whole.", "{}", in_set("unreadable_image", "ok")),
        ("width", "critical", f"Images are {side} wide.", "{:g} pixels wide",
         between("width", limits.min_side, limits.max_side)),
        ("height", "critical", f"Images are {side} high.", "{:g} pixels high",
         between("height", limits.min_side, limits.max_side)),
        ("mode", "warning", "Pixels are 8-bit gray or RGB; others are converted as they are read.", "mode {}",
         in_set("mode", "L", "RGB")),
        ("name_matches_folder", "critical", "An image that is named for a class lies in that class's folder.",
         "in {}, named {}", equal("label", "name_label")),
        ("not_blank", "critical", f"Gray levels differ (standard deviation of at least {BLANK_STD:g}).",
         "standard deviation {}", between("std", BLANK_STD, None)),
        ("not_saturated", "warning", f"At most {SATURATED_SHARE:.0%} of an image is saturated.",
         "saturated share {}", between("saturated", None, SATURATED_SHARE)),
        ("masks_decodable", "critical", "Each mask can be read whole.", "{}", in_set("unreadable_mask", "ok")),
        ("masks_have_image", "critical", "Each mask belongs to one image.", "{}", in_set("mask_without_image", "ok")),
        ("mask_size", "critical", "An image that has masks has one of its own size.", "{}", in_set("mask_size", "ok")),
        ("further_mask_size", "warning",
         "Its other masks have that size too; lesion_fraction leaves out those that differ.", "{}",
         in_set("further_mask_size", "ok")),
        ("lesions_have_mask", "warning", "Where the set has masks, each lesion image has one.", "mask {}",
         in_set("lesion_mask", "present", "empty")),
        ("lesion_masks_marked", "critical", "The masks of a lesion image mark a lesion.", "mask {}",
         in_set("lesion_mask", "present", "missing")),
        ("normal_masks_empty", "critical", "The masks of a normal image mark nothing.", "lesion {}",
         in_set("normal_mask", "empty")),
        ("copies_flagged", "critical", "Identical files in two classes are marked as a label conflict.",
         "not marked", in_set("copy_flagged", "yes")),
        ("one_label_a_group", "warning", "Near-duplicate images have one label; conflicts go to quarantine.",
         "its group mixes labels", in_set("label_conflict", False)),
    ]  # fmt: skip
    return [
        Check(name, severity, sentence, shows, kind(
            **arguments, severity=severity, description=f"{name} ({severity}): {sentence}", meta={"name": name}
        ))
        for name, severity, sentence, shows, (kind, arguments) in rows
    ]  # fmt: skip


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


def describe(report: dict, checks: Sequence[Check], outcomes: Sequence) -> str:
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
            *(_broken(check, outcome, 3) for check, outcome in warned if not outcome.success),
            f"Data Docs: {(DATA_DOCS / 'index.html').as_posix()}",
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
    lines = [f"  {check.severity} {check.name}: {check.sentence} Not so for {len(rows)}:"]
    for path, value in rows[:most]:
        shown = check.shows.format(*(value if isinstance(value, tuple) else (value,)))
        lines.append(f"    {printable(path)}: {printable(shown)}")
    if len(rows) > most:
        lines.append(f"    and {len(rows) - most} more")
    return "\n".join(lines)


if __name__ == "__main__":
    with stage("validate"):
        main()
