"""What the app computes beside the page: intervals, crops, the table of the download, the command that starts it."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from pipeline.serving import app_command
from pipeline.serving.app import crop, state, style, table
from tests.bad_images import encoded

GRAY = np.add.outer(np.arange(40, dtype=np.uint8), np.arange(60, dtype=np.uint8))


@pytest.fixture
def file():
    return state.file_of("a scan.png", encoded(GRAY))


def answer(label="benign", reason=""):
    probabilities = dict(zip(CLASSES, (0.7, 0.2, 0.1), strict=True))
    said = {"label": label, "probabilities": probabilities, "accepted": label is not None, "reason": reason}
    return {**said, "model_version": "tiny/1", "disclaimer": DISCLAIMER}


@pytest.mark.parametrize(
    ("low", "high", "n", "expected"),
    [(0.8, 1.0, 7, "80 to 100%"), (1.0, 1.0, 7, "65 to 100%"), (0.0, 0.0, 7, "0 to 35%"), (0.0, 0.0, 0, "0 to 0%")],
)
def test_an_interval_without_width_gives_way_to_wilsons(low, high, n, expected):
    assert style.interval({"value": low if low == high else 0.9, "low": low, "high": high, "n": n}) == expected


def test_only_what_stands_between_back_quotes_becomes_html():
    assert str(style.mark_commands("<b>run</b> `make <x>` now")) == (
        "&lt;b&gt;run&lt;/b&gt; <code>make &lt;x&gt;</code> now"
    )


def test_without_a_choice_the_proposed_scan_is_classified(file):
    preview = state.Preview((60, 40), (5, 0, 60, 40), "")
    assert crop.box_of(preview, None) == (5, 0, 60, 40)
    assert crop.box_of(preview, crop.Crop(crop.WHOLE)) is None
    assert crop.box_of(preview, crop.Crop(crop.BY_HAND, (1, 2, 30, 31))) == (1, 2, 30, 31)
    assert crop.box_of(preview._replace(proposal=(0, 0, 60, 40)), None) is None  # all of it
    assert crop.box_of(state.Preview(), None) is None


def test_a_crop_has_the_pixels_of_its_box_and_a_whole_file_stays_as_it_came(file):
    assert crop.cropped(file, None) == file.content
    assert (np.asarray(Image.open(io.BytesIO(crop.cropped(file, (5, 10, 30, 40))))) == GRAY[10:40, 5:30]).all()


def test_a_file_that_cannot_be_read_has_no_preview(file):
    assert state.preview_of(file)[:2] == ((60, 40), (0, 0, 60, 40))
    assert state.preview_of(state.file_of("bad.png", b"no image")) == state.Preview()


def test_the_table_says_nothing_of_what_was_refused():
    files = [state.file_of(name, name.encode()) for name in ("=1+2.png", "two\nlines.png")]
    previews = dict.fromkeys([file.key for file in files], state.Preview((60, 40), (5, 0, 60, 40), ""))
    found = table.to_table(files, [answer(), answer(None, "unknown input")], previews, {})
    assert list(found["file"]) == ["'=1+2.png", "two\\nlines.png"]  # a spreadsheet would compute the first
    assert list(found["label"]) == ["benign", ""] and list(found["crop"]) == ["5 0 60 40"] * 2
    assert list(found.loc[0, list(CLASSES)]) == [0.7, 0.2, 0.1] and found.loc[1, list(CLASSES)].isna().all()
    assert list(found["reason"]) == ["", "unknown input"]
    assert pd.read_csv(io.StringIO(found.to_csv(index=False)))["disclaimer"].eq(DISCLAIMER).all()


def test_streamlit_finds_no_module_of_ours_beside_its_script():
    """It puts the script's folder first on the import path, where a module would hide a package of its name."""
    assert [path for path in app_command.SCRIPT.parent.iterdir() if path.name != "__pycache__"] == [app_command.SCRIPT]


def test_the_command_serves_this_machine_only_and_hands_the_model_on():
    words = app_command.command_line(8600, "other")
    assert words[words.index("--server.address") + 1] == "127.0.0.1"
    assert words[words.index("--server.port") + 1] == "8600"
    assert words[words.index("--") :] == ["--", "--model", "other"]
    assert "--model" not in app_command.command_line(8600, None)
