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
        "decision": gate.decide(METRICS, {"accuracy": accuracy, "malignant_sensitivity": None}, 20).as_json(),
        "metrics": METRICS, "slice_images": 20, "confidence": 0.95,
        "data": DATA, "validation": VALIDATION, "split": SPLIT, "training": TRAINING, "temperature": 1.3,
        "lineage": {"commit": "abc"},
    }  # fmt: skip
    return card.render(card.Content("busi-densenet121", **{**facts, **changed}))


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
    assert text.startswith("# busi-densenet121: passed") and DISCLAIMER in text
    rows = [row for table in tables(text) for row in table]
    assert ["accuracy", "0.870", "≥ 0.850", "passed"] in [row[:4] for row in rows]
    assert ["malignant_sensitivity", "0.870", "off", "not decided"] in [row[:4] for row in rows]
    interval = "(0.800 to 0.920)"
    for expected in (
        ["expected calibration error, 10 bins", f"0.093 {interval}", f"0.041 {interval}"],
        ["lesion_size: small", f"0.870 {interval}", "90"],
        ["busi", "437", "210", "133", "doi:x", "CC BY 4.0"],
        ["frozen up to", "conv5_block14_concat"],
        ["commit", "abc"],
    ):
        assert expected in rows
    assert f"0.870 {interval}, n = 90" in [cell for row in rows for cell in row]
    [few] = [row for row in rows if row[0] == "lesion_size: large"]
    assert few[2].startswith("19, ")
    [images] = [row for row in rows if row[0] == "image files in the set"]
    assert images[1] == "620" and "1 of 2" in images[2] and "sizes" in images[2]
    assert [row[1] for row in rows if row[0] == "set aside"] == ["6"]
    for figure in ("0.310", "24 malignant", "1.300", "220 images", "12 with", "31 %", "95 %"):
        assert figure in text
    assert "synthetic" not in text
    assert card.MISSING not in text.split("## Reporting items")[0]


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
    full = card.registry_description(text, 100_000, "the rest is elsewhere")
    assert full.replace("&emsp;|", " |").replace("&nbsp;\n\n", "") == text
    assert full.count("&nbsp;") == 12  # one after each table
    short = card.registry_description(text, 2500, "the rest is elsewhere")
    assert len(short) <= 2500
    assert short.endswith("\n\nthe rest is elsewhere\n")
    assert full.startswith(short.removesuffix("\n\nthe rest is elsewhere\n"))
    assert "## Gate" in short


def test_a_limit_below_the_title_is_refused():
    with pytest.raises(ValueError, match="10 characters"):
        card.registry_description(render(), 10, "more")
