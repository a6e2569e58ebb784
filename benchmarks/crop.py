"""How the app's proposed crop changes what the Production model says: `python -m benchmarks.crop [--model NAME]`.

Classifies the test images four times: as they are, cropped as the app proposes, pasted on a black screen with text, and
cropped from that screen. Prints for each how many images the model accepts as ultrasound, and for how many of all the
largest probability is right. The images must be those of `data/`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tabulate import tabulate

from busi.data import images
from busi.reporting import viewing
from pipeline.registry import names, production

TEXTS = ("BREAST CLINIC", "LT UOQ 2.5 CM", "MI 0.9")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    served = production.load(parser.parse_args().model or names.default_name())
    rng, table = np.random.default_rng(0), served.predictions
    scans = [images.to_gray(images.read_image(Path("data") / path)) for path in table["path"]]
    screens = [on_screen(rng, scan) for scan in scans]
    rows = []
    for name, shown in (
        ("as they are", scans),
        ("cropped", [cropped(scan) for scan in scans]),
        ("on a screen", screens),
        ("on a screen, cropped", [cropped(screen) for screen in screens]),
    ):
        answers = served.classifier.predict([viewing.png(gray) for gray in shown])
        likeliest = pd.DataFrame(list(answers["probabilities"])).idxmax(axis=1)
        right = int((likeliest == table["label"]).sum())
        rows.append({"test images": name, "n": len(table), "accepted": int(answers["accepted"].sum()), "right": right})
    margins = sum(viewing.scan_box(scan) != viewing.whole(scan) for scan in scans)
    print(f"{served.classifier.version}; something to crop on {margins} of {len(scans)}")
    print(tabulate(rows, headers="keys"))


def on_screen(rng: np.random.Generator, scan: np.ndarray) -> np.ndarray:
    """The scan on a black screen, with margins of 8 to 30 % of its sides and three lines of text in them."""
    height, width = scan.shape
    left, right = (int(width * rng.uniform(0.08, 0.3)) for _ in range(2))
    top, bottom = (int(height * rng.uniform(0.1, 0.25)) for _ in range(2))
    canvas = Image.fromarray(np.pad(scan, ((top, bottom), (left, right))))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default_imagefont()
    for text, y in zip(TEXTS, (8, 24, canvas.height - 16), strict=True):
        draw.text((10, y), text, fill=220, font=font)
    return np.asarray(canvas)


def cropped(gray: np.ndarray) -> np.ndarray:
    """The part of the image that the app proposes to classify."""
    left, top, right, bottom = viewing.scan_box(gray)
    return gray[top:bottom, left:right]


if __name__ == "__main__":
    main()
