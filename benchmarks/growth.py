"""Time and memory as the number of images grows: `python -m benchmarks.growth`.

Every stage is a process of its own in a clone whose data are 780, 1,560, 3,120 and 6,240 phantoms, for memory 7,800.
So that this takes minutes, images are 64 pixels a side for the network, each training image has one augmented view,
and training is one epoch of the head and one of the tail. Growth is shown as the time for each further image, between
the two smallest and between the two largest sets: linear or better where the second is not above the first. Memory is
the largest resident set of the process, of which the pages of a mapped file, which the system takes back when it needs
them, are a part.
"""

import typer

from benchmarks import harness

STAGES = ("validate", "split", "featurize", "train", "evaluate", "register")
COUNTS = (780, 1560, 3120, 6240)
MANY = 7800
SMALL = {"featurize.image_size": 64, "featurize.views": 1, "train.head_epochs": 1, "train.tail_epochs": 1}
SLACK = 1.15  # of seconds for each further image: what the clock and other work may add


def main(quick: harness.Quick = False) -> None:
    counts, many = ((100, 200, 400), 400) if quick else (COUNTS, MANY)
    ran = {count: stages(count) for count in sorted({*counts, many})}

    figures, shown, worst = {}, [], 0.0
    for stage in STAGES:
        seconds = [ran[count][stage].seconds for count in counts]
        figures |= {f"{stage}, {count} images": [one] for count, one in zip(counts, seconds, strict=True)}
        first, last = (
            1000 * (seconds[high] - seconds[low]) / (counts[high] - counts[low]) for low, high in ((0, 1), (-2, -1))
        )
        shown.append(f"{stage} {first:.2g} then {last:.2g}")
        worst = max(worst, last / max(first, 1e-9)) if last * counts[-1] > 1000 else worst  # a second or more in all
    harness.record(
        quick, "growth", f"cost as work grows: {', '.join(f'{count:,}' for count in counts)} images", "–",
        "every stage linear or better",
        f"ms for each further image, from the two smallest and the two largest sets: {', '.join(shown)} (n = 1)",
        worst <= SLACK, figures,
    )  # fmt: skip

    memory = {
        f"{stage}, {count} images, MiB": [ran[count][stage].memory]
        for stage in ("featurize", "train")
        for count in (counts[0], many)
    }
    more = [ran[many][stage].memory / ran[counts[0]][stage].memory for stage in ("featurize", "train")]
    harness.record(
        quick, "memory", f"memory of featurize and train, {many:,} images", f"{counts[0]} images", "≤ 10 % more",
        "; ".join(
            f"{stage} {ratio - 1:+.1%}, {ran[counts[0]][stage].memory:,.0f} to {ran[many][stage].memory:,.0f} MiB"
            for stage, ratio in zip(("featurize", "train"), more, strict=True)
        ) + " (n = 1)",
        max(more) <= 1.1, memory,
    )  # fmt: skip


def stages(count: int) -> dict[str, harness.Ended]:
    folder = harness.clone("growth", SMALL, harness.images(None, count))
    ran = {}
    for stage in STAGES:
        ran[stage] = harness.python(folder, "-m", f"pipeline.{stage}")
        print(f"  {count} images, {stage}: {ran[stage].seconds:.1f} s, {ran[stage].memory:,.0f} MiB", flush=True)
    return ran


if __name__ == "__main__":
    typer.run(main)
