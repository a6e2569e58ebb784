"""The evaluation report: one HTML file that opens from disk, carries its figures inside and prints well.

It says what the model is worth and how sure that is, on which data, and what it gets wrong. Nothing in it depends on
when or where it was made, so the same evaluation gives the same bytes.
"""

import base64
from collections.abc import Mapping
from pathlib import Path

import jinja2
import pandas as pd

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.data.split import PARTS
from busi.evaluation import gate
from busi.evaluation.metrics import Metric
from busi.evaluation.slices import TERTILES
from busi.reporting.viewing import RAMP

TEMPLATE = Path(__file__).with_name("report.html.j2")

PER_CLASS = {"sensitivity": "Sensitivity", "specificity": "Specificity", "precision": "Precision", "f1": "F1"}
SLICINGS = {
    "label": "class",
    "annotation": "burnt-in marks",
    "native_size": "native size",
    "lesion_size": "lesion size",
}
GALLERY = {
    "right": "Right, and the surest of its class",
    "wrong": "Wrong, the surest mistake first",
    "uncertain": "Least certain: the two largest probabilities are closest",
}
LINEAGE = {
    "data_set": "data set",
    "data_source": "its source",
    "data_md5": "its version (md5 in data.dvc)",
    "split_md5": "split (md5 of split.csv)",
    "weights": "starting weights",
    "weights_md5": "their md5",
    "model_sha256": "model (sha256 of model.keras)",
    "key": "training (hash of all that went in)",
    "best_epoch": "kept epoch",
    "temperature": "temperature of the calibration",
    "packages": "packages",
}


def render(
    *,
    metrics: dict,
    decision: dict,
    intervals: dict,
    predictions: pd.DataFrame,
    figures: dict[str, bytes],
    gallery: dict[str, list[dict]],
    slice_ranges: dict[str, dict[str, tuple[float, float]]],
    validation: dict,
    split: dict,
    parameters: dict[str, dict],
    lineage: Mapping[str, object],
) -> str:
    """Render the report.

    Args:
        metrics: the content of `reports/metrics.json`. What it lacks of `pointing_game`, `randomised_weights` and
            `random_split_audit` is said to be not measured.
        decision: what `gate.decide` gave for them.
        intervals: how the intervals were made: {"confidence": 0 to 1, "bootstrap": resamples, "groups": groups in the
            test part, "without_a_class": resamples that lacked a class}.
        predictions: one row a test image: path, label, duplicate_group, predicted, and a probability a class.
        figures: PNG files by name: "confusion", "roc", "precision_recall", "reliability", "slices", "training".
        gallery: for each kind of `GALLERY` rows of `predictions` with "image" and "overlay" (JPEG files), "outlined"
            (the overlay shows the lesion) and "empty" (its map has no peak).
        slice_ranges: as `slices.ranges_of` gives them.
        validation: the content of `reports/validation.json`.
        split: the content of `reports/split.json`.
        parameters: section to its parameters.
        lineage: a value for each of `LINEAGE`.

    Returns:
        A whole HTML document. Text from data (paths, names) is escaped.

    Raises:
        jinja2.UndefinedError: one of the arguments lacks something that the report shows.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": _percent,
        "percent_interval": _percent_interval,
        "decimal": _decimal,
        "decimal_interval": _interval,
        "base64": _base64,
        "value": _value,
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        classes=CLASSES,
        parts=PARTS,
        per_class=PER_CLASS,
        disclaimer=DISCLAIMER,
        metrics=metrics,
        decision=decision,
        failed_rules=gate.failed_rules(decision),
        rules=gate.RULES,
        intervals=intervals,
        wrong=_wrong(predictions),
        figures={name: _base64(content) for name, content in figures.items()},
        gallery=gallery,
        gallery_titles=GALLERY,
        shades=[f"rgb{colour}" for colour in RAMP],
        slices=titled(metrics["slices"]),
        slice_ranges=_ranges(slice_ranges),
        few=gate.SLICE_IMAGES,
        groups=_grouped(validation),
        validation=validation,
        split=split,
        parameters=parameters,
        lineage={title: lineage[name] for name, title in LINEAGE.items()},
    )


def titled(slices: dict[str, dict[str, Metric]]) -> dict[str, dict[str, Metric]]:
    """`metrics.json`'s slices under the titles that a reader sees, tertiles from small to large."""

    def place(name: str) -> tuple[int, str]:
        return TERTILES.index(name) if name in TERTILES else 0, name

    return {SLICINGS[name]: {part: parts[part] for part in sorted(parts, key=place)} for name, parts in slices.items()}


def _ranges(ranges: dict[str, dict[str, tuple[float, float]]]) -> dict[str, dict[str, str]]:
    """What the slices by size hold, in words, under the titles of `titled`."""
    units = {
        "native_size": lambda low, high: f"{low / 1e6:.3f} to {high / 1e6:.3f} megapixels",
        "lesion_size": lambda low, high: f"{100 * low:.1f} to {100 * high:.1f} % of the image",
    }
    return {
        SLICINGS[slicing]: {name: units[slicing](*ends) for name, ends in parts.items()}
        for slicing, parts in ranges.items()
    }


def _wrong(predictions: pd.DataFrame) -> list[dict]:
    """The test images that the model gets wrong, the surest mistake first."""
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    sureness = wrong[list(CLASSES)].max(axis=1)
    order = wrong.assign(sureness=sureness).sort_values(["sureness", "path"], ascending=[False, True])
    return order.to_dict(orient="records")


def _grouped(validation: dict) -> dict[str, int]:
    """Images with a near-duplicate, the groups they form, and the groups with two labels with their images."""
    sizes = {int(size): count for size, count in validation["groups"].items() if int(size) > 1}
    return {
        "images": sum(size * count for size, count in sizes.items()),
        "groups": sum(sizes.values()),
        "largest": max(sizes, default=1),
        "conflicts": len(validation["conflicts"]),
        "conflicting": sum(map(len, validation["conflicts"].values())),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _value(value: object) -> str:
    """A parameter as it stands in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _decimal(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def _percent_interval(metric: Metric) -> str:
    return f"{100 * metric['low']:.1f}\N{EN DASH}{100 * metric['high']:.1f}\N{NO-BREAK SPACE}%"


def _interval(metric: Metric) -> str:
    if metric["low"] < 0:
        return f"{_decimal(metric['low'])} to {_decimal(metric['high'])}"
    return f"{metric['low']:.3f}\N{EN DASH}{metric['high']:.3f}"
