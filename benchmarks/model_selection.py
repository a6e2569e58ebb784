"""Model selection among rows by their validation images: `python -m benchmarks.model_selection ROW ROW...`.

Choose between rows of `benchmarks.results` by this and never by test images. It takes rows that train a network on
grouped folds, over several split seeds. An image is validated in several folds, each time by a model that had not seen
it or a near-duplicate of it. Its share of right answers and its mean log loss (natural logarithm, of the probabilities
before the temperature) are one value an image; rows are compared image by image with the first. The same images chose
the epoch of each model, so these figures flatter every row: read the differences.

Writes reports/choosing.json, data set by data set, under the name of the first row.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from tabulate import tabulate

from benchmarks.results import ROWS, commit, keep, machine, refuse_unknown, shown
from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.evaluation.metrics import mean_of
from busi.evaluation.records import Resampling
from pipeline.dataset import read_dataset
from pipeline.orchestration import fold
from pipeline.orchestration.crossval import cross_validate, mean_of_trainings, table_of
from pipeline.orchestration.folds import FOLDER, Experiment
from pipeline.params import Evaluate, read_params
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

REPORT = Path("reports/choosing.json")
MEASURES = ("accuracy", "log_loss")
LEAST = 1e-7  # probability that a log loss is taken of


def main(
    rows: Annotated[list[str], typer.Argument(help=f"of {', '.join(ROWS)}", show_default=False)],
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions, each with its own split seed")] = 5,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler; by default two local workers")] = None,
) -> None:
    """Compare rows of the results' table with the first of them by validation images, on the data set in data/."""
    refuse_unknown(rows)
    if unfit := [name for name in rows if ROWS[name].baseline or not ROWS[name].grouped]:
        raise StageError(f"not a network trained on grouped folds: {', '.join(unfit)}\n  choose among those that are")
    data_set, params = read_dataset()["name"], read_params()
    found = {name: validated(name, ROWS[name].experiment(params, repeats), scheduler) for name in rows}
    compared = {
        name: {"what": ROWS[name].what, **compare(of_row, found[rows[0]], params.evaluate)}
        for name, of_row in found.items()
    }
    told = {
        "command": f"python -m benchmarks.model_selection {' '.join(rows)} --repeats {repeats}",
        "split_seeds": [params.split.seed + repeat for repeat in range(repeats)],
        "rows": compared,
        "commit": commit(),
        "machine": machine(),
    }
    keep(REPORT, data_set, rows[0], told)
    print(f"{data_set}\n\n{table(compared, rows[0])}\n\n{DISCLAIMER}")


def validated(name: str, experiment: Experiment, scheduler: str | None) -> pd.DataFrame:
    """By path, over the folds that validate on it: duplicate_group, share of right answers, mean log loss."""
    folder = FOLDER / "rows" / name
    folds = cross_validate(experiment, folder / "crossval.json", folder / "predictions.csv", scheduler).folds
    called = mean_of_trainings(pd.concat([table_of(one, fold.VALIDATION) for one in folds], ignore_index=True))
    truth, probabilities = called["label"].map(CLASSES.index).to_numpy(), called[list(CLASSES)].to_numpy()
    given = probabilities[np.arange(len(called)), truth]
    scored = called[["path", "duplicate_group"]].assign(
        accuracy=(probabilities.argmax(axis=1) == truth).astype(float), log_loss=-np.log(np.maximum(given, LEAST))
    )
    # A group has one name with every split seed
    return scored.groupby("path").agg({"duplicate_group": "first", **dict.fromkeys(MEASURES, "mean")})


def compare(found: pd.DataFrame, first: pd.DataFrame, settings: Evaluate) -> dict[str, dict]:
    """{measure: metric, measure_above: metric}: what a row is worth, and by how much more than the first row."""
    groups = found["duplicate_group"].to_numpy()
    resampling = Resampling(settings.bootstrap, settings.confidence, settings.seed)
    above = (found[list(MEASURES)] - first[list(MEASURES)]).add_suffix("_above")
    values = found[list(MEASURES)].join(above)
    return {name: mean_of(values[name].to_numpy(), groups, resampling)._asdict() for name in values}


def table(compared: dict[str, dict], first: str) -> str:
    lines = []
    for name, entry in compared.items():
        values = [shown(entry[measure]) for measure in MEASURES]
        above = ["–"] * len(MEASURES) if name == first else [shown(entry[f"{m}_above"], "+") for m in MEASURES]
        lines.append([name, ROWS[name].what, *values, *above, entry["accuracy"]["n"]])
    headers = ["row", "what", "accuracy", "log loss", f"accuracy above {first}", f"log loss above {first}", "n"]
    return tabulate(lines, headers=headers, tablefmt="github")


if __name__ == "__main__":
    with stage("model_selection"):
        typer.run(main)
