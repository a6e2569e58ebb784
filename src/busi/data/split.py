"""Train, validation and test parts that share no near-duplicate group, and what a plain random split would have leaked.

A split is a table with one row an image: path, label, sha256, duplicate_group, part. Near-duplicate groups
stand in for the patient ids that BUSI lacks, so a group is never divided. Files with equal sha256 are one group
even where the manifest puts them into two. A group that holds two labels can't be trained or tested on honestly:
all of it goes to quarantine.
"""

from collections.abc import Hashable
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from busi.data.layout import CLASSES

Part = TypeVar("Part", bound=Hashable)

USED_PARTS = ("train", "val", "test")
QUARANTINE = "quarantine"
PARTS = (*USED_PARTS, QUARANTINE)
COLUMNS = ("path", "label", "sha256", "duplicate_group", "part")

# An estimate over this many random splits has a standard error far below the spread that it reports.
LEAK_SPLITS = 100

_NAMED = 5  # offenders that an error names before it counts the rest


class Split:
    """A division of images into parts that can only exist when it is sound.

    Args:
        table: columns path, label, sha256, duplicate_group and part, all text, none empty.

    Raises:
        ValueError: a path stands twice; a pair of parts (quarantine included) shares a path, a group or a
            sha256; a part or a label is unknown; train, val or test lacks a class; a group outside quarantine
            holds two labels. The error names the offenders.
    """

    __slots__ = ("_table",)

    def __init__(self, table: pd.DataFrame):
        _require(table, COLUMNS)
        table = table.loc[:, list(COLUMNS)].sort_values("path", ignore_index=True)
        _refuse_unknown(table, "part", PARTS)
        _refuse_unknown(table, "label", CLASSES)
        for column in ("path", "duplicate_group", "sha256"):
            parts = table.groupby(column)["part"].agg(lambda part: sorted(set(part), key=PARTS.index))
            shared = parts[parts.str.len() > 1]
            if len(shared):
                raise ValueError(
                    f"a {column} may lie in one part only; received "
                    + _some(f"{value!r} in {' and '.join(found)}" for value, found in shared.items())
                )
        _refuse_repeated_paths(table)
        used = table[table["part"] != QUARANTINE]
        labels = used.groupby("duplicate_group")["label"].nunique()
        if (labels > 1).any():
            raise ValueError(
                f"a group with two labels belongs in {QUARANTINE}; received elsewhere: "
                + _some(repr(group) for group in labels.index[labels > 1])
            )
        present = set(zip(used["part"], used["label"], strict=True))
        lacking = [f"{part} has no {label}" for part in USED_PARTS for label in CLASSES if (part, label) not in present]
        if lacking:
            raise ValueError(f"each of {', '.join(USED_PARTS)} needs images of every class: {', '.join(lacking)}")
        self._table = table

    @property
    def table(self) -> pd.DataFrame:
        """A copy of the rows, sorted by path, so that nobody can change a split after it was checked."""
        return self._table.copy()

    def counts(self, column: str) -> dict[str, dict[str, int]]:
        """Distinct values of `column` ("path" counts images, "duplicate_group" groups): part -> class -> count."""
        found = self._table.groupby(["part", "label"])[column].nunique()
        return {part: {label: int(found.get((part, label), 0)) for label in CLASSES} for part in PARTS}

    def quarantined(self) -> list[str]:
        """Paths of the images in quarantine, sorted."""
        return self._table.loc[self._table["part"] == QUARANTINE, "path"].tolist()

    def share_error(self, fractions: dict[str, float]) -> float:
        """The largest |share of a class's images in a part - that part's fraction|, 0 to 1, without quarantine."""
        images = self.counts("path")
        totals = {label: sum(images[part][label] for part in USED_PARTS) for label in CLASSES}
        return max(
            abs(images[part][label] / totals[label] - fractions[part]) for part in USED_PARTS for label in CLASSES
        )


def make_split(manifest: pd.DataFrame, fractions: dict[str, float], seed: int) -> Split:
    """Divide the images of each class by `fractions`, whole groups only, conflicting groups to quarantine.

    Within a class the groups are shuffled and placed largest first, each into the part that lacks most
    relative to its target (Sainte-Lague's rule, so that groups of every size spread in proportion). The small
    groups at the end fill what the large ones left open: with 40 groups a class, of one to four images each, or more,
    every part comes within 3 points of its share. `Split.share_error` says how close it came.

    Args:
        manifest: one row an image with columns path, label, sha256, duplicate_group (text) and label_conflict
            (bool). The order of the rows does not matter.
        fractions: {"train", "val", "test"}, each above 0, together 1.
        seed: each class draws from its own generator, so a change in one class leaves the others where they were.

    Returns:
        The split. Its duplicate_group is the manifest's, except that groups joined by equal files bear one id,
        the first of theirs.

    Raises:
        ValueError: a column is missing or has empty values, a path stands twice, a label or fraction is not
            valid, or a class has fewer groups than there are parts.
    """
    _check_fractions(fractions)
    groups, conflicts = _merged_groups(manifest)
    table = manifest[["path", "label", "sha256"]].assign(duplicate_group=groups, part=QUARANTINE)
    clean = table[~conflicts.to_numpy()]
    each = f"each of {', '.join(USED_PARTS)}"
    _require_enough_groups(clean, set(table.loc[conflicts.to_numpy(), "path"]), each, len(USED_PARTS))
    fractions = {part: fractions[part] for part in USED_PARTS}
    part_of = {}
    for index, label in enumerate(CLASSES):
        part_of |= _assign(_group_sizes(clean, label), fractions, np.random.default_rng([seed, index]))
    table["part"] = table["duplicate_group"].map(part_of).fillna(QUARANTINE)
    return Split(table)


def make_folds(manifest: pd.DataFrame, folds: int, val: float, seed: int) -> list[Split]:
    """The splits of a cross-validation: each image outside quarantine is tested in exactly one of them.

    Within a class the groups are shuffled and divided into `folds` equal shares, as `make_split` divides them into
    parts. In fold i share i is the test part, and the rest is divided into train and val in the same way.

    Args:
        manifest: as for `make_split`.
        folds: number of folds, 2 or more.
        val: share of all images that each fold validates on; 1 / folds is tested on, the remainder trained on.
        seed: the split seed.

    Raises:
        ValueError: as `make_split`, or a class has too few groups for so many folds, or nothing would be left to train.
    """
    train = 1 - 1 / folds - val if folds >= 2 else 0
    if not 0 < val < 1 or train <= 0:
        raise ValueError(
            f"2 folds or more are needed and 1 / folds + val must stay below 1; received {folds} folds and val {val:g}"
        )
    groups, conflicts = _merged_groups(manifest)
    table = manifest[["path", "label", "sha256"]].assign(duplicate_group=groups, part=QUARANTINE)
    clean = table[~conflicts.to_numpy()]
    _require_enough_groups(clean, set(table.loc[conflicts.to_numpy(), "path"]), f"each of {folds} folds", folds)
    parts_of: list[dict[str, str]] = [{} for _ in range(folds)]
    for index, label in enumerate(CLASSES):
        sizes = _group_sizes(clean, label)
        fold_of = _assign(sizes, dict.fromkeys(range(folds), 1 / folds), np.random.default_rng([seed, index]))
        for fold, part_of in enumerate(parts_of):
            rest = {group: size for group, size in sizes.items() if fold_of[group] != fold}
            shares = {"train": train / (train + val), "val": val / (train + val)}
            part_of |= dict.fromkeys(sizes, "test") | _assign(rest, shares, np.random.default_rng([seed, index, fold]))
    return [Split(table.assign(part=table["duplicate_group"].map(part_of).fillna(QUARANTINE))) for part_of in parts_of]


def random_split_leak(manifest: pd.DataFrame, fractions: dict[str, float], seed: int) -> dict[str, float | int]:
    """What a plain stratified random split of the same images leaks: the share of test images with a twin in train.

    A twin is an image of the same group. All images take part, the conflicting ones included, since a plain split
    knows of no groups.

    Returns:
        {"value", "low", "high", "n", "splits"}: mean and 2.5th and 97.5th percentile of the share over `splits`
        random splits, rounded to 6 digits; n is the number of test images of each split.
    """
    _check_fractions(fractions)
    groups, _ = _merged_groups(manifest)
    ordered = manifest.assign(group=pd.factorize(groups, sort=True)[0]).sort_values("path", ignore_index=True)
    group = ordered["group"].to_numpy()
    rows_of = [np.flatnonzero(ordered["label"] == label) for label in CLASSES]
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(LEAK_SPLITS):
        train, test = [], []
        for rows in rows_of:
            shuffled = rng.permutation(rows)
            tested = max(1, round(fractions["test"] * len(rows)))
            test.append(shuffled[:tested])
            train.append(shuffled[tested : tested + round(fractions["train"] * len(rows))])
        train, test = np.concatenate(train), np.concatenate(test)
        shares.append(np.isin(group[test], group[train]).mean())
    low, high = np.quantile(shares, [0.025, 0.975])
    return {
        "value": round(float(np.mean(shares)), 6),
        "low": round(float(low), 6),
        "high": round(float(high), 6),
        "n": len(test),
        "splits": LEAK_SPLITS,
    }


def split_at_random(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The images of a split, divided again by a plain stratified random split, which may divide a group.

    Args:
        table: columns path, label, duplicate_group and part. Quarantined images are left out.
        seed: of the random split.

    Returns:
        The same rows, sorted by path, with another part: each part has as many images of each class as before.
    """
    divided = table[table["part"] != QUARANTINE].sort_values("path", ignore_index=True)
    rng = np.random.default_rng(seed)
    for label in CLASSES:
        rows = np.flatnonzero(divided["label"] == label)
        divided.loc[rows, "part"] = rng.permutation(divided.loc[rows, "part"].to_numpy())
    return divided


def has_twin_in_train(table: pd.DataFrame) -> np.ndarray:
    """Whether each test image, in order of the table, has a near-duplicate in the training part, bool (n,)."""
    trained = set(table.loc[table["part"] == "train", "duplicate_group"])
    return table.loc[table["part"] == "test", "duplicate_group"].isin(trained).to_numpy()


def _merged_groups(manifest: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The group of each row after joining groups that hold equal files, and whether that group is in conflict."""
    _require(manifest, ("path", "label", "sha256", "duplicate_group", "label_conflict"))
    _refuse_unknown(manifest, "label", CLASSES)
    _refuse_repeated_paths(manifest)
    if manifest["label_conflict"].dtype != bool:
        raise ValueError(f"label_conflict must be True or False; received {manifest['label_conflict'].unique()[:3]}")

    # A graph of groups and files with an edge a row; each connected part becomes a group, named by its first id
    names, count = manifest["duplicate_group"], len(manifest)
    group, file = pd.factorize(names)[0], pd.factorize(manifest["sha256"])[0]
    edges = coo_array((np.ones(count, bool), (group, count + file)), shape=(2 * count, 2 * count))
    groups = names.groupby(connected_components(edges, directed=False)[1][group]).transform("min")
    two_labels = manifest["label"].groupby(groups).transform("nunique") > 1
    flagged = manifest["label_conflict"].groupby(groups).transform("any")
    return groups, two_labels | flagged


def _group_sizes(clean: pd.DataFrame, label: str) -> dict[str, int]:
    """Images of each group of one class, in a canonical order: by the group's first path."""
    members = clean[clean["label"] == label].groupby("duplicate_group")["path"].agg(["min", "size"])
    return members.sort_values("min")["size"].to_dict()


def _assign(sizes: dict[str, int], fractions: dict[Part, float], rng: np.random.Generator) -> dict[str, Part]:
    """Give each group of one class a part of `fractions`. `sizes`: group -> images, in a canonical order."""
    total = sum(sizes.values())
    target = {part: fraction * total for part, fraction in fractions.items()}
    held: dict[Part, list[str]] = {part: [] for part in fractions}
    count = dict.fromkeys(fractions, 0)
    names = list(sizes)
    queue = sorted((names[i] for i in rng.permutation(len(names))), key=lambda group: -sizes[group])
    for position, group in enumerate(queue):
        empty = [part for part in fractions if not held[part]]
        choice = empty if len(queue) - position <= len(empty) else fractions
        part = max(choice, key=lambda part: (target[part] - count[part] - sizes[group] / 2) / target[part])
        held[part].append(group)
        count[part] += sizes[group]
    return {group: part for part, groups in held.items() for group in groups}


def _require_enough_groups(clean: pd.DataFrame, quarantined: set[str], each: str, least: int) -> None:
    """Refuse a class of fewer than `least` groups; `each` says what needs a group of every class."""
    groups = clean.groupby("label")["duplicate_group"].nunique()
    images = clean["label"].value_counts()
    short = [label for label in CLASSES if groups.get(label, 0) < least]
    if short:
        counted = [f"{label}: {images.get(label, 0)} in {groups.get(label, 0)} groups" for label in short]
        raise ValueError(
            f"too few images to split: {each} needs one near-duplicate group of every class, "
            f"so every class needs at least {least} groups without label conflict; received "
            + "; ".join(counted)
            + f" ({len(quarantined)} images in quarantine)\n  add images that differ from those that are there"
        )


def _check_fractions(fractions: dict[str, float]) -> None:
    if set(fractions) != set(USED_PARTS) or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise ValueError(f"fractions must name {', '.join(USED_PARTS)}, each above 0, together 1; received {fractions}")


def _require(table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"columns {', '.join(columns)} are needed; missing: {', '.join(missing)}")
    if table.empty:
        raise ValueError("at least one image is needed; received none")
    for column in columns:
        bare = table[table[column].isna() | (table[column].astype(str) == "")]
        if len(bare):
            raise ValueError(f"every image needs a {column}; missing for {_some(map(str, bare['path']))}")


def _refuse_unknown(table: pd.DataFrame, column: str, known: tuple[str, ...]) -> None:
    wrong = table[~table[column].isin(known)]
    if len(wrong):
        pairs = zip(wrong["path"], wrong[column], strict=True)
        raise ValueError(
            f"{column} must be one of {', '.join(known)}; received {_some(f'{value!r} for {p}' for p, value in pairs)}"
        )


def _refuse_repeated_paths(table: pd.DataFrame) -> None:
    repeated = table.loc[table["path"].duplicated(), "path"].unique()
    if len(repeated):
        raise ValueError(f"an image may have one row only; received several for {_some(map(repr, repeated))}")


def _some(items) -> str:
    items = list(items)
    rest = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
