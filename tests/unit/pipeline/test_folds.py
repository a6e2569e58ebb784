"""The plan of a cross-validation: how images are divided, which numbers each fold has, and what decides its result."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busi.data.layout import CLASSES
from busi.data.split import QUARANTINE
from pipeline.orchestration import crossval, fold, folds
from pipeline.orchestration.folds import Experiment
from pipeline.params import read_params

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def manifest() -> pd.DataFrame:
    """Ten pairs of twins a class, one pair of two labels."""
    rows = [(f"{label}/{label} ({i}).png", label, f"{label}-{i // 2}") for label in CLASSES for i in range(20)]
    table = pd.DataFrame(rows, columns=["path", "label", "duplicate_group"])
    table["duplicate_group"] = table["duplicate_group"].replace("normal-0", "benign-0")
    table["label_conflict"] = table["duplicate_group"] == "benign-0"
    return table.assign(sha256=[f"{i:064x}" for i in range(len(table))])


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A copy of the code, with a manifest and an image that are only there to be hashed."""
    for name in ("pipeline", "src", "weights"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.h5"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for name in ("artifacts/validate/manifest.csv", "data/benign/benign (1).png", "weights/ultrasound.weights.h5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
    monkeypatch.setattr(folds, "ROOT", tmp_path)
    return tmp_path


def keys(repository: Path, manifest: pd.DataFrame, **params: dict) -> list[str]:
    experiment = Experiment(folds.changed(read_params(ROOT / "params.yaml"), params), folds=2)
    return [one.key for one in folds.plan(experiment, manifest, folds.sums_of_inputs(experiment.params))]


def test_grouped_folds_keep_groups_whole_and_random_folds_test_everything(manifest):
    params = read_params()
    for grouped, tested in ((True, 56), (False, 60)):
        divided = folds.divide(manifest, params, 5, grouped)
        paths = [path for images in divided for path in images.loc[images["part"] == "test", "path"]]
        assert len(paths) == len(set(paths)) == tested
        assert all(abs((images["part"] == "val").mean() - params.split.val) < 0.05 for images in divided)
        assert all((images["part"] == QUARANTINE).any() == grouped for images in divided)
        assert all((images.groupby("duplicate_group")["part"].nunique() == 1).all() == grouped for images in divided)


def test_every_training_has_its_own_seed_and_every_repeat_its_own_split_seed(manifest):
    params = read_params()
    planned = folds.plan(Experiment(params, folds=5, repeats=2, trainings=3), manifest, {})
    assert len({one.params.train.seed for one in planned}) == len({one.folder for one in planned}) == 30
    assert {one.repeat: one.params.split.seed - params.split.seed for one in planned} == {0: 0, 1: 1}
    assert {(one.params.split.folds, one.params.split.fold) for one in planned} == {(5, number) for number in range(5)}
    # The folds of `busi crossval` are among them, whatever else is asked for
    plain = folds.plan(Experiment(params, folds=5), manifest, {})
    assert {one.key for one in plain} < {one.key for one in planned}


@pytest.mark.parametrize(
    "recorder",
    ["src/busi/reporting/templates/report.html.j2", "src/busi/reporting/figures.py", "pipeline/tracking/runs.py"],
)
def test_an_edit_to_what_records_or_draws_leaves_finished_folds_valid(repository, manifest, recorder):
    before = keys(repository, manifest)
    with (repository / recorder).open("a") as file:
        file.write("\n# edited\n")
    (repository / "src/busi/model/__pycache__").mkdir()
    (repository / "src/busi/model/__pycache__/network.pyc").write_text("compiled")
    assert keys(repository, manifest) == before


@pytest.mark.parametrize(
    "decider",
    ["src/busi/model/network.py", "pipeline/stages/train.py", "data/benign/benign (1).png",
     "artifacts/validate/manifest.csv", "weights/ultrasound.weights.h5", "pipeline/orchestration/fold.py"],
)  # fmt: skip
def test_an_edit_to_what_decides_a_result_makes_new_folds(repository, manifest, decider):
    before = keys(repository, manifest)
    with (repository / decider).open("a") as file:
        file.write("\n# edited\n")
    assert not set(keys(repository, manifest)) & set(before)


def test_a_parameter_that_decides_a_result_makes_new_folds_and_one_of_the_gate_does_not(repository, manifest):
    before = keys(repository, manifest)
    assert not set(keys(repository, manifest, train={"patience": 3})) & set(before)
    assert keys(repository, manifest, register={"gate_slice_images": 30}) == before


def test_averaged_views_begin_with_the_image_itself_and_have_its_mirror_image():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    views = list(fold.views_of(pixels))
    assert len(views) == 6
    np.testing.assert_array_equal(views[0], pixels)
    np.testing.assert_array_equal(views[1], pixels[:, ::-1])
    assert len({view.tobytes() for view in views}) == 6


def test_probabilities_of_several_trainings_are_averaged_fold_by_fold():
    rows = [(0, number, "a", "benign", "g", training / 10, 1 - training / 10, 0.0)
            for number in range(2) for training in range(number, number + 3)]  # fmt: skip
    columns = ["repeat", "fold", "path", "label", "duplicate_group", *CLASSES]
    mean = crossval.mean_of_trainings(pd.DataFrame(rows, columns=columns))
    assert mean["fold"].tolist() == [0, 1]
    np.testing.assert_allclose(mean[CLASSES[0]], [0.1, 0.2])
