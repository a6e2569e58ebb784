"""The page of the report holds together on its own and shows what it is given."""

import html.parser
import re

import jinja2
import numpy as np
import pandas as pd
import pytest

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.data.split import PARTS
from busi.evaluation import gate
from busi.evaluation.metrics import evaluate
from busi.evaluation.records import Metric, Resampling, as_json
from busi.reporting.report import LINEAGE, Content, render

VALIDATION = {
    "dataset": "phantom",
    "synthetic": True,
    "images": 40,
    "masks": 33,
    "annotated": 7,
    "counts": {"benign": 20, "malignant": 12, "normal": 8},
    "groups": {"1": 26, "2": 4, "3": 2},
    "conflicts": {"g0003": ["benign/a.png", "malignant/b.png"]},
    "expectations": [
        {"name": "a", "severity": "critical", "sentence": "All is well.", "success": True, "unexpected_count": 0},
        {"name": "b", "severity": "warning", "sentence": "Modes are <L>.", "success": False, "unexpected_count": 3},
    ],
}
SPLIT = {
    "images": {part: {"benign": 7, "malignant": 4, "normal": 3} for part in PARTS},
    "groups": {part: {"benign": 6, "malignant": 3, "normal": 2} for part in PARTS},
    "quarantined": ["benign/a.png", "malignant/b.png"],
    "random_split_leak": {"value": 0.335, "low": 0.25, "high": 0.42, "n": 14, "splits": 100},
}
INTERVALS = {"confidence": 0.95, "bootstrap": 200, "groups": 30, "without_a_class": 4}
FIGURES = ("confusion", "roc", "precision_recall", "reliability", "slices", "training")
GATE = {"accuracy": 0.85, "accuracy_lower_bound": None, "slices": None}
PARAMETERS = {
    "featurize": {"image_size": 128, "weights": "<none>"},
    "evaluate": {"audit_random_split": False, "explained_images": 100},
}


RESAMPLING = Resampling(200, 0.95, 0)


def metric(value: float, n: int = 33) -> dict:
    return Metric(value, value - 0.05, value + 0.05, n)._asdict()


POINT = {
    "threshold": 0.312, "target_sensitivity": 0.95, "validation_sensitivity": 1.0, "validation_images": 8,
    "sensitivity": metric(0.71, 9), "specificity": metric(0.62, 24), "ppv": metric(0.53, 14), "npv": metric(0.84, 19),
}  # fmt: skip
POINTED = {
    "pointing_game": {**metric(0.41, 27), "chance": metric(0.08, 27), "centre": metric(0.66, 27)},
    "randomised_weights": {"pointing_game": metric(0.09, 27), "rank_correlation": metric(0.02, 26)},
}
AUDIT = {"accuracy": metric(0.93), "with_twin": metric(0.97, 11), "without_twin": metric(0.91, 22)}


def arguments(right: float = 0.8) -> dict:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [18, 9, 6])
    favoured = np.where(rng.random(33) < right, labels, (labels + 1) % 3)
    scores = np.exp(rng.normal(size=(33, 3)) / 9 + np.eye(3)[favoured])
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    predictions = pd.DataFrame(
        {
            "path": [f"{CLASSES[label]}/<b>{i}</b> ü.png" for i, label in enumerate(labels)],
            "label": np.take(CLASSES, labels),
            "duplicate_group": "g",
            "predicted": np.take(CLASSES, probabilities.argmax(axis=1)),
        }
    ).assign(**dict(zip(CLASSES, probabilities.T, strict=True)))
    metrics = {
        **as_json(evaluate(labels, probabilities, np.arange(33), RESAMPLING)),
        "operating_point": POINT,
        "accepted_inputs": {**metric(0.987, 41), "threshold": 500.0},
        "slices": {"annotation": {"annotated": metric(0.7, 12), "clean": metric(0.8, 21)}},
        "uncalibrated": {"expected_calibration_error": metric(0.21), "brier_score": metric(0.31)},
        **POINTED,
    }
    row = predictions.iloc[0].to_dict() | {"image": b"i", "overlay": b"o", "outlined": True, "empty": False}
    return {
        "metrics": metrics,
        "decision": gate.decide(metrics, GATE, 20),
        "slice_images": 20,
        "intervals": INTERVALS,
        "predictions": predictions,
        "figures": dict.fromkeys(FIGURES, b"1"),
        "gallery": {"right": [row], "wrong": [], "uncertain": [row | {"outlined": False, "empty": True}]},
        "slice_ranges": {},
        "validation": VALIDATION,
        "split": SPLIT,
        "parameters": PARAMETERS,
        "lineage": dict.fromkeys(LINEAGE, "a value") | {"temperature": 1.25, "data_md5": "0123.dir"},
    }


class Reader(html.parser.HTMLParser):
    """Collects text and addresses; fails on a tag that is closed out of turn."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, page: str):
        super().__init__()
        self.open, self.text, self.addresses, self.rows = [], [], [], 0
        self.feed(page)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.text))

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def test_the_report_is_one_file_that_says_what_it_is():
    given = arguments()
    page = render(Content(**given))
    assert page == render(Content(**given))
    report = Reader(page)
    pictures = [value for value in report.addresses if value.startswith("data:image/")]
    assert len(pictures) == len(FIGURES) + 4
    links = {value for value in report.addresses if value not in pictures}
    assert links and all(f'id="{value[1:]}"' in page for value in links)  # all of them lead into the page
    assert not re.search(r"https?:|@import|<script|url\(", page)
    accuracy = given["metrics"]["accuracy"]
    for figure in (
        f"{100 * accuracy['value']:.1f} %", f"{100 * accuracy['low']:.1f}–{100 * accuracy['high']:.1f} %",
        "33.5 %", "14 of 40 images", "0123.dir", "Modes are <L>.", "g0003 benign/a.png, malignant/b.png", "<none>",
        "audit_random_split false",
    ):  # fmt: skip
        assert figure in report.text
    assert report.text.count(DISCLAIMER) == 2
    assert "Synthetic images" in report.text and "Real images" not in report.text
    assert "All is well." not in report.text  # an expectation that holds


def test_the_gate_says_what_it_decided_rule_by_rule():
    given = arguments()
    text = Reader(render(Content(**given))).text
    by_accuracy = given["decision"].rules[0]
    assert by_accuracy.passed is False
    assert "Gate ✗ failed by accuracy" in text and f"≥ 0.850 ✗ failed {by_accuracy.sentence}" in text
    assert "accuracy lower bound" in text and " off " in text
    given["decision"] = gate.decide(given["metrics"], GATE | {"accuracy": 0.1}, 20)
    assert "Gate ✓ passed by every rule that is on" in Reader(render(Content(**given))).text


def test_the_operating_point_calibration_and_slices_are_there_with_their_n():
    text = Reader(render(Content(**arguments()))).text
    assert "called malignant from a probability of 0.312" in text and "on the 8 malignant validation images" in text
    assert "71.0 % 66.0–76.0 % 9" in text and "84.0 % 79.0–89.0 % 19" in text
    assert "0.210 0.160–0.260" in text and "0.310 0.260–0.360" in text
    assert "annotated 70.0 % 65.0–75.0 % 12 too few to say" in text and "clean 80.0 % 75.0–85.0 % 21 " in text
    assert "no slice by lesion size" in text and "no slice by native size" in text
    given = arguments()
    given["metrics"]["operating_point"] = POINT | {"ppv": {"value": 0, "low": 0, "high": 0, "n": 0}}
    assert "no such image" in Reader(render(Content(**given))).text


def test_slices_by_size_say_what_the_sizes_are():
    given = arguments()
    thirds = {"large": metric(0.9), "medium": metric(0.8), "small": metric(0.7)}
    given["metrics"]["slices"] = {"native_size": thirds, "lesion_size": thirds}
    given["slice_ranges"] = {
        "native_size": dict.fromkeys(thirds, (150_000.0, 200_000.0)),
        "lesion_size": dict.fromkeys(thirds, (0.02, 0.051)),
    }
    text = Reader(render(Content(**given))).text
    assert "0.150 to 0.200 megapixels" in text and "2.0 to 5.1 % of the image" in text
    assert text.index("small 0.150") < text.index("medium 0.150") < text.index("large 0.150")


def test_the_pointing_game_stands_beside_chance_and_centre_or_says_that_there_are_no_masks():
    given = arguments()
    text = Reader(render(Content(**given))).text
    assert "the share of 27 test images with a lesion mask" in text
    assert "This model 41.0 % 36.0–46.0 % 27" in text and "with random weights 9.0 % 4.0–14.0 % 27" in text
    assert "rank correlation of 0.020 (95 % interval −0.030 to 0.070, n = 26" in text
    assert "16 × 16 cells" in text
    del given["metrics"]["pointing_game"]
    given["metrics"]["randomised_weights"] = {"rank_correlation": metric(0.3)}
    text = Reader(render(Content(**given))).text
    assert "no lesion masks" in text and "This model" not in text and "rank correlation of 0.300" in text
    del given["metrics"]["randomised_weights"]
    assert "no image has two maps that vary" in Reader(render(Content(**given))).text


def test_the_audit_is_shown_or_said_to_be_off():
    given = arguments()
    assert "evaluate.audit_random_split: true" in Reader(render(Content(**given))).text
    given["metrics"]["random_split_audit"] = AUDIT
    text = Reader(render(Content(**given))).text
    assert "audit_random_split: true" not in text
    assert "Claimed by the random split 93.0 % 88.0–98.0 % 33" in text
    assert "with a near-duplicate in training 97.0 %" in text and "without one 91.0 %" in text


def test_real_data_is_called_real():
    given = arguments() | {"validation": VALIDATION | {"synthetic": False, "dataset": "busi"}}
    text = Reader(render(Content(**given))).text
    assert "Real images" in text and "Synthetic" not in text


@pytest.mark.parametrize(
    ("low", "high", "claim"), [(0.36, 0.46, "more often"), (0.05, 0.15, "no more often"), (0.0, 0.02, "less often")]
)
def test_the_claim_about_chance_follows_from_the_intervals(low, high, claim):
    given = arguments()
    game = POINTED["pointing_game"] | {"value": (low + high) / 2, "low": low, "high": high}
    given["metrics"]["pointing_game"] = game  # chance is 0.03 to 0.13
    assert f"points at the lesion {claim} than chance" in Reader(render(Content(**given))).text


def test_the_fewest_images_of_a_slice_are_an_argument():
    for slice_images, marked in ((12, 0), (13, 1), (22, 2)):
        text = Reader(render(Content(**(arguments() | {"slice_images": slice_images})))).text
        table = text[text.index("By burnt-in marks") :]
        assert table.count("too few to say") == marked


def test_wrong_images_are_listed_surest_first_and_escaped():
    given = arguments() | {"gallery": {"right": [], "wrong": [], "uncertain": []}}
    page = render(Content(**given))
    wrong = given["predictions"].query("label != predicted")
    assert "<b>" not in page
    text = Reader(page).text
    assert f"{len(wrong)} of 33 test images" in text
    listed = [path for path in given["predictions"]["path"] if path in text]
    assert listed == wrong["path"].tolist()
    sureness = wrong.set_index("path")[list(CLASSES)].max(axis=1)
    order = sorted(listed, key=text.index)
    assert sureness[order].is_monotonic_decreasing


def test_a_report_without_mistakes_and_without_quarantine():
    given = arguments(right=1.0) | {"split": SPLIT | {"quarantined": []}}
    text = Reader(render(Content(**given))).text
    assert "None of the 33 test images is wrong" in text and "There is none." in text
    assert "in quarantine, neither" not in text


def test_a_class_that_was_never_predicted_has_no_precision():
    given = arguments()
    labels = np.array([CLASSES.index(label) for label in given["predictions"]["label"]])
    given["metrics"] |= as_json(evaluate(labels, np.tile([0.5, 0.3, 0.2], (33, 1)), np.arange(33), RESAMPLING))
    assert Reader(render(Content(**given))).text.count("never predicted") == 2


def test_a_missing_figure_or_count_is_an_error():
    for change in ({"figures": {"roc": b"2"}}, {"split": {}}):
        with pytest.raises((jinja2.UndefinedError, KeyError)):
            render(Content(**(arguments() | change)))
