"""Load a model from the store alone, and compare its predictions with those at evaluation.

Run by its path, in a process of its own that imports nothing of this repository, so the code in the version is what is
tested. `python -I pipeline/registry/smoke_test.py MODEL_URI FOLDER`; FOLDER holds `smoke.json` and
the images it names. Prints one line of JSON: {"images", "largest_difference", "version"}.
"""

import json
import sys
from pathlib import Path


def main(uri: str, folder: Path) -> None:
    import mlflow
    import pandas as pd

    expected = json.loads((folder / "smoke.json").read_text(encoding="utf-8"))
    files = [(folder / f"{row['sha256']}.image").read_bytes() for row in expected]
    said = mlflow.pyfunc.load_model(uri).predict(pd.DataFrame({"image": files}))
    labels = sorted(set(expected[0]) - {"path", "sha256"})
    # Versions of the first format have a column for each class
    given = list(said["probabilities"]) if "probabilities" in said else said[labels].to_dict(orient="records")
    gaps = [abs(given[i][label] - row[label]) for i, row in enumerate(expected) for label in labels]
    version = str(said["model_version"].iloc[0])
    print(json.dumps({"images": len(files), "largest_difference": float(max(gaps)), "version": version}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
