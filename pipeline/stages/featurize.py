"""featurize: run the frozen part of the network once over every image and augmented view, and store its output.

Reads the images, artifacts/split/split.csv and the weights file; writes artifacts/featurize/features.npy (float16,
one row a view) and rows.csv (which row is which).
"""

from pathlib import Path

import pandas as pd

from pipeline.params import Featurize, read_params
from pipeline.runtime.atomic_io import atomic_write, write_csv
from pipeline.runtime.lifecycle import stage

DATA = Path("data")
SPLIT = Path("artifacts/split/split.csv")
FEATURES = Path("artifacts/featurize/features.npy")
ROWS = Path("artifacts/featurize/rows.csv")


def initial_model(params: Featurize, dropout: float):
    """The model before training. featurize and train build the same one, so the prefix cannot differ between them."""
    from busi.model.network import build_model, seed_everything

    seed_everything(params.seed)
    weights = None if params.weights == "none" else Path("weights") / params.weights
    return build_model(params.image_size, dropout, weights)


def main() -> None:
    params = read_params().featurize
    split = pd.read_csv(SPLIT)

    from busi.model.features import feature_rows, write_features
    from busi.model.network import cut, for_inference

    prefix, _ = cut(initial_model(params, dropout=0.0), params.boundary)
    rows = feature_rows(split, params.views)
    with atomic_write(FEATURES) as partial:
        write_features(for_inference(prefix), DATA, rows, params.seed, partial)

    write_csv(ROWS, rows)
    shape = " x ".join(map(str, prefix.output_shape[1:]))
    print(f"featurize: {len(rows)} views of {rows.path.nunique()} images, {shape} each, cut at {params.boundary}")


if __name__ == "__main__":
    with stage("featurize"):
        main()
