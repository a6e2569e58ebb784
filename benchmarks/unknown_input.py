"""How many images the check for unknown input takes and refuses: `python -m benchmarks.unknown_input`.

Reads what the last `dvc repro` left: the model, its `novelty.npz`, and the split with its images. Measures the share of
test images accepted (with its Wilson interval), and the share refused of pictures that are no breast ultrasound: made
here (lesion masks where the data set has some, noise of five kinds, blank frames, mammogram-like and text pictures),
scikit-learn's two photographs, and every subfolder of `--pictures`, a kind each.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_images
from tabulate import tabulate

from busi.data.images import prepare, read_image
from busi.data.layout import IMAGE_SUFFIXES
from busi.evaluation.resampling import wilson_share
from busi.model.inference import compile_pass
from busi.model.ood_detection import OodDetector
from pipeline.paths import DATA, MODEL, OOD_DETECTOR, SPLIT

SIDE = 400
SEED = 0
MASKS = 150


def main(pictures: Annotated[Path | None, typer.Option(help="a folder with a folder of images a kind")] = None) -> None:
    from busi.model.saving import load_model

    model, detector = load_model(MODEL), OodDetector.load(OOD_DETECTOR)
    look, size = compile_pass(model), model.input_shape[1]

    def refused(images: list[Image.Image]) -> int:
        pixels = np.stack([prepare(image, size) for image in images])
        batches = [look(pixels[start : start + 32]).ood_features for start in range(0, len(pixels), 32)]
        return int((detector.distance(np.concatenate(batches)) > detector.threshold).sum())

    split = pd.read_csv(SPLIT, dtype=str)
    tested = [read_image(DATA / path) for path in split.loc[split["part"] == "test", "path"]]
    taken = len(tested) - refused(tested)
    rows, total, count = [], 0, 0
    for kind, images in kinds(pictures).items():
        found = refused(images)
        rows.append((kind, *_share(found, len(images))))
        total, count = total + found, count + len(images)
    rows.append(("all of these", *_share(total, count)))
    print(tabulate([("test images, accepted", *_share(taken, len(tested)))], tablefmt="github"))
    print(tabulate(rows, headers=["refused", "share", "Wilson interval", "n"], tablefmt="github"))


def kinds(pictures: Path | None) -> dict[str, list[Image.Image]]:
    """Pictures that are no breast ultrasound, by kind."""
    rng = np.random.default_rng(SEED)
    noise = {
        "noise, uniform": [_gray(rng.integers(0, 256, (SIDE, SIDE))) for _ in range(20)],
        "noise, Gaussian": [
            _gray(rng.normal(rng.uniform(60, 180), rng.uniform(10, 60), (SIDE, SIDE))) for _ in range(20)
        ],
        "noise, 1/f": [_gray(255 * _fractal(rng, exponent)) for exponent in np.linspace(0.5, 3, 20)],
        "speckle without anatomy": [_gray(_speckle(rng)) for _ in range(20)],
        "blank or a ramp": [
            *(Image.new("L", (SIDE, SIDE), int(level)) for level in np.linspace(0, 255, 18)),
            Image.linear_gradient("L"),
            Image.radial_gradient("L"),
        ],
        "mammogram-like": [_mammogram(rng) for _ in range(40)],
        "page of text": [_page(rng) for _ in range(20)],
        "photograph (scikit-learn's)": [Image.fromarray(photo) for photo in load_sample_images().images],
    }
    masks = sorted(DATA.rglob("*_mask*.png"))[:MASKS]
    if masks:
        noise["lesion mask"] = [read_image(path) for path in masks]
    for folder in sorted(path for path in pictures.iterdir() if path.is_dir()) if pictures else []:
        noise[folder.name] = [read_image(p) for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    return noise


def _share(count: int, n: int) -> tuple[str, str, int]:
    low, high = wilson_share(count, n, 0.95)[1:3]
    return f"{count / n:.3f}", f"{low:.3f} to {high:.3f}", n


def _gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _fractal(rng: np.random.Generator, exponent: float, side: int = SIDE) -> np.ndarray:
    """A random field with a power spectrum of 1 / f^exponent, 0 to 1."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency ** (exponent / 2)).real
    return (field - field.min()) / np.ptp(field)


def _speckle(rng: np.random.Generator) -> np.ndarray:
    """Fully developed speckle, log-compressed, over the whole frame."""
    width = rng.uniform(0.7, 3)
    envelope = np.hypot(*(gaussian_filter(rng.normal(size=(SIDE, SIDE)), width) for _ in range(2)))
    return 255 * (1 + 20 * np.log10(envelope / envelope.max() + 1e-6) / rng.uniform(40, 60))


def _mammogram(rng: np.random.Generator) -> Image.Image:
    """A half disc of smooth, fractal tissue on black, some with a muscle in the corner."""
    height, width = 640, 480
    y, x = np.mgrid[:height, :width]
    inside = ((y - height * rng.uniform(0.4, 0.6)) / (height * rng.uniform(0.25, 0.45))) ** 2
    inside = np.clip(1 - inside - (x / (width * rng.uniform(0.55, 0.9))) ** 2, 0, 1)
    tissue = inside**0.4 * (60 + 120 * _fractal(rng, rng.uniform(2.5, 3.2), height)[:, :width]) + 15 * (inside > 0)
    if rng.random() < 0.5:
        tissue += 60 * ((x + y) < rng.uniform(200, 350)) * (inside > 0)
    return _gray(tissue).filter(ImageFilter.GaussianBlur(1))


def _page(rng: np.random.Generator) -> Image.Image:
    page = Image.new("L", (SIDE, 2 * SIDE), 255)
    draw = ImageDraw.Draw(page)
    for line in range(10, 2 * SIDE - 20, int(rng.integers(12, 24))):
        draw.text((10, line), "".join(map(chr, rng.integers(97, 123, 55))), fill=int(rng.integers(0, 90)))
    return page


if __name__ == "__main__":
    typer.run(main)
