"""Make weights/ultrasound.weights.h5 from phantoms: `busi pretrain`. Not a stage: its result is committed.

Continues from its checkpoint under .cache/pretrain when there is one. Runs on any Keras backend, so on a GPU that JAX
knows: `busi pretrain --backend jax --workers 12`. Beside the weights it writes how they were made,
weights/ultrasound.json.
"""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from pipeline.paths import CACHE, WEIGHTS
from pipeline.runtime.atomic_io import atomic_write, write_json
from pipeline.runtime.errors import StageError

BACKBONE = WEIGHTS / "ultrasound.weights.h5"
MADE = WEIGHTS / "ultrasound.json"
FOLDER = CACHE / "pretrain"

BACKENDS = ("tensorflow", "jax", "torch")
SIZE = 128  # pixels a side
PHANTOMS = 64  # new ones a step
WARM_UP = 100  # steps
REPORT_EVERY = 50  # steps
CHECKPOINT_EVERY = 60  # seconds


def run(*, steps: int, learning_rate: float, seed: int, workers: int, backend: str, mlflow: bool) -> None:
    """Pretrain DenseNet121 on phantoms and export the backbone.

    Args:
        steps: optimiser steps in all, `PHANTOMS` new phantoms each.
        learning_rate: peak of the schedule, a linear warm-up and then a cosine to zero.
        seed: of the sequence of phantoms and of the initial weights.
        workers: processes that render phantoms.
        backend: of Keras; its package must be installed.
        mlflow: log the run to MLflow.

    Raises:
        StageError: the checkpoint is of a run with other values; or there is no such backend.
    """
    if backend not in BACKENDS:
        raise StageError(f"no Keras backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    if not importlib.util.find_spec(backend):
        raise StageError(f"{backend} is not installed, and the lock file does not have it\n  pip install {backend}")
    os.environ["KERAS_BACKEND"] = backend  # before Keras is imported
    from busi.backend import keras
    from busi.pretraining.network import build_pretrainer, compile_pretrainer, export_backbone, train_step
    from busi.pretraining.phantom_stream import stream

    keras.utils.set_random_seed(seed)
    model, backbone = build_pretrainer()
    compile_pretrainer(model, learning_rate)
    FOLDER.mkdir(parents=True, exist_ok=True)
    checkpoint, progress_file = FOLDER / "model.weights.h5", FOLDER / "state.json"
    asked = {"steps": steps, "learning_rate": learning_rate, "seed": seed, "phantoms": PHANTOMS, "size": SIZE}
    state = {"asked": asked, "step": 0, "seconds": 0.0, "log": []}
    if progress_file.is_file():
        state = json.loads(progress_file.read_text(encoding="utf-8"))
        if state["asked"] != asked:
            raise StageError(
                f"{FOLDER} holds a run of {state['asked']}; this one is of {asked}\n"
                "  continue that one, or remove the folder"
            )
        model.load_weights(checkpoint)

    begun, kept = time.monotonic() - state["seconds"], time.monotonic()
    recent = []
    batches = stream(seed, state["step"] * PHANTOMS, PHANTOMS, SIZE, workers)
    with (
        contextlib.closing(batches),
        _logger(asked, mlflow) as log,
        tqdm(total=steps, initial=state["step"], unit="step", mininterval=5) as bar,
    ):
        while state["step"] < steps:
            rate = learning_rate * 0.5 * (1 + math.cos(math.pi * state["step"] / steps))
            model.optimizer.learning_rate.assign(rate * min(1, (state["step"] + 1) / WARM_UP))
            result = train_step(model, next(batches))
            recent.append([float(result["loss"]), float(result["class_accuracy"])])
            state["step"] += 1
            bar.update()
            if state["step"] % REPORT_EVERY and state["step"] < steps:
                continue
            loss, accuracy = np.mean(recent, axis=0).round(4).tolist()
            recent = []
            state["log"].append({"step": state["step"], "loss": loss, "accuracy": accuracy})
            state["seconds"] = round(time.monotonic() - begun, 1)
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
            log(state["step"], {"loss": loss, "accuracy": accuracy})
            if time.monotonic() - kept > CHECKPOINT_EVERY:
                partial = FOLDER / "partial.weights.h5"
                model.save_weights(partial)
                os.replace(partial, checkpoint)
                write_json(progress_file, state)
                kept = time.monotonic()

    with atomic_write(BACKBONE) as partial:
        export = partial.with_name("partial.weights.h5")
        export_backbone(backbone, export)
        os.replace(export, partial)
    made = {"keras": keras.__version__, "backend": keras.backend.backend(), "seconds": state["seconds"]}
    write_json(MADE, {**asked, **made, "log": state["log"]})
    shutil.rmtree(FOLDER)
    last = state["log"][-1]
    print(
        f"pretrain: {steps * PHANTOMS} phantoms, class accuracy of the last batches {last['accuracy']:.3f}; "
        f"wrote {BACKBONE}"
    )


@contextlib.contextmanager
def _logger(asked: dict, mlflow: bool) -> Iterator[Callable[[int, dict], None]]:
    """Yield a function that logs the metrics of a step to MLflow, or one that does nothing where `mlflow` is false."""
    if not mlflow:
        yield lambda step, metrics: None
        return
    from pipeline.tracking import runs

    key = hashlib.sha256(json.dumps({"pretrain": asked}, sort_keys=True).encode()).hexdigest()
    with runs.run(key, f"pretraining-{key[:8]}") as run:
        run.log_params({"pretrain": asked})
        yield run.log_epoch
