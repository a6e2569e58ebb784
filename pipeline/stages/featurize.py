"""Stage `featurize`: run the frozen part of the network once over every image and augmented view, and store its output.

Reads the images, `artifacts/split/split.csv` and the weights file; writes `artifacts/featurize/features.npy` (float16,
one row a view) and `rows.csv` (which row is which).
"""

import pandas as pd

from pipeline.params import read_params
from pipeline.paths import DATA, FEATURES, ROWS, SPLIT, WEIGHTS
from pipeline.runtime.atomic_io import atomic_write, write_csv
from pipeline.runtime.lifecycle import stage


def main() -> None:
    params = read_params().featurize

    split = pd.read_csv(SPLIT)

    # Not at the top: importing TensorFlow takes seconds, and a missing input should be reported at once
    from busi.model.fitting import NetworkConfig, featurize

    network = NetworkConfig.from_section(params.model_dump(), WEIGHTS)
    with atomic_write(FEATURES) as partial:
        rows = featurize(DATA, split, network, partial)

    write_csv(ROWS, rows)
    print(f"featurize: {len(rows)} views of {rows.path.nunique()} images, frozen until {params.boundary}")


if __name__ == "__main__":
    with stage("featurize"):
        main()
