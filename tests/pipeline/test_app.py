"""The app on a promoted model of a real store, run by Streamlit's AppTest: what is on the page, and what is not."""

import html
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from PIL import Image
from starlette.formparsers import MultiPartParser
from streamlit.testing.v1 import AppTest

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.reporting import viewing
from pipeline.paths import ROOT
from tests.bad_images import bomb, encoded
from tests.pipeline.registry import NAME, promote, working_in

pytestmark = pytest.mark.filterwarnings("ignore")  # Streamlit's, MLflow's and their libraries' own

APP = ROOT / "pipeline" / "app.py"
EXAMPLES = APP.with_name("examples")
HOSTILE = "<img src=x onerror=alert(1)> **b** [a](http:x) \n.png"


@pytest.fixture(scope="module")
def made(tmp_path_factory, with_two_versions):
    """A folder whose store has two versions of the tiny model, the first of them in Production."""
    return shutil.copytree(with_two_versions, tmp_path_factory.mktemp("app") / "röpository")


@pytest.fixture
def page(made, monkeypatch):
    """The app in that folder; for tests that change nothing in it."""
    with working_in(made):
        yield start(monkeypatch)


@pytest.fixture
def copy(made, monkeypatch, tmp_path):
    """A copy of that folder, and the app in it."""
    with working_in(Path(shutil.copytree(made, tmp_path / "copy"))) as folder:
        yield folder, start(monkeypatch)


@pytest.fixture
def downloads(monkeypatch):
    """What the download button gives, newest last; AppTest has no such thing."""
    given = []
    monkeypatch.setattr(st, "download_button", lambda label, data, **_: given.append(data))
    return given


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(APP), *arguments])
    return AppTest.from_file(str(APP), default_timeout=240)


def upload(app, *files):
    app.file_uploader[0].set_value([(name, content, "image/png") for name, content in files])
    return seen(app)


def seen(app):
    """Run the page and give its text; every page bears the line, and none a traceback."""
    app.run()
    assert not app.exception and not app.error
    bodies = [element.proto.body for element in app.get("html")]
    assert any(DISCLAIMER in body and 'class="disclaimer"' in body for body in bodies)
    text = "\n".join([*bodies, *(element.value for element in app.markdown)])
    assert "Traceback" not in text
    return text


def plain(text):
    """The text without its tags, in one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", text)))


def picture(app):
    """The addresses of the pictures on the page, which are made of their content."""
    return [image.proto.imgs[0].url for image in app.get("image")]


def control(app, label):
    [found] = [group for group in app.button_group if group.proto.label == label]
    return found


@pytest.mark.parametrize(
    ("low", "high", "n", "expected"),
    [(0.8, 1.0, 7, "80% to 100%"), (1.0, 1.0, 7, "65% to 100%"), (0.0, 0.0, 7, "0% to 35%"), (0.0, 0.0, 0, "0% to 0%")],
)
def test_an_interval_without_width_gives_way_to_wilsons(low, high, n, expected):
    from pipeline.serving import app

    assert app._interval({"value": low if low == high else 0.9, "low": low, "high": high, "n": n}) == expected


def test_an_image_that_the_model_knows_is_classified_with_all_that_belongs_to_it(page, known, downloads):
    seen(page)
    file, expected = known[0]
    text = upload(page, ("a scan.png", file))
    said, label = plain(text), max(CLASSES, key=lambda label: expected[label])
    assert f"a scan.png · 32 × 32 pixels {label.capitalize()} {expected[label]:.1%} probability" in said
    for name in CLASSES:
        assert f"width: {expected[name]:.2%}" in text and f"{expected[name]:.1%}" in said
    assert f"{'at or above' if expected['malignant'] >= 0.4 else 'below'} the operating point of 40.0%" in said
    assert "On test images it found 90% of 24 malignant ones (85% to 94%)" in said
    table = pd.read_csv("artifacts/evaluate/predictions.csv")
    record = viewing.track_record(table, expected[label])
    assert f"right in {record.right} of {record.n}: {record.right / record.n:.0%}, 95% interval" in said
    assert f"{NAME} version 1 gate passed" in said and f"{NAME}/1 · {DISCLAIMER}" in said
    assert "Trained on synthetic images only" in said
    assert "90.0% of 90 test images are classified right." in said  # a rule of the gate
    assert any(element.value.startswith(f"# {NAME}: passed the gate") for element in page.markdown)
    [row] = pd.read_csv(io.BytesIO(downloads[-1])).to_dict(orient="records")
    assert (row["file"], row["label"], row["accepted"], row["crop"]) == ("a scan.png", label, True, "none")
    assert [row[name] for name in CLASSES] == pytest.approx([expected[name] for name in CLASSES], abs=2e-6)
    assert (row["model_version"], row["disclaimer"]) == (f"{NAME}/1", DISCLAIMER)


def test_the_heat_map_follows_opacity_and_class(page, known):
    seen(page)
    upload(page, ("scan.png", known[0][0]))
    [half] = picture(page)
    page.slider(key="opacity").set_value(0)
    seen(page)
    [none] = picture(page)
    page.slider(key="opacity").set_value(100)
    text = seen(page)
    [full] = picture(page)
    assert len({half, none, full}) == 3
    other = next(label for label in CLASSES if f"speaks for {label}" not in plain(text))
    control(page, "Heat map of").set_value(other)
    assert f"speaks for {other}" in plain(seen(page))


def test_what_is_no_scan_is_refused_with_the_reason_and_nothing_else(page, downloads):
    seen(page)
    page.button(key="example-landscape.png").click()
    text = seen(page)
    said = plain(text)
    assert "landscape.png · 320 × 240 pixels Not classified unknown input" in said
    assert "Unknown input: unlike the ultrasound images that the model was trained on (distance" in said
    assert 'class="bars"' not in text and not re.search("% probability|operating point of", said)
    assert "HiResCAM" not in said and not [slider for slider in page.slider if slider.key == "opacity"]
    [row] = pd.read_csv(io.BytesIO(downloads[-1])).to_dict(orient="records")
    assert pd.isna([row[name] for name in ("label", *CLASSES)]).all()
    assert row["accepted"] is False and row["reason"].startswith("unknown input")


def test_every_file_of_a_batch_has_its_row_and_a_bad_one_its_error(page, known, downloads):
    seen(page)
    files = [(f"scan {number}.png", file) for number, (file, _) in enumerate(known)]
    files += [(HOSTILE, b"no image"), ("=1+2.png", (EXAMPLES / "landscape.png").read_bytes())]
    files += [("bomb.png", bomb()), ("huge.png", bytes(50_000_001)), ("scan 0.png", known[0][0])]
    said = plain(upload(page, *files))
    assert f"{len(known) + 1} classified, 1 refused as unknown input, 3 that can't be read." in said
    table = page.dataframe[0].value
    assert len(table) == len(files)
    csv = pd.read_csv(io.BytesIO(downloads[-1]))
    columns = ["file", "label", *CLASSES, "accepted", "reason", "crop", "model_version", "disclaimer"]
    assert list(csv) == columns and set(csv["disclaimer"]) == {DISCLAIMER}
    names = [name for name, _ in files]
    assert list(csv["file"]) == [*names[:-5], HOSTILE.replace("\n", "\\n"), "'=1+2.png", *names[-3:]]
    for number, (_, expected) in [*enumerate(known), (-1, known[0])]:
        row = csv.iloc[number]
        assert row["accepted"]
        assert list(row[list(CLASSES)]) == pytest.approx([expected[label] for label in CLASSES], abs=2e-6)
    bad = csv[~csv["accepted"]]
    assert bad[["label", *CLASSES]].isna().all(axis=None)
    reasons = ["not an image", "unknown input", "expected at most 25,000,000 pixels", "50,000,001 bytes"]
    assert all(reason in said for reason, said in zip(reasons, bad["reason"], strict=True)), list(bad["reason"])

    page.selectbox[0].set_value(len(known))
    text = seen(page)
    assert "Not classified the file can't be read" in plain(text)
    assert "Not an image, or damaged at its start; expected one whole image in PNG, JPEG, BMP or TIFF" in plain(text)
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt; **b** [a](http:x) \\n.png" in text


def test_a_screen_is_cropped_to_its_scan_and_the_crop_can_be_changed(page, downloads):
    seen(page)
    page.button(key="example-screen.png").click()
    assert "screen.png · 320 × 260 pixels, cropped to 242 × 201" in plain(seen(page))
    assert pd.read_csv(io.BytesIO(downloads[-1])).loc[0, "crop"] == "19 39 261 240"
    proposed = picture(page)

    def choose(how):
        control(page, "What is classified").set_value(how)
        seen(page)

    choose("Whole image")
    assert pd.read_csv(io.BytesIO(downloads[-1])).loc[0, "crop"] == "none"
    assert picture(page)[0] != proposed[0]
    choose("By hand")
    across = next(slider for slider in page.slider if slider.label == "From left to right")
    assert across.value == (19, 261)
    across.set_range(100, 101)
    seen(page)
    assert pd.read_csv(io.BytesIO(downloads[-1])).loc[0, "crop"] == "100 39 116 240"  # never less than 16 pixels


def test_what_is_classified_is_what_is_cropped(page, known, downloads):
    """A known image with a margin around it says what the image itself says."""
    seen(page)
    pixels = np.asarray(Image.open(io.BytesIO(known[0][0])))
    upload(page, ("margin.png", encoded(np.pad(pixels, 20))), ("bare.png", encoded(pixels)))
    csv = pd.read_csv(io.BytesIO(downloads[-1]))
    assert list(csv["crop"]) == ["20 20 52 52", "none"]
    assert (csv.loc[0, list(CLASSES)] == csv.loc[1, list(CLASSES)]).all() and csv.loc[0, "accepted"]


def test_all_formats_and_pixel_types_are_taken(page, known, downloads):
    seen(page)
    image = Image.open(io.BytesIO(known[0][0]))
    files = [(f"a.{kind.lower()}", encoded(image.convert("RGB"), kind)) for kind in ("PNG", "BMP", "TIFF")]
    files += [("a.jpeg", encoded(image, "JPEG")), ("16 bit.png", encoded(np.asarray(image).astype(np.uint16) * 257))]
    upload(page, *files)
    csv = pd.read_csv(io.BytesIO(downloads[-1]))
    assert (csv["reason"].fillna("").str.contains("expected one") == False).all()  # noqa: E712
    assert csv.loc[[0, 1, 2, 4], "accepted"].all()


def test_a_promotion_is_noticed(copy, known, downloads):
    _, app = copy
    seen(app)
    upload(app, ("scan.png", known[0][0]))
    promote(2)
    said = plain(seen(app))
    assert f"{NAME}/2 is in Production now, in place of {NAME}/1" in said
    assert f"{NAME} version 2 gate passed" in said and f"{NAME}/2 · " in said
    assert pd.read_csv(io.BytesIO(downloads[-1])).loc[0, "model_version"] == f"{NAME}/2"
    assert "in place of" not in plain(seen(app))


def test_without_a_production_model_the_page_says_how_to_get_one(made, monkeypatch):
    with working_in(made):
        app = start(monkeypatch, "--model", "<b>other</b>")
        text = seen(app)
    assert "No version of &lt;b&gt;other&lt;/b&gt; is in Production." in text
    assert "make run" in text and "make promote" in text
    assert not app.file_uploader


def test_without_data_and_store_the_page_says_how_to_get_them(tmp_path, monkeypatch):
    with working_in(tmp_path):
        said = plain(seen(start(monkeypatch)))
    assert "data/dataset.json not found" in said and "make run" in said


def test_a_store_that_goes_away_is_a_sentence_and_its_return_goes_on(copy, known):
    folder, app = copy
    seen(app)
    database = folder / "mlruns" / "mlflow.db"
    kept = database.read_bytes()
    database.write_bytes(b"no database" * 100)
    said = plain(seen(app))
    assert "No model to classify with The tracking store sqlite" in said.replace("the tracking", "The tracking")
    database.write_bytes(kept)
    app.button[0].click()
    seen(app)
    assert "% probability" in plain(upload(app, ("scan.png", known[0][0])))


def test_a_server_that_does_not_answer_is_a_sentence(made, monkeypatch):
    with working_in(made):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        said = plain(seen(start(monkeypatch)))
    assert "the tracking store http://127.0.0.1:9 refused" in said


def test_a_version_that_was_changed_by_hand_is_not_used(copy):
    folder, app = copy
    st.cache_resource.clear()  # a version that is loaded is a copy, and is not looked at again
    for model in folder.glob("mlruns/artifacts/*/models/*/artifacts/data/keras/model.keras"):
        model.write_bytes(model.read_bytes() + b"\n")
    said = plain(seen(app))
    assert f"{NAME} version 1 is not served" in said and "model.keras was changed" in said
    assert not app.file_uploader


def test_nothing_is_written(copy, known):
    """The way of an upload through the server, of which AppTest has none, is watched in tests/browser."""
    folder, app = copy
    seen(app)

    def written():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def holds_it(path):
        try:
            return known[1][0] in path.read_bytes()
        except OSError:  # another test's, and gone by now
            return False

    before, temporary = written(), Path(tempfile.gettempdir())
    earlier = set(temporary.iterdir())
    upload(app, ("scan.png", known[1][0]), ("bad.png", b"no image"))
    assert written() == before
    assert not [path for path in set(temporary.iterdir()) - earlier if path.is_file() and holds_it(path)]
    assert MultiPartParser.spool_max_size > 50 * 2**20  # the largest upload; what is larger goes to a temporary file


def test_the_examples_are_what_their_readme_makes(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == sorted(path.name for path in EXAMPLES.glob("*.png"))
    for name in found:
        assert (np.asarray(Image.open(name)) == np.asarray(Image.open(EXAMPLES / name))).all(), name
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 150_000
