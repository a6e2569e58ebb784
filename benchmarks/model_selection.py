"""Which of several recipes the validation parts prefer: `python -m benchmarks.model_selection ROW ROW...`.

Recipes are chosen by this and never by test images. Rows of `benchmarks.results`, those that train a network, over
folds dealt by group with `split.seed` and with the numbers after it. An image stands in the validation parts of several
folds, each time before a model that had not seen it or a twin of it: its share of right answers and its mean log loss
(natural logarithm, of the probabilities before the temperature) are one value an image, and rows are compared image by
image with the first. The epoch of each model was chosen by the same images, so that these figures flatter every row;
what they are for is the difference. Writes reports/choosing.json, data set by data set, the first row with it.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from tabulate import tabulate

from benchmarks.repeated_crossval import each_dealing
from benchmarks.results import ROWS, Row, commit, deal, fit, keep, machine, refuse_unknown, said_of, shown
from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.evaluation.metrics import mean_of
from pipeline.dataset import read_dataset
from pipeline.orchestration.crossval import read_manifest
from pipeline.params import Params, read_params
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

REPORT = Path("reports/choosing.json")
MEASURES = ("accuracy", "log_loss")
LEAST = 1e-7  # probability that a log loss is taken of


def main(
    rows: Annotated[list[str], typer.Argument(help=f"of {', '.join(ROWS)}", show_default=False)],
    dealings: Annotated[int, typer.Option(min=1, help="How often the folds are dealt")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Folds at the same time")] = 2,
) -> None:
    """Compare rows of the results' table with the first of them by the validation parts, on the data set in data/."""
    refuse_unknown(rows)
    if unfit := [name for name in rows if ROWS[name].simple or ROWS[name].dealt != "by group"]:
        raise StageError(f"not a network trained on folds by group: {', '.join(unfit)}\n  choose among those that are")
    data_set, params, manifest = read_dataset()["name"], read_params(), read_manifest()
    found = {name: validated(ROWS[name], params, manifest, dealings, workers) for name in rows}
    compared = {
        name: {"what": ROWS[name].what, **compare(of_row, found[rows[0]], params)} for name, of_row in found.items()
    }
    told = {
        "command": f"python -m benchmarks.model_selection {' '.join(rows)} --dealings {dealings}",
        "split_seeds": [params.split.seed + dealing for dealing in range(dealings)],
        "rows": compared,
        "commit": commit(),
        "machine": machine(),
    }
    keep(REPORT, data_set, rows[0], told)
    print(f"{data_set}\n\n{table(compared, rows[0])}\n\n{DISCLAIMER}")


def validated(row: Row, params: Params, manifest: pd.DataFrame, dealings: int, workers: int) -> pd.DataFrame:
    """By path, over the folds that validate on it: duplicate_group, share of right answers, mean log loss."""
    tables = []
    for own in each_dealing(row, params, dealings):
        folds = deal(manifest, row.dealt, own)
        files, _ = fit(row, own, folds, workers)
        tables.append(score(said_of(files, "val"), folds[0].set_index("path")))
    every = pd.concat(tables)
    return every.groupby("path").agg(
        {"duplicate_group": "first", **dict.fromkeys(MEASURES, "mean")}  # a group has one name in every dealing
    )


def score(said: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Of each fold and path of `said` whether it is right, and its log loss; `images` has label and duplicate_group."""
    of_image = images.loc[said.index.get_level_values("path")]
    truth = of_image["label"].map(CLASSES.index).to_numpy()
    given = said.to_numpy()[np.arange(len(said)), truth]
    return pd.DataFrame(
        {
            "path": of_image.index,
            "duplicate_group": of_image["duplicate_group"].to_numpy(),
            "accuracy": (said.to_numpy().argmax(axis=1) == truth).astype(float),
            "log_loss": -np.log(np.maximum(given, LEAST)),
        }
    )


def compare(found: pd.DataFrame, first: pd.DataFrame, params: Params) -> dict[str, dict]:
    """{measure: metric, measure_above: metric}: what a row is worth, and by how much more than the first row."""
    settings = params.evaluate
    draws = found["duplicate_group"].to_numpy(), settings.bootstrap, settings.confidence, settings.seed
    above = (found[list(MEASURES)] - first[list(MEASURES)]).add_suffix("_above")
    values = found[list(MEASURES)].join(above)
    return {name: mean_of(values[name].to_numpy(), *draws) for name in values}


def table(compared: dict[str, dict], first: str) -> str:
    lines = []
    for name, entry in compared.items():
        values = [shown(entry[measure]) for measure in MEASURES]
        above = ["–"] * len(MEASURES) if name == first else [shown(entry[f"{m}_above"], "+") for m in MEASURES]
        lines.append([name, ROWS[name].what, *values, *above, entry["accuracy"]["n"]])
    headers = ["row", "what", "accuracy", "log loss", f"accuracy above {first}", f"log loss above {first}", "n"]
    return tabulate(lines, headers=headers, tablefmt="github")


if __name__ == "__main__":
    with stage("choosing"):
        typer.run(main)
