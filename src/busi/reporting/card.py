"""The model card: what a model is for, what it saw, how good it is and where it fails, as Markdown.

Follows Mitchell et al., Model Cards for Model Reporting (FAT* 2019), and the items of CLAIM (Tejani et al., Radiol.
Artif. Intell. 2024) and TRIPOD+AI (Collins et al., BMJ 2024) that a machine can fill in. Everything comes from the
files that the stages write. A value they lack reads "not recorded", and so does what no stage knows.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jinja2

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.data.split import PARTS, QUARANTINE
from busi.evaluation.gate import RULES
from busi.evaluation.records import Metric, format_interval, format_range

MISSING = "not recorded"
TEMPLATE = "model_card.md.j2"


class _NotRecorded(jinja2.ChainableUndefined):
    def __str__(self) -> str:
        return MISSING


_TABLE_END = re.compile(r"^(\|.*)\n\n", re.MULTILINE)

_TITLES = {
    "accuracy": "accuracy",
    "accuracy_wilson": "accuracy, Wilson interval",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc_macro": "macro AUROC",
}


class Content(NamedTuple):
    """What the card shows.

    Attributes:
        name: the registered model.
        decision: the content of `reports/gate.json`.
        metrics: the content of `reports/metrics.json`.
        confidence: coverage of the metrics' intervals, 0 to 1.
        slice_images: a slice of fewer test images is marked as too few to say.
        data: the content of `data/dataset.json`.
        validation: the content of `reports/validation.json`.
        split: the content of `reports/split.json`.
        training: the sections `split`, `featurize` and `train` of the parameters.
        temperature: what the logits were divided by.
        lineage: name to text.
    """

    name: str
    decision: Mapping
    metrics: Mapping
    confidence: float
    slice_images: int
    data: Mapping
    validation: Mapping
    split: Mapping
    training: Mapping
    temperature: float
    lineage: Mapping


def render(content: Content) -> str:
    """Markdown with a `#` title, `##` sections and a final newline. Values that are missing read "not recorded"."""
    images, validation = content.split.get("images", {}), content.validation
    text = _ENVIRONMENT.get_template(TEMPLATE).render(
        **content._asdict(),
        point=content.metrics.get("operating_point", {}),
        flow={part: sum(counts.values()) for part, counts in images.items()},
        quarantined=sum(images[QUARANTINE].values()) if QUARANTINE in images else MISSING,
        twins=_twins(validation),
        expectations=_expectations(validation),
        classes=CLASSES,
        parts=PARTS,
        signs={rule: RULES[rule].sign for rule in RULES},
        titles=_TITLES,
        disclaimer=DISCLAIMER,
    )
    return text.rstrip("\n") + "\n"


def registry_description(card: str, limit: int, rest: str) -> str:
    """A card as a registry's description: at most `limit` characters, its tables spaced.

    MLflow's page draws tables without padding between cells and without space below. So an em space is added to each
    cell and an empty paragraph after each table. If the card is too long, whole `##` sections are left out from the
    end, and the text `rest`, which says where they are, is added.

    Raises:
        ValueError: not even the title and `rest` fit.
    """
    lines = [_spaced(line) for line in card.split("\n")]
    card = _TABLE_END.sub(r"\1\n\n&nbsp;\n\n", "\n".join(lines))
    if len(card) <= limit:
        return card
    sections = card.split("\n## ")
    for kept in range(len(sections) - 1, 0, -1):
        short = "\n## ".join(sections[:kept]).rstrip("\n") + f"\n\n{rest}\n"
        if len(short) <= limit:
            return short
    raise ValueError(f"the card's title alone is longer than {limit} characters")


def _spaced(line: str) -> str:
    if not line.startswith("|") or line.startswith("| ---"):
        return line
    return "|" + line[1:].replace(" |", "&emsp;|")


def _twins(validation: Mapping) -> int | str:
    """Images in a near-duplicate group of two or more; `groups` counts the groups of each size."""
    if "groups" not in validation:
        return MISSING
    return sum(int(size) * count for size, count in validation["groups"].items() if int(size) > 1)


def _expectations(validation: Mapping) -> str:
    if "expectations" not in validation:
        return f"expectations {MISSING}"
    missed = [check["name"] for check in validation["expectations"] if not check["success"]]
    held = len(validation["expectations"]) - len(missed)
    return f"{held} of {held + len(missed)} expectations met" + (f", not met: {', '.join(missed)}" if missed else "")


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else MISSING


def _percent(value: object) -> str:
    return f"{100 * value:.3g} %" if isinstance(value, int | float) else MISSING


def _range(metric: object) -> str:
    return format_range(Metric.from_json(metric)) if _is_metric(metric) else MISSING


def _interval(metric: object) -> str:
    return format_interval(Metric.from_json(metric)) if _is_metric(metric) else MISSING


def _interval_n(metric: object) -> str:
    return f"{_interval(metric)}, n = {metric['n']}" if _is_metric(metric) else MISSING


def _is_metric(found: object) -> bool:
    return isinstance(found, Mapping) and set(Metric._fields) <= set(found)


def _items(value: object) -> list[tuple]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _cell(value: object) -> str:
    """Text in which nothing, such as a folder's name, can break a table or start markup."""
    text = MISSING if value is None else " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


_ENVIRONMENT = jinja2.Environment(  # noqa: S701 - Markdown, not HTML; `_cell` escapes what Markdown would take for it
    loader=jinja2.PackageLoader("busi.reporting"),
    undefined=_NotRecorded,
    finalize=_cell,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"number": _number, "percent": _percent, "range": _range, "interval": _interval}
_ENVIRONMENT.filters |= {"interval_n": _interval_n, "items": _items}
