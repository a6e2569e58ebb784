"""The plan of a cross-validation: its folds, with the parameters and the folder of each.

A fold's folder is named by a hash of what decides its result: code, images, manifest, weights and parameters, as
dvc.yaml declares them for the stages split, featurize, train and evaluate. What records or draws a result is not in
the hash, so a finished fold survives an edit to the tracking or to the report.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from busi.data.split import QUARANTINE, make_folds
from pipeline.orchestration import fold
from pipeline.orchestration.dvc_file import outputs_of, read_stages
from pipeline.params import Params
from pipeline.paths import DATA, MANIFEST, ROOT
from pipeline.runtime.atomic_io import sha256
from pipeline.runtime.errors import StageError

FOLDER = Path("artifacts/crossval")
STAGES = ("split", "featurize", "train", "evaluate")  # of a fold
JOB = "pipeline/orchestration/fold.py"  # runs them, and no stage declares it
PREFIX_IMAGES = 200  # images a prefix job, so that several workers have something to do
KEY = 12  # digits of a hash that name a folder


@dataclass(frozen=True)
class Experiment:
    """What is cross-validated.

    Args:
        params: of params.yaml. `split.seed` is the split seed of the first repeat.
        folds: number of folds, 2 or more; each image is tested in one of them.
        repeats: how often the images are divided into folds; each repeat adds 1 to the split seed.
        grouped: near-duplicates stay in one part and conflicting labels in quarantine. False: plain random folds of all
            images, stratified by class.
        trainings: trainings a fold, which differ in `train.seed`; their probabilities are averaged.
        averaged_views: test images are predicted as the mean over their mirrored and zoomed views.
    """

    params: Params
    folds: int
    repeats: int = 1
    grouped: bool = True
    trainings: int = 1
    averaged_views: bool = False

    def settings(self) -> dict[str, int | bool]:
        """Everything but the parameters, as the MLflow run records it."""
        return {name: value for name, value in vars(self).items() if name != "params"}


@dataclass(frozen=True)
class Fold:
    """One training of one fold: its numbers, its parameters, its images with their parts, and the folder it runs in."""

    name: str
    repeat: int
    number: int
    params: Params
    images: pd.DataFrame
    kind: fold.Kind
    key: str
    folder: Path

    @property
    def is_finished(self) -> bool:
        return (self.folder / fold.RESULT).is_file()

    def result(self) -> dict:
        """What its job wrote down, as `fold.result_in` says."""
        return fold.result_in(self.folder)


def read_manifest() -> pd.DataFrame:
    """The manifest, of the images that are in `data/` now.

    Raises:
        StageError: there is none, or it is of other images.
    """
    if not MANIFEST.is_file():
        raise StageError(f"{MANIFEST} not found\n  run `dvc repro validate`, which makes it")
    manifest = pd.read_csv(MANIFEST, dtype={"duplicate_group": str, "sha256": str}, keep_default_na=False)
    changed = [
        path
        for path, expected in zip(manifest["path"], manifest["sha256"], strict=True)
        if not (DATA / path).is_file() or sha256(DATA / path) != expected
    ]
    if changed:
        raise StageError(
            f"{len(changed)} images of {MANIFEST} are not in {DATA}/ as it says, the first is {changed[0]}\n"
            "  run `dvc repro validate`"
        )
    return manifest


def divide(manifest: pd.DataFrame, params: Params, folds: int, grouped: bool) -> list[pd.DataFrame]:
    """Divide the images into folds by the split seed of `params`.

    Returns:
        A table a fold with path, label, duplicate_group and part (of `busi.data.split.PARTS`), sorted by path.

    Raises:
        ValueError: a class has too few groups for so many folds, or nothing would be left to train on.
    """
    columns = ["path", "label", "duplicate_group", "part"]
    by_group = [split.table[columns] for split in make_folds(manifest, folds, params.split.val, params.split.seed)]
    if grouped:
        return by_group
    images, rng, divided = by_group[0][columns[:-1]], np.random.default_rng(params.split.seed), []
    division = StratifiedKFold(folds, shuffle=True, random_state=params.split.seed)
    for rest, test in division.split(images, images["label"]):
        part = np.full(len(images), "train", dtype=object)
        part[test] = "test"
        part[rng.choice(rest, round(params.split.val * len(images)), replace=False)] = "val"
        divided.append(images.assign(part=part))
    return divided


def plan(experiment: Experiment, manifest: pd.DataFrame, sums: Mapping[str, str]) -> list[Fold]:
    """Every training of every fold. `train.seed` is each training's own.

    Args:
        sums: of `sums_of_inputs`.

    Raises:
        ValueError: as `divide`.
    """
    params, folds, trainings = experiment.params, experiment.folds, experiment.trainings
    test = round(1 / folds, 12)
    shares = {"train": round(1 - test - params.split.val, 12), "test": test, "folds": folds}
    kind = "fold-averaged-views" if experiment.averaged_views else "fold"
    planned = []
    for repeat in range(experiment.repeats):
        of_repeat = changed(params, {"split": {"seed": params.split.seed + repeat}})
        for number, images in enumerate(divide(manifest, of_repeat, folds, experiment.grouped)):
            for training in range(trainings):
                seed = params.train.seed + (repeat * trainings + training) * folds + number
                own = changed(of_repeat, {"split": {**shares, "fold": number}, "train": {"seed": seed}})
                key = digest([sums, own.of_training(), own.evaluate.model_dump(), kind, images.to_csv(index=False)])
                folder = FOLDER / "folds" / f"{repeat}-{number}-of-{folds}-{key[:KEY]}"
                name = f"repeat {repeat} fold {number}" + (f" training {training}" if trainings > 1 else "")
                planned.append(Fold(name, repeat, number, own, images, kind, key, folder))
    return planned


def make_folders(planned: list[Fold], sums: Mapping[str, str]) -> list[Path]:
    """Make the folders of all jobs; returns those of the prefix jobs.

    Features depend on image, view and the section `featurize`, never on the split: each prefix job takes some of the
    images and all of their views, as if all were for training.
    """
    params, images = planned[0].params, planned[0].images
    images = images.loc[images["part"] != QUARANTINE, ["path", "label"]].assign(part="train")
    read = {*_declared("featurize", params), JOB}
    decides = [{name: sums[name] for name in sums if name in read}, params.featurize.model_dump()]
    prefix = FOLDER / "prefix" / digest([*decides, images.to_csv(index=False)])[:KEY]
    jobs = []
    for number in range(-(-len(images) // PREFIX_IMAGES)):
        job = prefix / f"{number:03d}"
        some = images[number * PREFIX_IMAGES : (number + 1) * PREFIX_IMAGES]
        fold.make_folder(job, params, some)
        jobs.append(job)
    for one in planned:
        fold.make_folder(one.folder, one.params, one.images, prefix=prefix)
    return jobs


def sums_of_inputs(params: Params) -> dict[str, str]:
    """The sha256 of everything that all folds read, by its name in dvc.yaml.

    A directory's is over the names and bytes of its files, without `__pycache__`.

    Raises:
        StageError: something is missing.
    """
    stages = read_stages(ROOT)
    made = {out for one in STAGES for out in outputs_of(stages[one])}
    names = {name for one in STAGES for name in _declared(one, params)} - made | {JOB}
    if missing := sorted(name for name in names if not (ROOT / name).exists()):
        raise StageError(
            f"{', '.join(missing)} not found\n  `busi data` brings images in, `busi weights` the weights of ImageNet, "
            "and `dvc repro validate` makes the manifest"
        )
    return {name: _sum(ROOT / name) for name in sorted(names)}


def changed(params: Params, changes: Mapping[str, Mapping[str, object]]) -> Params:
    """The parameters with some values changed: section -> key -> value. They are checked as params.yaml is."""
    values = params.model_dump(by_alias=True)
    return Params.model_validate(values | {section: values[section] | dict(new) for section, new in changes.items()})


def digest(value: object) -> str:
    """The sha256 of a value as JSON, 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sum(path: Path) -> str:
    if path.is_file():
        return sha256(path)
    found = {}
    for folder, _, names in os.walk(path, followlinks=True):
        if Path(folder).name != "__pycache__":
            found |= {(Path(folder) / name).relative_to(path).as_posix(): Path(folder) / name for name in names}
    return digest({name: sha256(file) for name, file in found.items()})


def _declared(name: str, params: Params) -> list[str]:
    """The dependencies of a stage, as dvc.yaml names them."""
    return [dep.replace("${featurize.weights}", params.featurize.weights) for dep in read_stages(ROOT)[name]["deps"]]
