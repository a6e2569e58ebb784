"""The page of the evaluation report: one HTML file that opens from disk, carries its figures inside and prints well.

It says how good the model is and how sure that is, on which data, and what it gets wrong. Nothing in it depends on
when or where it was made, so the same evaluation gives the same bytes.
"""

import base64
from collections.abc import Mapping
from typing import NamedTuple

import jinja2
import pandas as pd

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.data.split import PARTS
from busi.evaluation import gate
from busi.evaluation.records import Metric, format_range
from busi.evaluation.slices import TERTILES
from busi.reporting.viewing import RAMP

TEMPLATE = "report.html.j2"

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


class Content(NamedTuple):
    """What the page shows.

    Attributes:
        metrics: the content of `reports/metrics.json`. What it lacks of `pointing_game`, `randomised_weights` and
            `random_split_audit` is said to be not measured.
        decision: what `gate.decide` gave for them.
        slice_images: a slice of fewer test images is marked as too few to say.
        intervals: how the intervals were made: {"confidence": 0 to 1, "bootstrap": resamples, "groups": groups in the
            test part, "without_a_class": resamples that lacked a class}.
        predictions: one row a test image: path, label, duplicate_group, predicted, and a probability a class.
        figures: PNG files by name: "confusion", "roc", "precision_recall", "reliability", "slices", "training".
        gallery: as `gallery.entries` gives it.
        slice_ranges: as `slices.ranges_of` gives them.
        validation: the content of `reports/validation.json`.
        split: the content of `reports/split.json`.
        parameters: section to its parameters.
        lineage: a value for each of `LINEAGE`.
    """

    metrics: dict
    decision: gate.Decision
    slice_images: int
    intervals: dict
    predictions: pd.DataFrame
    figures: dict[str, bytes]
    gallery: dict[str, list[dict]]
    slice_ranges: dict[str, dict[str, tuple[float, float]]]
    validation: dict
    split: dict
    parameters: dict[str, dict]
    lineage: Mapping[str, object]


def render(content: Content) -> str:
    """Render the report as a whole HTML document. Text from data (paths, names) is escaped.

    Raises:
        jinja2.UndefinedError, KeyError: the content lacks something that the report shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("busi.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "percent_interval": _percent_interval,
        "decimal": _decimal,
        "decimal_interval": _interval,
        "base64": _base64,
        "value": _value,
    }
    return environment.get_template(TEMPLATE).render(
        classes=CLASSES,
        parts=PARTS,
        per_class=PER_CLASS,
        disclaimer=DISCLAIMER,
        metrics=content.metrics,
        decision=content.decision,
        failed_rules=content.decision.failed_rules,
        rules=gate.RULES,
        intervals=content.intervals,
        wrong=_wrong(content.predictions),
        figures={name: _base64(png) for name, png in content.figures.items()},
        gallery=content.gallery,
        gallery_titles=GALLERY,
        shades=[f"rgb{colour}" for colour in RAMP],
        slices=titled(content.metrics["slices"]),
        slice_ranges=_ranges(content.slice_ranges),
        few=content.slice_images,
        groups=_grouped(content.validation),
        validation=content.validation,
        split=content.split,
        parameters=content.parameters,
        lineage={title: content.lineage[name] for name, title in LINEAGE.items()},
    )


def titled(slices: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """The slices of `metrics.json` under readers' titles, in the order of `SLICINGS`; tertiles from small to large."""

    def place(name: str) -> tuple[int, str]:
        return TERTILES.index(name) if name in TERTILES else 0, name

    return {
        title: {part: slices[name][part] for part in sorted(slices[name], key=place)}
        for name, title in SLICINGS.items()
        if name in slices
    }


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


def _percent_interval(found: Mapping) -> str:
    ends = format_range(Metric.from_json(found), 1, percent=True, separator="\N{EN DASH}")
    return f"{ends}\N{NO-BREAK SPACE}%"


def _interval(found: Mapping) -> str:
    metric = Metric.from_json(found)
    # A dash between the ends would look like the sign of the second one
    return format_range(metric, separator=" to " if metric.low < 0 else "\N{EN DASH}").replace("-", "\N{MINUS SIGN}")
