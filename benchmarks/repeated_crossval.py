"""How far a row's figure depends on the split seed: `python -m benchmarks.repeated_crossval ROW...`.

Repeated cross-validation of rows of `benchmarks.results`, with `split.seed` and the numbers after it; without a row it
shows what there is. Writes reports/dealings.json, data set by data set and row by row: accuracy and macro AUROC of each
split seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tabulate import tabulate

from benchmarks.results import ROWS, commit, keep, machine, measure, read_report, refuse_unknown
from busi import DISCLAIMER
from pipeline.dataset import read_dataset
from pipeline.orchestration.crossval import pooled
from pipeline.params import read_params
from pipeline.runtime.lifecycle import stage

REPORT = Path("reports/dealings.json")
METRICS = ("accuracy", "auroc_macro")


def main(
    rows: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(ROWS)}", show_default=False)] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Repetitions, each with its own split seed")] = 5,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler; by default two local workers")] = None,
    against: Annotated[str, typer.Option(help="Row that the others are compared with, seed by seed")] = "hog",
) -> None:
    """Measure rows of the results' table over several split seeds, on the data set in data/."""
    refuse_unknown([*(rows or ()), against])
    data_set = read_dataset()["name"]
    for name in rows or ():
        keep(REPORT, data_set, name, over_split_seeds(name, repeats, scheduler))
    measured = read_report(REPORT).get(data_set, {})
    shown = table(measured, against) if measured else f"nothing measured yet; name rows, of {', '.join(ROWS)}"
    print(f"{data_set}\n\n{shown}\n\n{DISCLAIMER}")


def over_split_seeds(name: str, repeats: int, scheduler: str | None) -> dict:
    """A row's entry in the report: what it is worth with each of the split seeds, in their order."""
    experiment = ROWS[name].experiment(read_params(), repeats)
    predictions = measure(name, experiment, scheduler).predictions
    found = [pooled(of_repeat, experiment.params.evaluate) for _, of_repeat in predictions.groupby("repeat")]
    return {
        "command": f"python -m benchmarks.repeated_crossval {name} --repeats {repeats}",
        "what": ROWS[name].what,
        "split_seeds": [experiment.params.split.seed + repeat for repeat in range(repeats)],
        "n": found[0]["accuracy"]["n"],
        **{metric: [metrics[metric]["value"] for metrics in found] for metric in METRICS},
        "commit": commit(),
        "machine": machine(),
    }


def table(measured: dict[str, dict], against: str) -> str:
    """The rows that have been measured, in the order of `ROWS`, as Markdown; ± is the standard deviation (n - 1).

    The last columns say by how much a row's accuracy is above that of the row `against` with the same split seeds, and
    with how many of them it is.
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
    headers = ["row", "what", "accuracy", "macro AUROC", "accuracy with each split seed", "n of each"]
    return tabulate(lines, headers=[*headers, f"above {against}", "with"], tablefmt="github")


def spread(values: Sequence[float], sign: str = "") -> str:
    return f"{np.mean(values):{sign}.3f} ± {np.std(values, ddof=1):.3f}"


if __name__ == "__main__":
    with stage("repeated_crossval"):
        typer.run(main)
