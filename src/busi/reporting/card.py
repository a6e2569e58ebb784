"""The model card: what a model is for, what it saw, how good it is and where it fails, as Markdown.

Follows Mitchell et al., Model Cards for Model Reporting (FAT* 2019), and the items of CLAIM (Tejani et al., Radiol.
Artif. Intell. 2024) and TRIPOD+AI (Collins et al., BMJ 2024) that a machine can fill in. Everything comes from the
tables the stages write; a value they lack reads "not recorded", and so does what no stage knows.
"""

import re
from collections.abc import Mapping

import jinja2

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.evaluation.gate import RULES, SLICE_IMAGES

MISSING = "not recorded"


class _NotRecorded(jinja2.ChainableUndefined):
    def __str__(self) -> str:
        return MISSING


_TEMPLATE = """\
# {{ name }}: {{ decision.verdict }} the gate

**{{ disclaimer }}**
{% if data.synthetic %}

**Tested on synthetic images only: the figures say nothing about ultrasound of patients.**
{% endif %}

DenseNet121 that sorts breast-ultrasound images into {{ classes | join(", ") }}. \
Accuracy {{ metrics.accuracy | interval }} on {{ metrics.accuracy.n }} test images.

## Gate

| rule | value | threshold | verdict | what was found |
| --- | --- | --- | --- | --- |
{% for row in decision.rules %}
| {{ row.name }} | {{ row.value | number }} | \
{% if row.threshold is none %}off{% else %}{{ signs[row.name] }} {{ row.threshold | number }}{% endif %} | \
{% if row.passed is none %}not decided{% elif row.passed %}passed{% else %}**failed**{% endif %} | {{ row.sentence }} |
{% endfor %}

## Metrics

On test images that share no near-duplicate group with the training images; {{ confidence | percent }} intervals by \
bootstrap over near-duplicate groups.

| metric | value | interval | images |
| --- | --- | --- | --- |
{% for metric in ("accuracy", "accuracy_wilson", "balanced_accuracy", "macro_f1", "auroc_macro") %}
| {{ titles[metric] }} | {{ metrics[metric].value | number }} | {{ metrics[metric] | range }} | \
{{ metrics[metric].n }} |
{% endfor %}

| class | sensitivity | specificity | precision | F1 |
| --- | --- | --- | --- | --- |
{% for label in classes %}
| {{ label }} |\
{% for metric in ("sensitivity", "specificity", "precision", "f1") %}\
 {{ metrics.per_class[label][metric] | interval }} |\
{% endfor %}

{% endfor %}

## Operating point

Called malignant from a probability of {{ point.threshold | number }}: chosen on \
{{ point.validation_images }} malignant validation images to find \
{{ point.target_sensitivity | percent }} of them; it finds {{ point.validation_sensitivity | percent }} there. On test:

| sensitivity | specificity | positive predictive value | negative predictive value |
| --- | --- | --- | --- |
| {{ point.sensitivity | interval_n }} | {{ point.specificity | interval_n }} | {{ point.ppv | interval_n }} | \
{{ point.npv | interval_n }} |

Predictive values hold for the share of malignant images of this test set only.

## Calibration

One temperature, {{ temperature | number }}, fitted on validation and part of the model.

| | before | after |
| --- | --- | --- |
| expected calibration error, 10 bins | {{ metrics.uncalibrated.expected_calibration_error | interval }} | \
{{ metrics.expected_calibration_error | interval }} |
| Brier score | {{ metrics.uncalibrated.brier_score | interval }} | {{ metrics.brier_score | interval }} |

## Slices

| slice | accuracy | images |
| --- | --- | --- |
{% for slicing, parts in metrics.slices | items %}
{% for part, metric in parts | items %}
| {{ slicing }}: {{ part }} | {{ metric | interval }} | \
{{ metric.n }}{% if metric.n < few %}, too few to say{% endif %} |
{% endfor %}
{% endfor %}

## Intended use

Research and education: studying how such classifiers are trained, evaluated, versioned and served. \
Input is one B-mode breast-ultrasound image as an encoded file, output one probability a class.

Not for: diagnosis, triage, screening or any decision about a patient; images of other organs or \
modalities, Doppler or elastography.

## Limits

{% if data.synthetic %}
- Synthetic images: generated speckle and lesions, no patient behind any of them.
{% else %}
- No patient identifiers: near-duplicate groups stand in for patients, so images of one patient may still be on \
both sides of the split.
- One source: {{ data.source }}. BUSI's images are from one hospital and few devices; no external validation.
- Labels: {{ quarantined }} images whose near-duplicate carries another label were set aside. BUSI has \
known label conflicts and other label noise (Pawłowska et al. 2023).
{% endif %}
- Burnt-in calipers and text occur in the images and may be used as a shortcut.
- No comparison with readers, and no subgroup by age, device or breast density.

## Data

| data set |{% for label in classes %} {{ label }} |{% endfor %} source | licence |
| --- |{% for label in classes %} --- |{% endfor %} --- | --- |
| {{ data.name }}{% if data.synthetic %} (synthetic){% endif %} | \
{% for label in classes %}{{ data.counts[label] }} | {% endfor %}{{ data.source }} | {{ data.licence }} |

| flow | images | why |
| --- | --- | --- |
| image files in the set | {{ validation.images }} | {{ expectations }} |
| mask files, not counted | {{ data.masks }} | never enter as images |
| set aside | {{ quarantined }} | a near-duplicate carries another label |
| train | {{ flow.train }} | weights |
| validation | {{ flow.val }} | epoch, temperature, operating point |
| test | {{ flow.test }} | the figures of this card |

Found by validation: {{ twins }} images with a near-duplicate, {{ validation.annotated }} with burnt-in annotation.

## Split

By near-duplicate group, stratified by class; a group is never divided.

| part |{% for label in classes %} {{ label }} |{% endfor %}

| --- |{% for label in classes %} --- |{% endfor %}

{% for part in ("train", "val", "test", "quarantine") %}
| {{ part }} |{% for label in classes %} {{ split.images[part][label] }} |{% endfor %}

{% endfor %}

A plain random split would have put a near-duplicate of {{ split.random_split_leak.value | percent }} of its test \
images into training.

## Model

| item | value |
| --- | --- |
| architecture | DenseNet121; of its four levels every channel's mean and standard deviation; one dense layer with \
softmax |
| input | {{ training.featurize.image_size }} × {{ training.featurize.image_size }} pixels, gray, 0 to 255 |
| starting weights | {{ training.featurize.weights }} |
| frozen up to | {{ training.featurize.boundary }} |
| augmented views of a training image | {{ training.featurize.views }} |
| at most epochs | {{ training.train.head_epochs }} of the head, {{ training.train.tail_epochs }} of all behind the \
boundary |
| learning rates | {{ training.train.head_learning_rate }}, {{ training.train.tail_learning_rate }} |
| loss | cross-entropy, classes weighted, labels smoothed by {{ training.train.label_smoothing }} |
| dropout, weight decay | {{ training.train.dropout }}, {{ training.train.weight_decay }} |
| seeds | split {{ training.split.seed }}, views {{ training.featurize.seed }}, training {{ training.train.seed }} |

## Reporting items

Of CLAIM 2024 and TRIPOD+AI; those of the sections above are not repeated.

| item | state |
| --- | --- |
| eligibility, recruitment, dates, consent, ethics | not recorded |
| age, sex, breast density, ethnicity | not recorded |
| device, probe, frequency, settings | not recorded |
| reference standard, who labelled and how | not recorded; the label is the image's folder |
| missing data | none is filled in: an image that can't be read stops validation |
| sample size | not planned; the intervals say what it is worth |
| external validation | not done |
| comparison with readers, clinical use, fairness by subgroup | not done |
| code, data, parameters, environment | by the lineage below; `busi reproduce VERSION` rebuilds it |
| protocol, registration, funding, interests | not recorded |

## Lineage

| | |
| --- | --- |
{% for key, value in lineage.items() %}
| {{ key }} | {{ value }} |
{% endfor %}

## Citation

- Images: Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. Data in Brief 28 (2020) \
104863{% if data.synthetic %} (the layout that the synthetic images imitate){% endif %}.
- Their defects: Pawłowska A, et al. Data in Brief 48 (2023) 109247.
- Network: Huang G, Liu Z, van der Maaten L, Weinberger K. Densely connected convolutional networks. CVPR 2017.
"""

_TABLE_END = re.compile(r"^(\|.*)\n\n", re.MULTILINE)

_TITLES = {
    "accuracy": "accuracy",
    "accuracy_wilson": "accuracy, Wilson interval",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc_macro": "macro AUROC",
}


def render(
    name: str,
    *,
    decision: Mapping,
    metrics: Mapping,
    confidence: float,
    data: Mapping,
    validation: Mapping,
    split: Mapping,
    training: Mapping,
    temperature: float,
    lineage: Mapping,
) -> str:
    """Write the card.

    Args:
        name: the registered model.
        decision: what `gate.decide` gave.
        metrics: the content of `reports/metrics.json`.
        confidence: coverage of the metrics' intervals, 0 to 1.
        data: the content of `data/dataset.json`.
        validation: the content of `reports/validation.json`.
        split: the content of `reports/split.json`.
        training: the sections `split`, `featurize` and `train` of the parameters.
        temperature: what the logits were divided by.
        lineage: name to text.

    Returns:
        Markdown with a `#` title, `##` sections and a final newline. Keys that a table lacks read "not recorded".
    """
    quarantine = split.get("images", {}).get("quarantine")
    text = _ENVIRONMENT.from_string(_TEMPLATE).render(
        name=name,
        decision=decision,
        metrics=metrics,
        confidence=confidence,
        data=data,
        split=split,
        training=training,
        temperature=temperature,
        lineage=lineage,
        point=metrics.get("operating_point", {}),
        few=SLICE_IMAGES,
        flow={part: sum(counts.values()) for part, counts in split.get("images", {}).items()},
        quarantined=MISSING if quarantine is None else sum(quarantine.values()),
        validation=validation,
        twins=_twins(validation),
        expectations=_expectations(validation),
        classes=CLASSES,
        signs={rule: RULES[rule].sign for rule in RULES},
        titles=_TITLES,
        disclaimer=DISCLAIMER,
    )
    return text.rstrip("\n") + "\n"


def describe(card: str, limit: int, rest: str) -> str:
    """A card as a registry's description: at most `limit` characters, its tables spaced.

    MLflow's page draws tables without padding, so that neighbouring cells read as one word, and what follows a table
    sticks to it: an em space ends each cell, an empty paragraph each table.
    What does not fit is left out by whole `##` sections from the end, and `rest` then says where they are.

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
    if not isinstance(metric, Mapping) or not {"low", "high"} <= set(metric):
        return MISSING
    return f"{_number(metric['low'])} to {_number(metric['high'])}"


def _interval(metric: object) -> str:
    if not isinstance(metric, Mapping) or "value" not in metric:
        return MISSING
    return f"{_number(metric['value'])} ({_range(metric)})"


def _interval_n(metric: object) -> str:
    return f"{_interval(metric)}, n = {metric['n']}" if isinstance(metric, Mapping) and "n" in metric else MISSING


def _items(value: object) -> list[tuple]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _cell(value: object) -> str:
    """Text that can't break a table or start markup, whatever a folder or a remote is called."""
    text = MISSING if value is None else " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


_ENVIRONMENT = jinja2.Environment(  # noqa: S701 - Markdown, not HTML; `_cell` escapes what Markdown would take for it
    undefined=_NotRecorded, finalize=_cell, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
_ENVIRONMENT.filters |= {"number": _number, "percent": _percent, "range": _range, "interval": _interval}
_ENVIRONMENT.filters |= {"interval_n": _interval_n, "items": _items}
