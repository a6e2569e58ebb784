"""Prediction, of many images, of one and over REST: `python -m benchmarks.prediction`.

The model is the network at the size in `params.yaml` with the pretrained weights; what it says does not matter here.
Both sides have compiled before anything is measured. Ours is `busi predict`, with the check for unknown
input; theirs a loop that opens 32 files with Pillow, resizes them and calls `model.predict` of the same network, loaded
by Keras. REST is `busi serve` with a model that was trained for two epochs and promoted.
"""

import base64
import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import typer
from PIL import Image
from tqdm import tqdm

from benchmarks import harness
from busi import DISCLAIMER
from pipeline.params import read_params
from pipeline.serving.ports import UI_PORTS, choose_port
from pipeline.serving.predict import classify

BATCH = 32
SMALL = {
    "data.phantom.benign": 60, "data.phantom.malignant": 48, "data.phantom.normal": 36,
    "train.head_epochs": 1, "train.tail_epochs": 1,
}  # fmt: skip


def main(images: harness.Images = None, quick: harness.Quick = False) -> None:
    files = harness.pictures(harness.images(images, 100 if quick else 780))
    repeats = 1 if quick else harness.REPEATS
    ours, theirs, size = models()
    measure_batches(ours, theirs, size, files, repeats, quick)
    measure_one(ours, theirs, size, files, 6 if quick else 61, quick)
    measure_rest(harness.pictures(harness.images(None, 100)), 10 if quick else 100, quick)


def models():
    """The project's classifier, the same network as Keras loads it, and the side of its input."""
    from busi.backend import keras
    from busi.model.inference import compile_pass
    from busi.model.network import build_model
    from busi.model.ood_detection import fit_detector
    from busi.model.saving import save_model
    from busi.serving import ImageClassifier

    size = read_params().featurize.image_size
    keras.utils.set_random_seed(0)
    path = harness.PLACE / "network.keras"
    save_model(build_model(size, 0.0, harness.ROOT / "weights/ultrasound.weights.h5"), path)
    model = keras.models.load_model(path, compile=False)
    noise = np.random.default_rng(0).integers(0, 256, (60, size, size, 3), dtype=np.uint8)
    ood_features = compile_pass(model)(noise).ood_features
    return (
        ImageClassifier(model, fit_detector(ood_features[:40], ood_features[40:], 1.0), "benchmark"),
        keras.models.load_model(path),
        size,
    )


def measure_batches(ours, theirs, size: int, files: list[Path], repeats: int, quick: bool) -> None:
    silent = tqdm(disable=True)

    def loop():
        for start in range(0, len(files), BATCH):
            theirs.predict(pixels_of(files[start : start + BATCH], size), verbose=0)

    runs = {"a loop of model.predict": loop, "pipeline.predict": lambda: list(classify(ours, files, silent))}
    for run in runs.values():
        run()
    seconds = harness.alternate(runs, repeats)
    ratio = harness.quotients(seconds["a loop of model.predict"], seconds["pipeline.predict"])
    harness.record(
        quick, "batch", f"batch prediction, {len(files)} native-size images from files to probabilities",
        "a loop of `model.predict`, batch 32, fp32", "≥ 3×",
        f"{harness.spread(ratio, '×')}: {harness.spread(seconds['a loop of model.predict'], ' s')} to "
        f"{harness.spread(seconds['pipeline.predict'], ' s')}",
        harness.median(ratio) >= 3, {"ratio": ratio, **seconds},
    )  # fmt: skip


def measure_one(ours, theirs, size: int, files: list[Path], repeats: int, quick: bool) -> None:
    """One file at a time, from the disk to what is said of it."""
    seconds: dict[str, list[float]] = {"model.predict": [], "ours": []}

    def measure(name: str, run: Callable, argument: object) -> None:
        started = time.perf_counter()
        run(argument)
        seconds[name].append(time.perf_counter() - started)

    for path in files[:repeats]:
        measure("model.predict", lambda path: theirs.predict(pixels_of([path], size), verbose=0), path)
        measure("ours", lambda path: ours.predict([path.read_bytes()]), path)
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first compiles for its size
    ratio = harness.quotients(seconds["model.predict"], seconds["ours"])
    milliseconds = {name: [1000 * one for one in values] for name, values in seconds.items()}
    median = harness.median(milliseconds["ours"])
    harness.record(
        quick, "one", "one image through the loaded model, from its file",
        "`model.predict` on one image, from its file", "≥ 5×; p50 ≤ 60 ms",
        f"{harness.spread(ratio, '×')}: {harness.spread(milliseconds['model.predict'], ' ms')} to "
        f"{harness.spread(milliseconds['ours'], ' ms')}",
        harness.median(ratio) >= 5 and median <= 60, {"ratio": ratio, **milliseconds},
    )  # fmt: skip


def pixels_of(files: list[Path], size: int) -> np.ndarray:
    """As one would read them for `model.predict`."""
    pictures = [Image.open(path).convert("RGB").resize((size, size)) for path in files]
    return np.stack([np.asarray(picture, np.float32) for picture in pictures])


def measure_rest(files: list[Path], requests: int, quick: bool) -> None:
    """Requests of one image, by one client and by four at once."""
    bodies = [
        json.dumps({"dataframe_records": [{"image": base64.b64encode(path.read_bytes()).decode()}]}).encode()
        for path in files[:50]
    ]

    def ask(address: str, number: int) -> float:
        headers = {"Content-Type": "application/json"}
        started = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(address, bodies[number % len(bodies)], headers)) as answer:
            answer.read()
        return 1000 * (time.perf_counter() - started)

    figures = {}
    with served() as address:
        for clients in (1, 4):
            with ThreadPoolExecutor(clients) as pool:
                list(pool.map(lambda number: ask(address, number), range(10)))
                figures[f"{clients} at once"] = list(pool.map(lambda n: ask(address, n), range(requests * clients)))
    shown = [
        f"{name}: p50 {np.percentile(ms, 50):.0f} ms, p99 {np.percentile(ms, 99):.0f} ms (n = {len(ms)})"
        for name, ms in figures.items()
    ]
    harness.record(quick, "rest", "REST, one image, 1 and 4 clients", "–", "–", "; ".join(shown), None, figures)


@contextlib.contextmanager
def served():
    """The address of an endpoint on a small model of its own, as long as the block lasts."""
    folder = harness.clone("rest", SMALL)
    harness.busi(folder, "data", "phantom")
    harness.python(folder, "-m", "dvc", "repro")
    harness.busi(folder, "promote", "1", "--force", "--reason", "to measure it", "--yes")
    port = choose_port(None, UI_PORTS)
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "pipeline.cli", "serve", "--port", str(port)],
        cwd=folder,
        env=harness.environment(folder),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        if not any(DISCLAIMER in line for line in server.stdout):
            sys.exit("busi serve did not come up")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


if __name__ == "__main__":
    typer.run(main)
