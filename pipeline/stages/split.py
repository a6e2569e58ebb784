"""Stage `split`: manifest -> parts that share no near-duplicate group, and what a random split would have leaked."""

import pandas as pd

from busi.data.split import PARTS, USED_PARTS, Split, make_folds, make_split, random_split_leak
from pipeline.params import read_params
from pipeline.paths import MANIFEST, SPLIT, SPLIT_REPORT
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

# What `make_split` promises of a class's share in each part; very small sets and very large groups miss it.
PROMISED_SHARE_ERROR = 0.03


def main() -> None:
    params = read_params().split
    fractions = {part: getattr(params, part) for part in USED_PARTS}

    if not MANIFEST.is_file():
        raise StageError(f"{MANIFEST} not found\n  run `dvc repro split`, which makes it first")
    manifest = pd.read_csv(MANIFEST, dtype={"duplicate_group": str, "sha256": str}, keep_default_na=False)

    if params.folds is None:
        split = make_split(manifest, fractions, params.seed)
    else:
        split = make_folds(manifest, params.folds, params.val, params.seed)[params.fold]
    report = summary(split, fractions, random_split_leak(manifest, fractions, params.seed))

    write_csv(SPLIT, split.table[["path", "label", "duplicate_group", "part"]])
    write_json(SPLIT_REPORT, report)
    print(terminal_lines(report))


def summary(split: Split, fractions: dict[str, float], leak: dict) -> dict:
    """What `reports/split.json` holds."""
    return {
        "images": split.counts("path"),
        "groups": split.counts("duplicate_group"),
        "quarantined": split.quarantined(),
        "largest_share_error": round(split.share_error(fractions), 6),
        "random_split_leak": leak,
    }


def terminal_lines(report: dict) -> str:
    """The stage's lines on the terminal: images a part and class, and what a random split would leak."""
    lines = []
    for part in PARTS:
        images = report["images"][part]
        counted = ", ".join(f"{count} {label}" for label, count in images.items())
        lines.append(f"{part:<10} {sum(images.values()):>5} images: {counted}")
    leak, share_error = report["random_split_leak"], report["largest_share_error"]
    lines.append(
        f"a random split would leak {leak['value']:.1%} of its test images ({leak['low']:.1%} to {leak['high']:.1%})"
    )
    if share_error > PROMISED_SHARE_ERROR:
        lines.append(
            f"note: a class is {100 * share_error:.1f} points off its share of a part, more than "
            f"{100 * PROMISED_SHARE_ERROR:.0f}: too few images, or groups too large, to come closer"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with stage("split"):
        main()
