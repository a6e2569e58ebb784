"""pretrain: make weights/ultrasound.weights.h5 from phantoms. Not a stage: its result is committed.

`python -m pipeline.pretrain` continues from its checkpoint under .cache/pretrain when there is one.
"""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import typer
from tqdm import tqdm

from pipeline import CACHE
from pipeline.outputs import StageError, stage, whole_file, write_json

WEIGHTS = Path("weights/ultrasound.weights.h5")
FOLDER = CACHE / "pretrain"

# Image size and share of the steps. Small images first: the coarse structure is learnt at a quarter of the cost
# (progressive resizing)
PHASES = ((64, 0.65), (128, 0.35))
BATCH = 32
WARM_UP = 100
REPORT_EVERY = 25


def main(
    steps: int = typer.Option(850, help=f"Optimiser steps in all, {BATCH} new phantoms each."),
    learning_rate: float = typer.Option(1e-3, help="Peak of the schedule: linear warm-up, then cosine to zero."),
    seed: int = typer.Option(6, help="Of the sequence of phantoms and of the initial weights."),
    workers: int = typer.Option(1, help="Processes that render phantoms."),
) -> None:
    """Pretrain DenseNet121 on phantoms and export the backbone."""
    from busi.model import seed_everything
    from busi.pretraining import build_pretrainer, compile_pretrainer, export_backbone, stream

    seed_everything(seed)
    model, backbone = build_pretrainer()
    compile_pretrainer(model, learning_rate)
    FOLDER.mkdir(parents=True, exist_ok=True)
    checkpoint, progress_file = FOLDER / "model.weights.h5", FOLDER / "state.json"
    asked = {"steps": steps, "learning_rate": learning_rate, "seed": seed}
    state = {"asked": asked, "step": 0, "log": []}
    if progress_file.is_file():
        state = json.loads(progress_file.read_text())
        if state["asked"] != asked:
            raise StageError(f"{FOLDER} holds a run of {state['asked']}\n  continue that one, or remove the folder")
        model.load_weights(checkpoint)

    ends = np.rint(np.cumsum([steps * share for _, share in PHASES])).astype(int)
    recent = []
    with tqdm(total=steps, initial=state["step"], unit="step", mininterval=5) as bar:
        for (size, _), end in zip(PHASES, ends, strict=True):
            batches = stream(seed, state["step"] * BATCH, BATCH, size, workers)
            while state["step"] < end:
                batch = next(batches)
                rate = learning_rate * 0.5 * (1 + math.cos(math.pi * state["step"] / steps))
                model.optimizer.learning_rate.assign(rate * min(1, (state["step"] + 1) / WARM_UP))
                pixels = batch.pixels.astype(np.float32)
                result = model.train_on_batch(pixels, batch.targets, batch.weights, return_dict=True)
                recent.append([float(result["loss"]), float(result["class_accuracy"])])
                state["step"] += 1
                bar.update()
                if state["step"] % REPORT_EVERY == 0 or state["step"] == end:
                    loss, accuracy = np.mean(recent, axis=0)
                    recent = []
                    state["log"].append({"step": state["step"], "size": size, "loss": loss, "accuracy": accuracy})
                    bar.set_postfix(size=size, loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
                    partial = FOLDER / "partial.weights.h5"
                    model.save_weights(partial)
                    os.replace(partial, checkpoint)
                    write_json(progress_file, state)
            batches.close()

    with whole_file(WEIGHTS) as partial:
        export = partial.with_name("partial.weights.h5")
        export_backbone(backbone, export)
        os.replace(export, partial)
    shutil.rmtree(FOLDER)
    last = state["log"][-1]
    print(
        f"pretrain: {steps * BATCH} phantoms, class accuracy of the last batches {last['accuracy']:.3f}; "
        f"wrote {WEIGHTS}"
    )


if __name__ == "__main__":
    with stage("pretrain"):
        typer.run(main)
