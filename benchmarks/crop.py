"""What the app's crop to the scan does to the answers: `python -m benchmarks.crop [--model NAME]`.

The test images of the Production model as they are, with the crop that is proposed, on a black screen with text around
them, and with the crop that is proposed there. For each: how many the model accepts as ultrasound, and how many of all
its largest probability gets right. The images must be those of `data/`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from pipeline.registry import production

from busi.data import images  # isort: skip - `pipeline` makes it importable
from busi.reporting import viewing  # isort: skip - `pipeline` makes it importable

TEXTS = ("BREAST CLINIC", "LT UOQ 2.5 CM", "MI 0.9")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    found = production.load(parser.parse_args().model or production.default_name())
    rng, table = np.random.default_rng(0), found.predictions
    scans = [images.to_gray(images.read_image(Path("data") / path)) for path in table["path"]]
    screens = [on_screen(rng, scan) for scan in scans]
    rows = []
    for name, shown in (
        ("as they are", scans),
        ("cropped", [cropped(scan) for scan in scans]),
        ("on a screen", screens),
        ("on a screen, cropped", [cropped(screen) for screen in screens]),
    ):
        said = found.classifier.predict([viewing.png(gray) for gray in shown])
        likeliest = pd.DataFrame(list(said["probabilities"])).idxmax(axis=1)
        right = int((likeliest == table["label"]).sum())
        rows.append({"test images": name, "n": len(table), "accepted": int(said["accepted"].sum()), "right": right})
    margins = sum(viewing.scan_box(scan) != viewing.whole(scan) for scan in scans)
    print(f"{found.classifier.version}; something to crop on {margins} of {len(scans)}")
    print(tabulate(rows, headers="keys"))


def on_screen(rng: np.random.Generator, scan: np.ndarray) -> np.ndarray:
    """The scan with black margins of 8 to 30 % a side and three lines of text in them."""
    height, width = scan.shape
    left, right = (int(width * rng.uniform(0.08, 0.3)) for _ in range(2))
    top, bottom = (int(height * rng.uniform(0.1, 0.25)) for _ in range(2))
    canvas = Image.fromarray(np.pad(scan, ((top, bottom), (left, right))))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default_imagefont()
    for text, y in zip(TEXTS, (8, 24, canvas.height - 16), strict=True):
        draw.text((10, y), text, fill=220, font=font)
    return np.asarray(canvas)


def cropped(gray: np.ndarray) -> np.ndarray:
    left, top, right, bottom = viewing.scan_box(gray)
    return gray[top:bottom, left:right]


if __name__ == "__main__":
    main()
