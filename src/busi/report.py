"""The evaluation report: one HTML file that opens from disk, carries its figures inside and prints well.

It says what the model is worth and how sure that is, on which data, and what it gets wrong. Nothing in it depends on
when or where it was made, so the same evaluation gives the same bytes.
"""

import base64
from pathlib import Path

import jinja2
import pandas as pd

from busi import DISCLAIMER
from busi.layout import CLASSES
from busi.metrics import Metric
from busi.split import PARTS

TEMPLATE = Path(__file__).with_name("report.html.j2")

PER_CLASS = {"sensitivity": "Sensitivity", "specificity": "Specificity", "precision": "Precision", "f1": "F1"}


def render(
    metrics: dict, intervals: dict, predictions: pd.DataFrame, figures: dict[str, bytes], validation: dict, split: dict
) -> str:
    """Render the report.

    Args:
        metrics: as `metrics.evaluate` returns them.
        intervals: how the intervals were made: {"confidence": 0 to 1, "bootstrap": resamples, "groups": groups in the
            test part, "without_a_class": resamples that lacked a class}.
        predictions: one row a test image: path, label, duplicate_group, predicted, and a probability a class.
        figures: PNG files by name: "confusion", "roc", "training".
        validation: the content of `reports/validation.json`.
        split: the content of `reports/split.json`.

    Returns:
        A whole HTML document. Text from data (paths, names) is escaped.

    Raises:
        jinja2.UndefinedError: one of the arguments lacks something that the report shows.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "percent_interval": _percent_interval, "decimal_interval": _interval}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        classes=CLASSES,
        parts=PARTS,
        per_class=PER_CLASS,
        disclaimer=DISCLAIMER,
        metrics=metrics,
        intervals=intervals,
        wrong=_wrong(predictions),
        figures={name: base64.b64encode(content).decode("ascii") for name, content in figures.items()},
        groups=_grouped(validation),
        validation=validation,
        split=split,
    )


def _wrong(predictions: pd.DataFrame) -> list[dict]:
    """The test images that the model gets wrong, the surest mistake first."""
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    sureness = wrong[list(CLASSES)].max(axis=1)
    order = wrong.assign(sureness=sureness).sort_values(["sureness", "path"], ascending=[False, True])
    return order.to_dict(orient="records")


def _grouped(validation: dict) -> dict[str, int]:
    """Images with a near-duplicate, the groups they form, and the images of groups with two labels."""
    sizes = {int(size): count for size, count in validation["groups"].items() if int(size) > 1}
    return {
        "images": sum(size * count for size, count in sizes.items()),
        "groups": sum(sizes.values()),
        "conflicting": sum(map(len, validation["conflicts"].values())),
    }


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def _percent_interval(metric: Metric) -> str:
    return f"{100 * metric['low']:.1f}\N{EN DASH}{100 * metric['high']:.1f}\N{NO-BREAK SPACE}%"


def _interval(metric: Metric) -> str:
    return f"{metric['low']:.3f}\N{EN DASH}{metric['high']:.3f}"
