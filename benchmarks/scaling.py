"""Time and memory as the number of images grows: `python -m benchmarks.scaling`.

Every stage is a process of its own in a clone. For time the data are 780, 1,560, 3,120 and 6,240 phantoms, 32 pixels a
side for the network so that this takes minutes, with one augmented view and one epoch each of head and tail. Growth is
the time for each further image, between the two smallest and between the two largest sets: linear or better where the
second is not above the first. For memory they are 780 phantoms and the same ten times over, with the parameters of the
product but for the epochs; it is the largest resident set of the process.
"""

import shutil
from pathlib import Path

import pandas as pd
import typer

from benchmarks import harness
from busi.data import layout
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.runtime.lifecycle import STAGES

COUNTS = (780, 1560, 3120, 6240)
TIMES = 10
EPOCHS = {"train.head_epochs": 1, "train.tail_epochs": 1}
SMALL = EPOCHS | {"featurize.image_size": 32, "featurize.views": 1}
SLACK = 1.15  # of the time for each further image: what the clock and other work may add
LEAST = 1.0  # seconds that the largest set must take more than the smallest, or growth is too small to be told


def main(quick: harness.Quick = False) -> None:
    counts = (48, 96) if quick else COUNTS
    measure_time(counts, quick)
    measure_memory(counts[0], quick)


def measure_time(counts: tuple[int, ...], quick: bool) -> None:
    every = harness.images(None, counts[-1])
    ran = {}
    for count in counts:
        folder = harness.clone("growth", SMALL, some_of(every, count, counts[-1]))
        ran[count] = {stage: run(folder, stage, count).seconds for stage in STAGES}

    figures, shown, worst = {}, [], 0.0
    for stage in STAGES:
        seconds = [ran[count][stage] for count in counts]
        figures |= {f"{stage}, {count} images": [one] for count, one in zip(counts, seconds, strict=True)}
        first, last = (
            1000 * (seconds[high] - seconds[low]) / (counts[high] - counts[low]) for low, high in ((0, 1), (-2, -1))
        )
        shown.append(f"{stage} {first:.1f} and {last:.1f}")
        if seconds[-1] - seconds[0] > LEAST:
            worst = max(worst, last / max(first, 1e-9))
    harness.record(
        quick, "growth", f"cost as work grows: {', '.join(f'{count:,}' for count in counts)} images", "–",
        "every stage linear or better",
        f"ms for each further image, first and last step: {', '.join(shown)} (n = 1)",
        worst <= SLACK, figures,
    )  # fmt: skip


def measure_memory(count: int, quick: bool) -> None:
    source, folder, stages = harness.images(None, count), harness.clone("memory", EPOCHS), ("featurize", "train")
    figures = {}
    for times in (1, TIMES):
        deal(folder, source, times)
        for stage in stages:
            figures[f"{stage}, {count * times} images, MiB"] = [run(folder, stage, count * times).memory]
    values = [of[0] for of in figures.values()]
    more = [large / small for small, large in zip(values[:2], values[2:], strict=True)]
    shown = [
        f"{stage} {ratio - 1:+.1%}, {small:,.0f} to {large:,.0f} MiB"
        for stage, ratio, small, large in zip(stages, more, values[:2], values[2:], strict=True)
    ]
    harness.record(
        quick, "memory", f"memory of featurize and train, {count * TIMES:,} images", f"{count} images", "≤ 10 % more",
        f"{'; '.join(shown)} (n = 1)", max(more) <= 1.1, figures,
    )  # fmt: skip


def run(folder: Path, stage: str, count: int) -> harness.Ended:
    ended = harness.stage(folder, stage)
    print(f"  {count} images, {stage}: {ended.seconds:.1f} s, {ended.memory:,.0f} MiB", flush=True)
    return ended


def some_of(every: Path, count: int, of: int) -> Path:
    """A data folder of links to the first images of each class, with their masks."""
    folder = harness.PLACE / "some"
    shutil.rmtree(folder, ignore_errors=True)
    counts, masks = {}, 0
    for label in layout.CLASSES:
        (folder / label).mkdir(parents=True)
        counts[label] = len(harness.pictures(every / label)) * count // of
        for path in (every / label).iterdir():
            name = layout.parse_name(path.name)
            if int(name.stem.strip(f"{label} ()")) <= counts[label]:
                (folder / label / path.name).symlink_to(path)
                masks += name.mask is not None
    write_json(folder / layout.DATASET_FILE, harness.describe("phantom", True, counts, masks))
    return folder


def deal(folder: Path, source: Path, times: int) -> None:
    """Data of links to the images of `source`, each under several names, and a split of them."""
    data, rows = folder / "data", []
    shutil.rmtree(data, ignore_errors=True)
    for label in layout.CLASSES:
        (data / label).mkdir(parents=True)
    shutil.copy(source / layout.DATASET_FILE, data)
    for time in range(times):
        for number, picture in enumerate(harness.pictures(source)):
            path = f"{picture.parent.name}/{time} {picture.name}"
            (data / path).symlink_to(picture)
            part = "train" if number % 20 < 14 else "val" if number % 20 < 17 else "test"
            rows.append({"path": path, "label": picture.parent.name, "part": part})
    write_csv(folder / "artifacts/split/split.csv", pd.DataFrame(rows))


if __name__ == "__main__":
    typer.run(main)
