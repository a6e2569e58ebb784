"""Stage `split`: manifest -> parts that share no near-duplicate group, and what a random split would have leaked."""

from pathlib import Path

import pandas as pd

from busi.data.split import PARTS, USED_PARTS, make_folds, make_split, random_split_leak
from pipeline.params import read_params
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

MANIFEST = Path("artifacts/validate/manifest.csv")
SPLIT = Path("artifacts/split/split.csv")
REPORT = Path("reports/split.json")

# The promise of the stage; only a set too small for it, or one with giant groups, misses it.
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
    leak = random_split_leak(manifest, fractions, params.seed)
    images, share_error = split.counts("path"), split.share_error(fractions)

    write_csv(SPLIT, split.table[["path", "label", "duplicate_group", "part"]])
    report = {
        "images": images,
        "groups": split.counts("duplicate_group"),
        "quarantined": split.quarantined(),
        "largest_share_error": round(share_error, 6),
        "random_split_leak": leak,
    }
    write_json(REPORT, report)
    for part in PARTS:
        counted = ", ".join(f"{count} {label}" for label, count in images[part].items())
        print(f"{part:<10} {sum(images[part].values()):>5} images: {counted}")
    print(f"a random split would leak {leak['value']:.1%} of its test images ({leak['low']:.1%} to {leak['high']:.1%})")
    if share_error > PROMISED_SHARE_ERROR:
        print(
            f"note: a class is {100 * share_error:.1f} points off its share of a part, more than "
            f"{100 * PROMISED_SHARE_ERROR:.0f}: too few images, or groups too large, to come closer"
        )


if __name__ == "__main__":
    with stage("split"):
        main()
