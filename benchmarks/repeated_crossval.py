"""How far a row's figure depends on how the folds were dealt: `python -m benchmarks.repeated_crossval ROW...`.

Measures rows of `benchmarks.results` over folds dealt with `split.seed` and with the numbers after it, everything else
alike; without a row it shows what there is. Writes reports/dealings.json, data set by data set and row by row: accuracy
and macro AUROC of each dealing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tabulate import tabulate

from benchmarks.results import ROWS, Row, changed, keep, measure, read_report, refuse_unknown
from busi import DISCLAIMER
from pipeline.dataset import read_dataset
from pipeline.params import Params, read_params
from pipeline.runtime.lifecycle import stage

REPORT = Path("reports/dealings.json")
METRICS = ("accuracy", "auroc_macro")


def main(
    rows: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(ROWS)}", show_default=False)] = None,
    dealings: Annotated[int, typer.Option(min=2, help="How often the folds are dealt")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Folds at the same time")] = 2,
    against: Annotated[str, typer.Option(help="Row that the others are compared with, dealing by dealing")] = "hog",
) -> None:
    """Measure rows of the results' table over several dealings into folds, on the data set in data/."""
    refuse_unknown([*(rows or ()), against])
    data_set = read_dataset()["name"]
    for name in rows or ():
        keep(REPORT, data_set, name, over_dealings(name, dealings, workers))
    print(f"{data_set}\n\n{table(read_report(REPORT).get(data_set, {}), against)}\n\n{DISCLAIMER}")


def each_dealing(row: Row, params: Params, dealings: int) -> list[Params]:
    """A row's parameters, once for each dealing into folds."""
    own = changed(params, row.changes)
    return [changed(own, {"split": {"seed": own.split.seed + number}}) for number in range(dealings)]


def over_dealings(name: str, dealings: int, workers: int) -> dict:
    """A row's entry in the report: what it is worth over the folds of each of the seeds, in their order."""
    row, dealt = ROWS[name], each_dealing(ROWS[name], read_params(), dealings)
    found = []
    for params in dealt:
        _, _, worth = measure(row, params, workers)
        found.append(worth)
        accuracy = worth["metrics"]["accuracy"]["value"]
        print(f"{name}, split.seed {params.split.seed}: accuracy {accuracy:.3f}", flush=True)
    return {
        "command": f"python -m benchmarks.repeated_crossval {name} --dealings {dealings}",
        "what": row.what,
        "split_seeds": [params.split.seed for params in dealt],
        "n": found[0]["metrics"]["accuracy"]["n"],
        **{metric: [worth["metrics"][metric]["value"] for worth in found] for metric in METRICS},
        **{key: found[-1][key] for key in ("commit", "machine")},
    }


def table(measured: dict[str, dict], against: str) -> str:
    """The rows that have been measured, in the order of `ROWS`, as Markdown; ± is the standard deviation (n - 1).

    The last columns say by how much a row's accuracy is above that of the row `against` over the same seeds, and over
    how many of them it is.
    """
    lines = []
    for name in (name for name in ROWS if name in measured):
        entry = measured[name]
        each = ", ".join(f"{value:.3f}" for value in entry["accuracy"])
        above = ["–", "–"]
        if against in measured and name != against and entry["split_seeds"] == measured[against]["split_seeds"]:
            differences = np.subtract(entry["accuracy"], measured[against]["accuracy"])
            above = [spread(differences, "+"), f"{np.sum(differences > 0)} of {len(differences)}"]
        spreads = [spread(entry[metric]) for metric in METRICS]
        lines.append([name, ROWS[name].what, *spreads, each, entry["n"], *above])
    headers = ["row", "what", "accuracy", "macro AUROC", "accuracy of each dealing", "n of each"]
    return tabulate(lines, headers=[*headers, f"above {against}", "on"], tablefmt="github")


def spread(values: Sequence[float], sign: str = "") -> str:
    return f"{np.mean(values):{sign}.3f} ± {np.std(values, ddof=1):.3f}"


if __name__ == "__main__":
    with stage("dealings"):
        typer.run(main)
