"""Validation and phantom generation: `python -m benchmarks.data`."""

import os
import shutil
from pathlib import Path

import typer

from benchmarks import harness
from busi.data import layout
from busi.data.images import read_image
from busi.data.process_pool import process_pool
from busi.phantom.dataset import generate


def main(images: harness.Images = None, quick: harness.Quick = False) -> None:
    repeats = 1 if quick else harness.REPEATS
    measure_validate(harness.images(images, 100 if quick else 780), repeats, quick)
    measure_phantom(40 if quick else 200, repeats, quick)


def measure_validate(data: Path, repeats: int, quick: bool) -> None:
    """The whole stage, from the start of Python on, against decoding the same files and nothing else."""
    files = [path for path in sorted(data.glob("*/*")) if layout.parse_name(path.name)]
    folder = harness.clone("validate", {}, data)
    with process_pool(os.cpu_count()) as pool:
        list(pool.map(decode, files[:16]))  # so that the processes stand

        def decoded():
            list(pool.map(decode, files, chunksize=8))

        runs = {"decoding": decoded, "validate": lambda: harness.stage(folder, "validate")}
        seconds = harness.alternate(runs, repeats)
    ratio = harness.quotients(seconds["validate"], seconds["decoding"])
    harness.record(
        quick, "validate", f"validate, {len(files):,} native-size files, the whole stage", "decoding them on all cores",
        "≤ 1.5×", f"{harness.spread(ratio, '×')}: {harness.spread(seconds['validate'], ' s')}",
        harness.median(ratio) <= 1.5, {"ratio": ratio, **seconds},
    )  # fmt: skip


def decode(path: Path) -> int:
    return read_image(path).width


def measure_phantom(count: int, repeats: int, quick: bool) -> None:
    """Images with masks, annotations and twins, written to files, by as many processes as there are cores."""
    total = sum(layout.PUBLISHED_COUNTS.values())
    counts = {label: published * count // total for label, published in layout.PUBLISHED_COUNTS.items()}
    folder = harness.PLACE / "generated"

    def generated():
        shutil.rmtree(folder, ignore_errors=True)
        generate(folder, counts, seed=1)

    rates = [
        sum(counts.values()) / seconds for seconds in harness.alternate({"phantom": generated}, repeats)["phantom"]
    ]
    shutil.rmtree(folder)
    harness.record(
        quick, "phantom", f"phantom generation, {sum(counts.values())} images of about 500 × 500", "–",
        "≥ 40 images/s on 2 cores", harness.spread(rates, " images/s"), harness.median(rates) >= 40, {"rate": rates},
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
