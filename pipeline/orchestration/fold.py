"""One job of a cross-validation, in a folder of its own: `python -m pipeline.orchestration.fold KIND FOLDER`.

The folder looks like the repository root: its params.yaml names the fold; data, weights and code are links; artifacts/
and reports/ are its own. So the stages run as they are, and `dvc repro evaluate` with that params.yaml does the same.

    prefix               every view of some of the images through the frozen prefix, shared by all folds
    fold                 train and evaluate one fold; FOLDER/prefix is a link to the folder of the prefix jobs
    fold-averaged-views  the same; then test images again, as the mean over their mirrored and zoomed views

A job is a process with one thread for TensorFlow that ends with the process that started it. It is finished when
result.json is there. A fold also writes validation.csv, its predictions of the validation images before calibration.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from busi.data.images import prepare, read_image
from busi.data.layout import CLASSES
from pipeline.params import Params, read_params
from pipeline.paths import (
    DATA,
    DVC_FILE,
    FEATURES,
    MANIFEST,
    METRICS,
    MODEL,
    PARAMS,
    PREDICTIONS,
    ROOT,
    ROWS,
    RUN,
    SPLIT,
    STORE,
    WEIGHTS,
)
from pipeline.runtime.atomic_io import atomic_write, write_csv, write_json, write_text
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.runtime.locks import locked
from pipeline.runtime.processes import end_with_parent

RESULT = Path("result.json")
LOG = Path("log.txt")
VALIDATION = Path("validation.csv")
AVERAGED = Path("averaged_views.csv")
LINKS = (*map(str, (DATA, WEIGHTS, DVC_FILE, STORE, MANIFEST.parent)), "pipeline", "src")
# One thread a job, so that sums are made in one order and jobs side by side share the cores
THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}
LAST_LINES = 15  # of a failed job's log, for the error message
ZOOMS = (1.0, 0.9, 1.1)  # of the averaged views, each as it is and mirrored

Kind = Literal["prefix", "fold", "fold-averaged-views"]


def make_folder(folder: Path, params: Params, images: pd.DataFrame, prefix: Path | None = None) -> None:
    """Make a job's folder: parameters, the split (path, label, duplicate_group, part), links to what it shares."""
    links = {name: ROOT / name for name in LINKS} | ({"prefix": prefix} if prefix else {})
    for name, target in links.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(target, link.parent))
    write_text(folder / PARAMS, yaml.safe_dump(params.model_dump(by_alias=True), sort_keys=False))
    write_csv(folder / SPLIT, images)


def run(kind: Kind, folder: str) -> dict:
    """Run a job to its end and return its result; one that is finished is not run again.

    Raises:
        StageError: the job failed, with its last lines, or this machine does not see the folder.
    """
    path = Path(folder)
    if not (path / PARAMS).is_file() or not path.is_relative_to(ROOT):
        raise StageError(
            f"the worker in {ROOT} was given {path}, which is not there or not below it\n"
            "  start workers in the repository that the cross-validation runs in, on a file system that all share"
        )
    if not (path / RESULT).is_file():
        command = [sys.executable, "-m", "pipeline.orchestration.fold", kind, folder]
        with (path / LOG).open("a+", encoding="utf-8") as log:
            environment = os.environ | THREADS | {"TQDM_DISABLE": "1"}
            job = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False)
            log.seek(0)
            lines = log.read().splitlines()[-LAST_LINES:]
        if job.returncode:
            raise StageError("\n".join([f"{path.name} ended with {job.returncode}; the end of {path / LOG}:", *lines]))
    return result_in(path)


def result_in(folder: Path) -> dict:
    """What a finished job wrote down. `seconds` is the processor time of its process.

    A prefix job: views, seconds. A fold: key (of its MLflow run), val_accuracy, model_md5, metrics (those of
    reports/metrics.json), seconds, prefix_seconds (of all prefix jobs that it took features from).
    """
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def main(kind: Kind, folder: Path) -> None:
    """Run a job in this process, and write result.json last."""
    end_with_parent()
    os.chdir(folder)
    with locked(Path(".lock")):  # another worker may have the job too, when it was believed to be lost
        if RESULT.is_file():
            return
        result = run_prefix() if kind == "prefix" else run_fold(averaged=kind == "fold-averaged-views")
        write_json(RESULT, {**result, "seconds": round(time.process_time(), 1)})


def run_prefix() -> dict:
    """Run stage `featurize` in the job's folder."""
    from pipeline.stages import featurize

    with stage("featurize"):
        featurize.main()
    return {"views": len(pd.read_csv(ROWS))}


def run_fold(averaged: bool) -> dict:
    """Train and evaluate the fold in the job's folder; the large files are removed at the end."""
    from pipeline.registry.lineage import md5
    from pipeline.stages import evaluate, train

    with stage("featurize"):
        select_views()
    with stage("train"):
        train.main()
    with stage("evaluate"):
        evaluate.main()
        write_validation()
        if averaged:
            write_averaged_views()
    trained, metrics, model_md5 = (
        json.loads(RUN.read_text(encoding="utf-8")),
        json.loads(METRICS.read_text(encoding="utf-8")),
        md5(MODEL),
    )
    for large in (FEATURES, MODEL):
        large.unlink()
    return {
        **{name: trained[name] for name in ("key", "val_accuracy")},
        "model_md5": model_md5,
        "metrics": metrics,
        "prefix_seconds": sum(result_in(job)["seconds"] for job in Path("prefix").iterdir()),
    }


def select_views() -> None:
    """What stage `featurize` would write for this fold's split, taken from the prefix jobs."""
    from busi.model.features import feature_rows, read_features, select_features

    params = read_params().featurize
    rows = feature_rows(pd.read_csv(SPLIT), params.views)
    parts = []
    for job in sorted(Path("prefix").iterdir()):
        held = pd.read_csv(job / ROWS)
        parts.append((read_features(job / FEATURES, held), held))
    with atomic_write(FEATURES) as partial:
        select_features(parts, rows, partial)
    write_csv(ROWS, rows)


def write_validation() -> None:
    """Predict the validation images from their stored features, without the temperature that was fitted on them."""
    from busi.model.calibration import apply_temperature
    from busi.model.features import read_features
    from busi.model.freezing import cut
    from busi.model.inference import predict
    from busi.model.saving import load_model

    rows = pd.read_csv(ROWS)
    val = rows[rows["part"] == "val"].sort_values("path")
    features = read_features(FEATURES, rows)[val["row"].to_numpy()]
    _, tail = cut(load_model(MODEL), read_params().featurize.boundary)
    called = np.concatenate(list(predict(tail, [features])))
    called = apply_temperature(called, 1 / json.loads(RUN.read_text(encoding="utf-8"))["temperature"])
    groups = pd.read_csv(SPLIT, dtype=str).set_index("path")["duplicate_group"]
    table = val[["path", "label"]].assign(duplicate_group=val["path"].map(groups))
    write_csv(VALIDATION, table.assign(**dict(zip(CLASSES, called.T, strict=True))))


def write_averaged_views() -> None:
    """The test predictions of stage `evaluate` again, each the mean over an image's views."""
    from busi.model.inference import predict
    from busi.model.saving import load_model

    size = read_params().featurize.image_size
    table = pd.read_csv(PREDICTIONS, dtype={"duplicate_group": str})
    batches = (np.stack(list(views_of(prepare(read_image(DATA / path), size)))) for path in table["path"])
    called = np.stack([views.mean(axis=0) for views in predict(load_model(MODEL), batches)])
    table["predicted"] = np.take(CLASSES, called.argmax(axis=1))
    write_csv(AVERAGED, table.assign(**dict(zip(CLASSES, called.T, strict=True))))


def views_of(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """The views of a square image, uint8 (S, S, 3), at every zoom, as it is and mirrored; the image itself is first."""
    side = pixels.shape[0]
    for zoom in ZOOMS:
        edge = side * (1 - 1 / zoom) / 2
        window = (edge, edge, side - edge, side - edge)
        view = Image.fromarray(pixels).transform(
            (side, side), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR
        )
        yield np.asarray(view)
        yield np.asarray(view)[:, ::-1]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
