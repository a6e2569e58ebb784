from pathlib import Path

import pytest
import yaml

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.evaluation import gate
from busi.reporting import card

ROOT = Path(__file__).resolve().parents[3]
METRIC = {"value": 0.87, "low": 0.8, "high": 0.92, "n": 90}
METRICS = {
    **dict.fromkeys(("accuracy", "accuracy_wilson", "balanced_accuracy", "macro_f1", "auroc_macro"), METRIC),
    "per_class": {label: dict.fromkeys(("sensitivity", "specificity", "precision", "f1"), METRIC) for label in CLASSES},
    "expected_calibration_error": {**METRIC, "value": 0.041},
    "brier_score": METRIC,
    "uncalibrated": {"expected_calibration_error": {**METRIC, "value": 0.093}, "brier_score": METRIC},
    "operating_point": {
        "threshold": 0.31, "target_sensitivity": 0.95, "validation_sensitivity": 0.96, "validation_images": 24,
        **dict.fromkeys(("sensitivity", "specificity", "ppv", "npv"), METRIC),
    },
    "slices": {"lesion_size": {"small": METRIC, "large": {**METRIC, "n": 19}}},
}  # fmt: skip
TRAINING = {
    section: values for section, values in yaml.safe_load((ROOT / "params.yaml").read_text()).items()
    if section in ("split", "featurize", "train")
}  # fmt: skip
DATA = {
    "name": "busi", "synthetic": False, "source": "doi:x", "licence": "CC BY 4.0", "masks": 798,
    "counts": {"benign": 437, "malignant": 210, "normal": 133}, "another": 1,
}  # fmt: skip
SPLIT = {
    "images": {part: dict(zip(CLASSES, (3, 2, 1), strict=True)) for part in ("train", "val", "test", "quarantine")},
    "random_split_leak": {"value": 0.31},
}
VALIDATION = {
    "groups": {"1": 400, "2": 100, "4": 5},
    "images": 620,
    "annotated": 12,
    "expectations": [{"name": "decodable", "success": True}, {"name": "sizes", "success": False}],
}


def render(accuracy=0.85, **changed):
    facts = {
        "decision": gate.decide(METRICS, {"accuracy": accuracy, "malignant_sensitivity": None}), "metrics": METRICS,
        "confidence": 0.95, "data": DATA, "validation": VALIDATION, "split": SPLIT,
        "training": TRAINING, "temperature": 1.3, "lineage": {"commit": "abc"},
    }  # fmt: skip
    return card.render("busi-densenet121", **{**facts, **changed})


def tables(text):
    """Each table of the card as rows of cells."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")])
        elif rows:
            found.append(rows)
            rows = []
    return found


def test_every_table_is_rectangular():
    found = tables(render())
    assert len(found) == 12
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}
        assert set(table[1]) == {"---"}


def test_it_says_what_the_tables_say():
    text = render()
    assert "# busi-densenet121: passed the gate" in text
    assert DISCLAIMER in text
    assert "| accuracy | 0.870 | ≥ 0.850 | passed | 87.0% of 90 test images are classified right. |" in text
    assert "| malignant_sensitivity | 0.870 | off | not decided |" in text
    assert "from a probability of 0.310: chosen on 24 malignant" in text
    assert "| 0.870 (0.800 to 0.920), n = 90 |" in text
    assert "One temperature, 1.300," in text
    assert "| expected calibration error, 10 bins | 0.093 (0.800 to 0.920) | 0.041 (0.800 to 0.920) |" in text
    assert "| lesion_size: small | 0.870 (0.800 to 0.920) | 90 |" in text
    assert "| lesion_size: large | 0.870 (0.800 to 0.920) | 19, too few to say |" in text
    assert "| image files in the set | 620 | 1 of 2 expectations met, not met: sizes |" in text
    assert "| set aside | 6 | a near-duplicate carries another label |" in text
    assert "| frozen up to | conv5_block14_concat |" in text
    assert "| busi | 437 | 210 | 133 | doi:x | CC BY 4.0 |" in text
    assert "220 images with a near-duplicate, 12 with burnt-in annotation" in text
    assert "31 % of its test images" in text
    assert "95 % intervals" in text
    assert "6 images whose near-duplicate carries another label" in text
    assert "synthetic" not in text
    before, items = text.split("## Reporting items")
    assert card.MISSING not in before
    assert items.count(card.MISSING) == 5  # what no stage knows


def test_a_failed_rule_stands_out():
    assert "| accuracy | 0.870 | ≥ 0.900 | **failed** |" in render(accuracy=0.9)


def test_synthetic_data_are_called_so_first():
    text = render(data={**DATA, "synthetic": True})
    assert text.index("synthetic images only") < text.index("## Gate")
    assert "patient identifiers" not in text


@pytest.mark.parametrize("missing", ["metrics", "data", "validation", "split", "training"])
def test_what_is_missing_is_said(missing):
    assert render(**{missing: {}}).count(card.MISSING) > render().count(card.MISSING)


def test_names_cannot_break_a_table():
    text = render(data={**DATA, "name": "a|b\n<script>"})
    assert "| a\\|b &lt;script> |" in text


def test_a_description_keeps_whole_sections():
    text = render()
    full = card.describe(text, 100_000, "the rest is elsewhere")
    assert full.replace("&emsp;|", " |").replace("&nbsp;\n\n", "") == text
    assert full.count("&nbsp;") == 12  # one after each table
    short = card.describe(text, 2500, "the rest is elsewhere")
    assert len(short) <= 2500
    assert short.endswith("\n\nthe rest is elsewhere\n")
    assert full.startswith(short.removesuffix("\n\nthe rest is elsewhere\n"))
    assert "## Gate" in short


def test_a_limit_below_the_title_is_refused():
    with pytest.raises(ValueError, match="10 characters"):
        card.describe(render(), 10, "more")
