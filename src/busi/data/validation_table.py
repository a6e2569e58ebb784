"""The manifest and its problems as one table, for the validation suite."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from busi.data import layout
from busi.data.listing import PROBLEMS, Problem
from busi.data.manifest import COLUMNS

VALIDATION_COLUMNS = (
    *COLUMNS, *PROBLEMS, "name_label", "lesion_mask", "normal_mask", "copy_flagged", "images", "found", "expected",
)  # fmt: skip


def validation_table(
    manifest: pd.DataFrame, problems: Iterable[Problem], counts: Mapping[str, int], masks: int
) -> pd.DataFrame:
    """The manifest as a table in which every defect of the data set is a value in a row that names the culprit.

    Args:
        manifest, problems: of `build_manifest`.
        counts: images a class that the data set says it has.
        masks: masks that it says it has.

    Returns:
        The rows of the manifest, then a row for each problem, then one a class ("benign/") and one for all masks.
        Beside the manifest's columns (null outside its rows, but label is an unknown folder's name in its row) there
        is a column for each of `PROBLEMS`, "ok" or the reason, and, null wherever they do not apply: name_label
        (class that a BUSI file name says); lesion_mask ("missing", "empty" or "present"; lesion classes of a set
        that has masks); normal_mask ("empty" or "present"; normals that have masks); copy_flagged (for a file whose
        very bytes occur in another class: "yes" when its group is marked as a label conflict, else "no"); images
        (files a class); found and expected (files a class, and masks).
    """
    table = manifest.copy()
    table["name_label"] = [layout.label_of_name(Path(path).stem) for path in table["path"]]
    fraction, normal = table["lesion_fraction"], table["label"] == "normal"
    without = table["mask_count"] == 0
    # Null for an image none of whose masks can be used: that is reported of the masks.
    state = pd.Series(None, table.index, dtype=object).mask(without, "missing")
    state = state.mask(fraction == 0, "empty").mask(fraction > 0, "present")
    table["lesion_mask"] = state.where(~normal & ~without.all())
    table["normal_mask"] = state.where(normal & ~without)
    copied = table.groupby("sha256")["label"].transform("nunique") > 1
    table["copy_flagged"] = pd.Series("no", table.index).mask(table["label_conflict"], "yes").where(copied)

    trouble, found = [], Counter(manifest["label"])
    mask_count: int | None = int(manifest["mask_count"].sum())
    for path, kind, reason in sorted(problems):
        label = path.partition("/")[0]
        trouble.append({"path": path, kind: reason} | ({"label": label} if kind == "unknown_folder" else {}))
        found[label] += kind == "unreadable_image"
        if kind == "mask_without_image" and mask_count is not None:
            mask_count += 1
        if kind == "unreadable_image":
            mask_count = None  # masks of images without a row are not counted, so there is nothing to compare
    totals = [
        {"path": f"{label}/", "images": found[label], "found": found[label], "expected": counts[label]}
        for label in layout.CLASSES
    ]
    totals.append({"path": "*_mask*", "found": mask_count, "expected": masks})
    blank = dict.fromkeys(VALIDATION_COLUMNS) | dict.fromkeys(PROBLEMS, "ok")
    records = [blank | record for record in [*table.to_dict("records"), *trouble, *totals]]
    # As objects, so that a column with nulls keeps its integers and truth values.
    whole = pd.DataFrame(records, columns=list(VALIDATION_COLUMNS), dtype=object)
    return whole.where(whole.notna(), None)
