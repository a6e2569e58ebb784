"""The stage as a whole, on small data sets in a folder of their own."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from busi.data.layout import CLASSES
from busi.data.manifest import COLUMNS, build_manifest
from pipeline.dataset import read_counted_dataset, read_dataset
from pipeline.params import read_params
from pipeline.paths import DATA_DOCS, MANIFEST, ROOT, VALIDATION_REPORT
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.stages import validate
from pipeline.validation.expectations import suite
from tests import bad_images

# Great Expectations' own deprecations are not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["']?(?:https?:)?//|url\(['"]?https?:""")
LOCAL = re.compile(r"""<(?:script|link|img)\b[^>]*(?:src|href)="([^"]+)""")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with parameters and a good data set."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    bad_images.data_set(tmp_path / "data")
    return tmp_path


def run():
    with stage("validate"):
        validate.main()


def failing(capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 1
    assert not MANIFEST.exists()
    assert not VALIDATION_REPORT.exists()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_a_good_set_passes_and_its_pages_open_from_disk(work, capsys):
    run()
    printed = capsys.readouterr()
    assert "12 images (4 benign, 4 malignant, 4 normal), 12 masks" in printed.out
    assert "Calculating Metrics" not in printed.err
    assert tuple(pd.read_csv(MANIFEST).columns) == COLUMNS
    text = VALIDATION_REPORT.read_text()
    report = json.loads(text)
    assert report["groups"] == {"1": 12}
    assert all(expectation["success"] for expectation in report["expectations"])
    assert len(report["expectations"]) == len(suite(read_params().validate_))
    assert str(work) not in text

    pages = list(DATA_DOCS.rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        html = page.read_text()
        assert not REMOTE.search(html)
        assert "integrity=" not in html
        for link in LOCAL.findall(html):
            assert (page.parent / link).is_file(), link

    first = MANIFEST.read_bytes()
    run()
    assert MANIFEST.read_bytes() == first
    assert VALIDATION_REPORT.read_text() == text
    assert len(list(DATA_DOCS.rglob("*.html"))) == 3


def test_every_critical_failure_is_reported_at_once(work, capsys):
    data = work / "data"
    (data / "benign" / "benign (1).png").write_bytes(b"")
    (data / "benign" / "benign (2).png").write_bytes(bad_images.truncated(bad_images.encoded(bad_images.pixels(2))))
    (data / "benign" / "benign (3)_mask.png").write_bytes(bad_images.encoded(bad_images.disc(9, 9)))
    (data / "benign" / "benign (4)_mask.png").write_bytes(bad_images.encoded(np.zeros((40, 48), bool)))
    (data / "benign" / "<b>two\nlines.png").write_bytes(b"text")
    (data / "benign" / "folder").mkdir()
    (data / "malignant" / "malignant (1).png").write_bytes(bad_images.bomb())
    (data / "malignant" / "malignant (2).png").write_bytes(bad_images.encoded(np.zeros((40, 48), np.uint8)))
    (data / "malignant" / "normal (9).png").write_bytes(bad_images.encoded(bad_images.pixels(9)))
    (data / "normal" / "normal (1)_mask.png").write_bytes(bad_images.encoded(bad_images.disc()))
    (data / "normal" / "normal (2).png").unlink()
    (data / "normal" / "normal (3).png").write_bytes(bad_images.encoded(bad_images.pixels(3, 5, 5)))
    (data / "cyst").mkdir()
    error = failing(capsys)
    expected = {
        "label_set": ["cyst/: folder 'cyst'"],
        "counts": ["benign/: 5 found, 4 expected", "malignant/: 5 found", "normal/: 3 found"],
        "no_nested_folders": ["benign/folder/: 0 files"],
        "decodable": [
            "benign/benign (1).png: the file is empty",
            "benign/benign (2).png: truncated",
            r"benign/<b>two\nlines.png: not an image",
            "malignant/malignant (1).png: ",
        ],
        "width": ["normal/normal (3).png: 5 pixels wide"],
        "height": ["normal/normal (3).png: 5 pixels high"],
        "name_matches_folder": ["malignant/normal (9).png: in malignant, named normal"],
        "not_blank": ["malignant/malignant (2).png: standard deviation 0"],
        "masks_have_image": ["normal/normal (2)_mask.png"],
        "mask_size": ["benign/benign (3)_mask.png: 9 x 9 pixels; expected 48 x 40", "normal/normal (3)_mask.png"],
        "lesion_masks_marked": ["benign/benign (4).png: mask empty"],
        "normal_masks_empty": ["normal/normal (1).png"],
    }
    assert re.findall(r"^  critical (\w+):", error, re.MULTILINE) == list(expected)
    for lines in expected.values():
        for line in lines:
            assert f"\n    {line}" in error
    pages = list(DATA_DOCS.rglob("data-*.html"))
    assert len(pages) == 1
    assert "<b>two" not in pages[0].read_text()


def test_many_offending_files_are_counted_and_twenty_named(work, capsys):
    for number in range(30):
        (work / "data" / "normal" / f"normal ({100 + number}).png").write_bytes(b"")
    error = failing(capsys)
    decodable = error.partition("critical decodable")[2]
    assert "Broken by 30:" in decodable
    assert decodable.count(": the file is empty") == 20
    assert "and 10 more" in decodable


def test_warnings_do_not_fail(work, capsys):
    data = work / "data"
    (data / "benign" / "notes.txt").write_text("x")
    (data / "benign" / "benign (1).png").write_bytes(bad_images.in_mode("I;16", bad_images.pixels(1)))
    (data / "benign" / "benign (2)_mask.png").unlink()
    (data / "benign" / "benign (3)_mask_1.png").write_bytes(bad_images.encoded(bad_images.disc(9, 9)))
    (data / "malignant" / "malignant (1).png").write_bytes((data / "normal" / "normal (1).png").read_bytes())
    bright = np.where(bad_images.disc(), 90, 255).astype(np.uint8)
    (data / "normal" / "normal (4).png").write_bytes(bad_images.encoded(bright))
    run()
    out = capsys.readouterr().out
    assert re.findall(r"^  warning (\w+):", out, re.MULTILINE) == [
        "no_other_files", "mode", "not_saturated", "further_mask_size", "lesions_have_mask", "one_label_a_group",
    ]  # fmt: skip
    report = json.loads(VALIDATION_REPORT.read_text())
    assert list(report["conflicts"].values()) == [["malignant/malignant (1).png", "normal/normal (1).png"]]
    (flagged,) = (item for item in report["expectations"] if item["name"] == "copies_flagged")
    assert flagged["success"]
    (mixed,) = (item for item in report["expectations"] if item["name"] == "one_label_a_group")
    assert mixed["severity"] == "warning"
    assert mixed["unexpected_count"] == 2
    assert mixed["unexpected"] == ["malignant/malignant (1).png", "normal/normal (1).png"]
    manifest = pd.read_csv(MANIFEST)
    assert manifest["label_conflict"].sum() == 2


def test_a_copy_in_another_class_that_is_not_flagged_fails(work, capsys, monkeypatch):
    data = work / "data"
    (data / "malignant" / "malignant (1).png").write_bytes((data / "normal" / "normal (1).png").read_bytes())

    def without_groups(folder):
        manifest, problems = build_manifest(folder)
        groups = [f"g{number:04d}" for number in range(len(manifest))]
        return manifest.assign(duplicate_group=groups, label_conflict=False), problems

    monkeypatch.setattr(validate, "build_manifest", without_groups)
    error = failing(capsys)
    assert re.findall(r"^  critical (\w+):", error, re.MULTILINE) == ["copies_flagged"]
    assert "malignant/malignant (1).png" in error


def test_an_empty_class_fails_whatever_the_counts_say(work, capsys):
    shutil.rmtree(work / "data" / "normal")
    bad_images.describe(work / "data", {"benign": 4, "malignant": 4, "normal": 0}, 8)
    error = failing(capsys)
    assert re.findall(r"^  critical (\w+):", error, re.MULTILINE) == ["no_empty_class"]
    assert "normal/: 0 images" in error


def test_a_set_without_masks_passes(work):
    shutil.rmtree(work / "data")
    bad_images.data_set(work / "data", masks=False)
    run()
    report = json.loads(VALIDATION_REPORT.read_text())
    assert report["masks"] == 0
    assert all(expectation["success"] for expectation in report["expectations"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "data/dataset.json not found"),
        ("{", "not valid JSON"),
        ("[]", "expected name"),
        (json.dumps({"name": "x", "synthetic": "yes", "masks": 1, "counts": {}}), "synthetic 'yes'"),
        (json.dumps({"name": "x", "synthetic": True, "masks": 1, "counts": {"benign": 1}}), "counts"),
        (json.dumps({"name": "x", "synthetic": True, "masks": "1", "counts": dict.fromkeys(CLASSES, 1)}), "masks"),
    ],
)
def test_a_bad_description(work, capsys, content, says):
    path = work / "data" / "dataset.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    error = failing(capsys)
    assert says in error
    assert "busi data" in error


def test_no_data_at_all(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    command = [sys.executable, "-m", "pipeline.stages.validate"]
    environment = {"PATH": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "`busi data`" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


def test_a_description_without_counts_is_enough_for_its_name(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"name": "x", "synthetic": False}))
    assert read_dataset(path) == {"name": "x", "synthetic": False}
    with pytest.raises(StageError, match="received counts None"):
        read_counted_dataset(path)
