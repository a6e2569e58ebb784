"""The split keeps lesions apart: random manifests, every pair of parts, and each way a table can be corrupt."""

import json
import shutil
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busi.data.layout import CLASSES
from busi.data.split import (
    PARTS,
    QUARANTINE,
    USED_PARTS,
    Split,
    has_twin_in_train,
    make_folds,
    make_split,
    random_split_leak,
    split_at_random,
)
from pipeline.paths import MANIFEST, PARAMS, ROOT, SPLIT, SPLIT_REPORT
from pipeline.stages import split as split_stage

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def make_manifest(sizes: dict[str, list[int]], conflicts: int = 0, repeats: int = 0, seed: int = 0) -> pd.DataFrame:
    """Groups of the given sizes a class, then `conflicts` two-label groups, then `repeats` pairs of equal files."""
    groups = [[label] * size for label in CLASSES for size in sizes[label]]
    rng = np.random.default_rng(seed)
    groups += [list(rng.choice(CLASSES, 2, replace=False)) for _ in range(conflicts)]
    rows = [(label, f"g{number:04d}", len(set(group)) > 1) for number, group in enumerate(groups) for label in group]
    table = pd.DataFrame(rows, columns=["label", "duplicate_group", "label_conflict"])
    table["path"] = [f"{label}/{label} ({i}).png" for i, label in enumerate(table["label"])]
    table["sha256"] = [f"{i:064x}" for i in range(len(table))]
    for source, copy in rng.integers(0, len(table), (repeats, 2)):
        table.loc[copy, "sha256"] = table.loc[source, "sha256"]
    return table


small_groups = st.lists(st.integers(1, 4), min_size=3, max_size=30)
manifests = st.builds(
    make_manifest,
    st.fixed_dictionaries(dict.fromkeys(CLASSES, small_groups)),
    conflicts=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
fractions_ = st.tuples(*[st.integers(2, 10)] * 3).map(
    lambda parts: dict(zip(USED_PARTS, np.array(parts) / sum(parts), strict=True))
)


def sound() -> pd.DataFrame:
    """A small sound split with one group of two in train and one image in quarantine."""
    return make_split(make_manifest({label: [2, 1, 1, 1] for label in CLASSES}, conflicts=1), FRACTIONS, 0).table


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(manifests, fractions_, st.integers(0, 2**32))
def test_every_pair_of_parts_is_disjoint_and_every_image_has_one_part(manifest, fractions, seed):
    table = make_split(manifest, fractions, seed).table
    assert sorted(table["path"]) == sorted(manifest["path"])
    assert set(table["part"]) <= set(PARTS)
    for one, other in combinations(PARTS, 2):
        for column in ("path", "duplicate_group", "sha256"):
            assert not set(table.loc[table["part"] == one, column]) & set(table.loc[table["part"] == other, column])
    quarantined = table.loc[table["part"] == QUARANTINE, "path"]
    assert sorted(quarantined) == sorted(manifest.loc[manifest["label_conflict"], "path"])
    assert {(part, label) for part in USED_PARTS for label in CLASSES} <= set(
        zip(table["part"], table["label"], strict=True)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_equal_files_are_one_group_even_where_the_manifest_disagrees(seed, repeats):
    sizes = {label: [1] * 20 + [2] * 10 for label in CLASSES}
    manifest = make_manifest(sizes, conflicts=2, repeats=repeats, seed=seed)
    try:
        table = make_split(manifest, FRACTIONS, seed).table
    except ValueError as error:
        assert "too few images" in str(error)
        return
    for _, equal_files in table.groupby("sha256"):
        assert equal_files["duplicate_group"].nunique() == equal_files["part"].nunique() == 1
        if equal_files["label"].nunique() > 1:
            assert set(equal_files["part"]) == {QUARANTINE}
    # one manifest group never ends in two groups
    joined = table.merge(manifest[["path", "duplicate_group"]], on="path", suffixes=("", "_before"))
    assert (joined.groupby("duplicate_group_before")["duplicate_group"].nunique() == 1).all()
    # quarantine holds what a conflict reaches and nothing else
    conflict = joined.groupby("duplicate_group")["label"].transform("nunique") > 1
    assert ((joined["part"] == QUARANTINE) == conflict).all()


@settings(max_examples=20, deadline=None)
@given(
    st.fixed_dictionaries({label: st.lists(st.integers(1, 4), min_size=40, max_size=120) for label in CLASSES}),
    fractions_,
    st.integers(0, 2**32),
)
def test_each_class_is_within_three_points_of_its_share(sizes, fractions, seed):
    manifest = make_manifest(sizes, conflicts=3)
    split = make_split(manifest, fractions, seed)
    table = split.table[split.table["part"] != QUARANTINE]
    shares = pd.crosstab(table["label"], table["part"], normalize="index")
    error = max(abs(shares.loc[label, part] - fractions[part]) for label in CLASSES for part in USED_PARTS)
    assert error <= 0.03
    assert split.share_error(fractions) == pytest.approx(error)
    # the same holds for the make-up of each part
    make_up = pd.crosstab(table["part"], table["label"], normalize="index")
    assert np.abs(make_up - table["label"].value_counts(normalize=True)[make_up.columns]).to_numpy().max() <= 0.03


def test_busi_like_groups_end_within_one_image_of_the_fractions_and_spread_in_proportion():
    sizes = {"benign": [4] * 3 + [3] * 14 + [2] * 70, "malignant": [4] * 2 + [3] * 6 + [2] * 30, "normal": [2] * 20}
    counts = {"benign": 437, "malignant": 210, "normal": 133}
    sizes = {label: groups + [1] * (counts[label] - sum(groups)) for label, groups in sizes.items()}
    manifest = make_manifest(sizes)
    table = make_split(manifest, FRACTIONS, 17).table
    images = pd.crosstab(table["label"], table["part"])
    for label in CLASSES:
        for part in USED_PARTS:
            assert abs(images.loc[label, part] - FRACTIONS[part] * counts[label]) <= 1
    twin = table.groupby("duplicate_group")["path"].transform("size") > 1
    shares = twin.groupby(table["part"]).mean()
    assert shares.max() - shares.min() < 0.1


@settings(max_examples=25, deadline=None)
@given(manifests, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter_and_the_seed_does(manifest, random):
    first = make_split(manifest, FRACTIONS, 5).table
    order = list(range(len(manifest)))
    random.shuffle(order)
    shuffled = manifest.iloc[order]
    pd.testing.assert_frame_equal(first, make_split(shuffled, FRACTIONS, 5).table)
    assert random_split_leak(manifest, FRACTIONS, 5) == random_split_leak(shuffled, FRACTIONS, 5)


def test_seeds_give_different_splits():
    manifest = make_manifest({label: [1] * 40 for label in CLASSES})
    assert len({tuple(make_split(manifest, FRACTIONS, seed).table["part"]) for seed in range(5)}) == 5


def test_the_manifest_is_left_as_it_was():
    manifest = make_manifest({label: [2, 1, 1] for label in CLASSES}, conflicts=1)
    before = manifest.copy()
    make_split(manifest, FRACTIONS, 0)
    random_split_leak(manifest, FRACTIONS, 0)
    pd.testing.assert_frame_equal(manifest, before)


def test_a_flagged_group_is_quarantined_though_its_labels_agree():
    manifest = make_manifest({label: [2, 1, 1, 1] for label in CLASSES})
    manifest.loc[0, "label_conflict"] = True
    assert make_split(manifest, FRACTIONS, 0).quarantined() == ["benign/benign (0).png", "benign/benign (1).png"]


@pytest.mark.parametrize("column", ["path", "duplicate_group", "sha256"])
@pytest.mark.parametrize("pair", list(combinations(PARTS, 2)), ids="-".join)
def test_no_pair_of_parts_may_share_anything(column, pair):
    table = sound()
    one, other = (table.index[table["part"] == part][0] for part in pair)
    table.loc[other, column] = table.loc[one, column]
    with pytest.raises(ValueError, match=column) as caught:
        Split(table)
    assert repr(table.loc[one, column]) in str(caught.value)
    assert pair[0] in str(caught.value) and pair[1] in str(caught.value)


def _lacks_class(table):
    table = table[~((table["part"] == "val") & (table["label"] == "normal"))]
    return table, "val has no normal"


def _two_labels(table):
    row = table.index[(table["part"] == "train") & (table["label"] == "benign")][0]
    other = table.index[(table["part"] == "train") & (table["label"] == "normal")][0]
    table.loc[other, "duplicate_group"] = table.loc[row, "duplicate_group"]
    return table, table.loc[row, "duplicate_group"]


def _cell(column, value, says):
    def change(table):
        table.loc[0, column] = value
        return table, says

    return change


@pytest.mark.parametrize(
    "change",
    [
        _cell("part", "tset", "'tset' for benign"),
        _cell("label", "cyst", "'cyst' for benign"),
        _cell("sha256", None, "needs a sha256"),
        _cell("duplicate_group", "", "needs a duplicate_group"),
        _lacks_class,
        _two_labels,
        lambda table: (pd.concat([table, table.iloc[:1]]), "several for 'benign"),
        lambda table: (table.drop(columns="sha256"), "missing: sha256"),
        lambda table: (table.iloc[:0], "received none"),
    ],
)
def test_a_corrupt_table_is_refused_with_the_offender_named(change):
    Split(sound())
    table, says = change(sound())
    with pytest.raises(ValueError) as caught:
        Split(table)
    assert says in str(caught.value)


def test_a_split_cannot_be_changed():
    split = Split(sound())
    copy = split.table
    copy.loc[:, "part"] = "train"
    assert set(split.table["part"]) == set(PARTS)
    with pytest.raises(AttributeError):
        split.table = sound()


def test_too_few_images_says_how_many_are_needed():
    manifest = make_manifest({"benign": [2, 2, 2], "malignant": [5, 1], "normal": [1, 1, 1]})
    with pytest.raises(ValueError, match=r"at least 3 groups .*malignant: 6 in 2 groups"):
        make_split(manifest, FRACTIONS, 0)


@pytest.mark.parametrize(
    "fractions", [{"train": 0.7, "test": 0.3}, {"train": 1.0, "val": 0.0, "test": 0.0}, {**FRACTIONS, "val": 0.3}]
)
def test_fractions_that_are_not_fractions_are_refused(fractions):
    manifest = make_manifest({label: [1] * 5 for label in CLASSES})
    with pytest.raises(ValueError, match="fractions"):
        make_split(manifest, fractions, 0)


def test_a_manifest_with_text_for_booleans_is_refused():
    manifest = make_manifest({label: [1] * 5 for label in CLASSES}).astype({"label_conflict": str})
    with pytest.raises(ValueError, match="label_conflict must be True or False"):
        make_split(manifest, FRACTIONS, 0)


def test_leak_of_pairs_is_the_fraction_of_train_and_of_single_images_is_nothing():
    pairs = make_manifest({label: [2] * 100 for label in CLASSES})
    leak = random_split_leak(pairs, FRACTIONS, 1)
    # the twin of a test image lies in train with chance 0.7 n / (n - 1)
    assert leak["value"] == pytest.approx(0.7, abs=0.02)
    assert leak["low"] < leak["value"] < leak["high"]
    assert leak["n"] == 90 and leak["splits"] >= 100
    alone = make_manifest({label: [1] * 100 for label in CLASSES})
    assert random_split_leak(alone, FRACTIONS, 1)["high"] == 0
    # what our own split leaks, measured the same way
    table = make_split(pairs, FRACTIONS, 1).table
    train = set(table.loc[table["part"] == "train", "duplicate_group"])
    assert not train & set(table.loc[table["part"] == "test", "duplicate_group"])


def test_the_stage_writes_what_it_promises(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / PARAMS, tmp_path)
    manifest = make_manifest({label: [2] * 10 + [1] * 30 for label in CLASSES}, conflicts=2)
    MANIFEST.parent.mkdir(parents=True)
    manifest.to_csv(MANIFEST, index=False)
    split_stage.main()
    table = pd.read_csv(SPLIT)
    assert list(table.columns) == ["path", "label", "duplicate_group", "part"]
    assert table["path"].tolist() == sorted(manifest["path"])
    report = json.loads(SPLIT_REPORT.read_text())
    assert sum(sum(labels.values()) for labels in report["images"].values()) == len(manifest)
    assert (
        report["groups"][QUARANTINE]
        == table[table["part"] == QUARANTINE].groupby("label").size().reindex(CLASSES, fill_value=0).to_dict()
    )
    assert len(report["quarantined"]) == 4 and report["largest_share_error"] <= 0.03
    assert "random split would leak" in capsys.readouterr().out
    first = SPLIT.read_bytes(), SPLIT_REPORT.read_bytes()
    split_stage.main()
    assert first == (SPLIT.read_bytes(), SPLIT_REPORT.read_bytes())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.builds(
        make_manifest,
        st.fixed_dictionaries(dict.fromkeys(CLASSES, st.lists(st.integers(1, 4), min_size=6, max_size=30))),
        conflicts=st.integers(0, 5),
        seed=st.integers(0, 2**16),
    ),
    st.integers(3, 6),
    st.integers(0, 2**32),
)
def test_each_image_is_tested_in_one_fold_and_quarantine_in_none(manifest, folds, seed):
    splits = make_folds(manifest, folds, 0.15, seed)  # each a Split: groups whole, parts disjoint, classes in all
    assert len(splits) == folds
    tested = pd.concat([split.table[split.table["part"] == "test"] for split in splits])
    conflicting = set(manifest.loc[manifest["label_conflict"], "path"])
    assert sorted(tested["path"]) == sorted(set(manifest["path"]) - conflicting)
    for split in splits:
        assert set(split.quarantined()) == conflicting


def test_folds_are_stratified_and_keep_their_shares():
    manifest = make_manifest({"benign": [1] * 60 + [2] * 40, "malignant": [1] * 70, "normal": [1, 2, 3] * 15})
    for split in make_folds(manifest, 5, 0.15, seed=3):
        assert split.share_error({"train": 0.65, "val": 0.15, "test": 0.2}) <= 0.03


def test_folds_depend_on_the_seed_and_not_on_the_order_of_rows():
    manifest = make_manifest({label: [1, 2] * 10 for label in CLASSES})
    tables = [split.table for split in make_folds(manifest, 4, 0.15, seed=1)]
    for one, other in zip(tables, make_folds(manifest.sample(frac=1, random_state=0), 4, 0.15, seed=1), strict=True):
        pd.testing.assert_frame_equal(one, other.table)
    assert any(
        not one.equals(other.table) for one, other in zip(tables, make_folds(manifest, 4, 0.15, seed=2), strict=True)
    )


def test_too_few_groups_for_the_folds_are_refused_with_their_counts():
    manifest = make_manifest({"benign": [1] * 9, "malignant": [1] * 9, "normal": [2] * 4})
    with pytest.raises(ValueError, match=r"each of 5 folds.*normal: 8 in 4 groups"):
        make_folds(manifest, 5, 0.15, seed=0)


@pytest.mark.parametrize(("folds", "val"), [(1, 0.15), (2, 0.5), (5, 0.8)])
def test_folds_that_leave_nothing_to_train_on_are_refused(folds, val):
    with pytest.raises(ValueError, match="must stay below 1"):
        make_folds(make_manifest({label: [1] * 9 for label in CLASSES}), folds, val, seed=0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(manifests, st.integers(0, 2**32))
def test_a_random_split_keeps_the_images_and_the_size_of_each_class_in_each_part(manifest, seed):
    table = make_split(manifest, FRACTIONS, 0).table
    used = table[table["part"] != QUARANTINE]
    at_random = split_at_random(table, seed)
    assert sorted(at_random["path"]) == sorted(used["path"])
    sizes = [one.groupby(["part", "label"]).size().to_dict() for one in (used, at_random)]
    assert sizes[0] == sizes[1]
    again = split_at_random(table.sample(frac=1, random_state=seed % 1000), seed)
    assert at_random["part"].tolist() == again["part"].tolist()
    tested = at_random[at_random["part"] == "test"]
    trained = set(at_random.loc[at_random["part"] == "train", "duplicate_group"])
    assert has_twin_in_train(at_random).tolist() == [group in trained for group in tested["duplicate_group"]]
    assert not has_twin_in_train(used).any()


def test_a_random_split_leaks_where_there_are_twins():
    table = make_split(make_manifest({label: [2] * 30 for label in CLASSES}), FRACTIONS, 0).table
    assert has_twin_in_train(split_at_random(table, 1)).mean() > 0.4
    assert split_at_random(table, 1)["part"].tolist() != split_at_random(table, 2)["part"].tolist()
