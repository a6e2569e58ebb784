"""The app on a promoted model of a real store, run by Streamlit's AppTest: what is on the page, and what is not."""

import html
import io
import json
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
from busi.serving import MAX_BYTES
from pipeline.serving.app.crop import BY_HAND, LEAST_SIDE, WHOLE
from pipeline.serving.app.examples import FOLDER as EXAMPLES
from pipeline.serving.app_command import SCRIPT
from tests.bad_images import bomb, encoded
from tests.pipeline.registry import NAME, promote, working_in

pytestmark = pytest.mark.filterwarnings("ignore")  # Streamlit's, MLflow's and their libraries' own

MARKUP_NAME = "<img src=x onerror=alert(1)> **b** [a](http:x) \n.png"


@pytest.fixture(scope="module")
def made(tmp_path_factory, with_two_versions):
    """A folder whose store has two versions of the tiny model, the first of them in Production."""
    return shutil.copytree(with_two_versions, tmp_path_factory.mktemp("app") / "röpository")


@pytest.fixture(scope="module")
def changing(tmp_path_factory, with_two_versions):
    """A copy of it whose Production version may be another one after each test."""
    return shutil.copytree(with_two_versions, tmp_path_factory.mktemp("changing") / "repository")


@pytest.fixture
def page(made, monkeypatch):
    """The app in `made`, after its first run; for tests that leave the folder as it is."""
    with working_in(made):
        app = start(monkeypatch)
        seen(app)
        yield app


@pytest.fixture
def downloads(monkeypatch):
    """What the download button gives, newest last; AppTest has no such thing."""
    given = []
    monkeypatch.setattr(st, "download_button", lambda label, data, **_: given.append(data))
    return given


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    return AppTest.from_file(str(SCRIPT), default_timeout=240)


def upload(app, *files):
    app.file_uploader[0].set_value([(name, content, "image/png") for name, content in files])
    return seen(app)


def seen(app):
    """Run the page and give its HTML; every page bears the disclaimer, and none a traceback."""
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


def part(text, name):
    """The plain text of the one element of that CSS class."""
    [found] = re.findall(rf'<(\w+) class="{name}"[^>]*>(.*?)</\1>', text, re.DOTALL)
    return plain(found[1]).strip()


def picture(app):
    """The addresses of the pictures on the page, which are made of their content."""
    return [image.proto.imgs[0].url for image in app.get("image")]


def control(app, key):
    """The one choice among several whose key begins so."""
    [found] = [group for group in app.button_group if str(group.key).startswith(f"{key}-")]
    return found


def rows(downloads):
    return pd.read_csv(io.BytesIO(downloads[-1]))


def test_an_image_that_the_model_knows_is_classified_with_all_that_belongs_to_it(page, known, downloads):
    file, expected = known[0]
    text = upload(page, ("a scan.png", file))
    said, label = plain(text), max(CLASSES, key=lambda label: expected[label])
    assert "a scan.png" in part(text, "eyebrow") and "32 × 32" in part(text, "eyebrow")
    assert part(text, "verdict").startswith(label.capitalize()) and f"{expected[label]:.1%}" in part(text, "verdict")
    for name in CLASSES:
        assert f"width: {expected[name]:.2%}" in text and f"{expected[name]:.1%}" in said
    assert f"{'at or above' if expected['malignant'] >= 0.4 else 'below'} the operating point of 40.0%" in said
    assert "90% of 24 malignant images (85 to 94%)" in said  # what the operating point found on test images
    record = viewing.track_record(pd.read_csv("artifacts/evaluate/predictions.csv"), expected[label])
    assert f"{record.right} of {record.n}: {record.right / record.n:.0%}" in said
    assert f"{NAME} version 1 gate passed" in said and f"{NAME}/1 · {DISCLAIMER}" in said
    assert "synthetic images only" in said
    assert any(element.value.startswith(f"# {NAME}") for element in page.markdown)  # the model card
    [row] = rows(downloads).to_dict(orient="records")
    assert (row["file"], row["label"], row["accepted"], row["crop"]) == ("a scan.png", label, True, "none")
    assert [row[name] for name in CLASSES] == pytest.approx([expected[name] for name in CLASSES], abs=2e-6)
    assert (row["model_version"], row["disclaimer"]) == (f"{NAME}/1", DISCLAIMER)


def test_the_gate_is_shown_with_every_rule(page, made):
    text = seen(page)
    gate = json.loads((made / "reports" / "gate.json").read_text())
    assert part(text, "rules").count("passed") == sum(rule["passed"] is True for rule in gate["rules"])


def test_the_heat_map_follows_opacity_and_class(page, known):
    upload(page, ("scan.png", known[0][0]))
    pictures = picture(page)
    for opacity in (0, 100):
        page.slider(key="opacity").set_value(opacity)
        seen(page)
        pictures += picture(page)
    assert len(set(pictures)) == len(pictures) == 3
    of_classes = set()
    for label in CLASSES:
        control(page, "explained").set_value(label)
        assert f"HiResCAM for {label}" in plain(seen(page))
        of_classes |= set(picture(page))
    assert len(of_classes) > 1  # three weights make no more than two maps


def test_what_is_no_scan_is_refused_with_the_reason_and_nothing_else(page, downloads):
    page.button(key="example-landscape.png").click()
    text = seen(page)
    assert "landscape.png" in part(text, "eyebrow") and part(text, "verdict").startswith("Not classified")
    assert "Unknown input" in part(text, "notice warn")
    assert 'class="bars"' not in text and not re.search("% probability|operating point of", plain(text))
    assert "HiResCAM" not in text and not [slider for slider in page.slider if slider.key == "opacity"]
    [row] = rows(downloads).to_dict(orient="records")
    assert pd.isna([row[name] for name in ("label", *CLASSES)]).all()
    assert row["accepted"] is False and row["reason"].startswith("unknown input")


def test_every_file_of_a_batch_has_its_row_and_a_bad_one_its_error(page, known, downloads):
    files = [(f"scan {number}.png", file) for number, (file, _) in enumerate(known)]
    files += [(MARKUP_NAME, b"no image"), ("=1+2.png", (EXAMPLES / "landscape.png").read_bytes())]
    files += [("bomb.png", bomb()), ("huge.png", bytes(MAX_BYTES + 1)), ("scan 0.png", known[0][0])]
    said = plain(upload(page, *files))
    assert f"{len(known) + 1} classified, 1 refused as unknown input, 3 can't be read" in said
    assert len(page.dataframe[0].value) == len(files)
    csv = rows(downloads)
    columns = ["file", "label", *CLASSES, "accepted", "reason", "crop", "model_version", "disclaimer"]
    assert list(csv) == columns and set(csv["disclaimer"]) == {DISCLAIMER}
    names = [name for name, _ in files]
    assert list(csv["file"]) == [*names[:-5], MARKUP_NAME.replace("\n", "\\n"), "'=1+2.png", *names[-3:]]
    for number, (_, expected) in [*enumerate(known), (-1, known[0])]:
        row = csv.iloc[number]
        assert row["accepted"]
        assert list(row[list(CLASSES)]) == pytest.approx([expected[label] for label in CLASSES], abs=2e-6)
    bad = csv[~csv["accepted"]]
    assert bad[["label", *CLASSES]].isna().all(axis=None)
    reasons = ["not an image", "unknown input", "pixels", f"{MAX_BYTES + 1:,} bytes"]
    assert all(reason in said for reason, said in zip(reasons, bad["reason"], strict=True)), list(bad["reason"])

    page.selectbox[0].set_value(len(known))
    text = seen(page)
    assert part(text, "verdict").startswith("Not classified") and "Not an image" in part(text, "notice warn")
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt; **b** [a](http:x) \\n.png" in text


def test_a_screen_is_cropped_to_its_scan_and_the_crop_can_be_changed(page, downloads):
    page.button(key="example-screen.png").click()
    assert "cropped to 242 × 201" in part(seen(page), "eyebrow")
    assert rows(downloads).loc[0, "crop"] == "19 39 261 240"
    proposed = picture(page)

    def choose(how):
        control(page, "crop").set_value(how)
        seen(page)

    choose(WHOLE)
    assert rows(downloads).loc[0, "crop"] == "none"
    assert picture(page)[0] != proposed[0]
    choose(BY_HAND)
    across = next(slider for slider in page.slider if str(slider.key).startswith("across-"))
    assert across.value == (19, 261)
    across.set_range(100, 101)
    seen(page)
    assert rows(downloads).loc[0, "crop"] == f"100 39 {100 + LEAST_SIDE} 240"


def test_a_known_image_is_classified_alike_with_a_margin_and_in_every_format(page, known, downloads):
    image = Image.open(io.BytesIO(known[0][0]))
    pixels = np.asarray(image)
    files = [("bare.png", encoded(pixels)), ("margin.png", encoded(np.pad(pixels, 20)))]
    files += [(f"a.{kind.lower()}", encoded(image.convert("RGB"), kind)) for kind in ("PNG", "BMP", "TIFF")]
    files += [("16 bit.png", encoded(pixels.astype(np.uint16) * 257)), ("a.jpeg", encoded(image, "JPEG"))]
    upload(page, *files)
    csv = rows(downloads)
    assert list(csv["crop"][:2]) == ["none", "20 20 52 52"]
    alike = csv[csv["file"] != "a.jpeg"]  # which loses some of the noise
    assert alike["accepted"].all() and (alike[list(CLASSES)].nunique() == 1).all()
    assert not csv["reason"].fillna("").str.contains("not an image").any()


def test_a_promotion_is_noticed(changing, known, downloads, monkeypatch):
    with working_in(changing):
        app = start(monkeypatch)
        seen(app)
        upload(app, ("scan.png", known[0][0]))
        promote(2)
        text = seen(app)
        assert f"{NAME}/2" in part(text, "notice ") and f"{NAME}/1" in part(text, "notice ")
        assert f"{NAME} version 2 gate passed" in plain(text) and f"{NAME}/2 · " in plain(text)
        assert rows(downloads).loc[0, "model_version"] == f"{NAME}/2"
        assert 'class="notice "' not in seen(app)


def test_a_version_that_was_changed_by_hand_is_not_used(changing, monkeypatch):
    with working_in(changing):
        st.cache_resource.clear()  # a loaded version is a copy, and is not looked at again
        for model in changing.glob("mlruns/artifacts/*/models/*/artifacts/data/keras/model.keras"):
            model.write_bytes(model.read_bytes() + b"\n")
        app = start(monkeypatch)
        assert "model.keras was changed" in part(seen(app), "notice warn")
    assert not app.file_uploader


def test_without_a_production_model_the_page_says_how_to_get_one(made, monkeypatch):
    with working_in(made):
        app = start(monkeypatch, "--model", "<b>other</b>")
        text = seen(app)
    assert "&lt;b&gt;other&lt;/b&gt;" in text and "<b>other" not in text
    assert "<code>make run</code>" in text and "<code>make promote</code>" in text
    assert not app.file_uploader


def test_without_data_and_store_the_page_says_how_to_get_them(tmp_path, monkeypatch):
    with working_in(tmp_path):
        text = seen(start(monkeypatch))
    assert "data/dataset.json" in part(text, "notice warn") and "make run" in text


def test_a_store_that_goes_away_is_a_sentence_and_its_return_goes_on(page, made, known):
    database = made / "mlruns" / "mlflow.db"
    kept = database.read_bytes()
    try:
        database.write_bytes(b"no database" * 100)
        assert "sqlite:///mlruns/mlflow.db" in part(seen(page), "notice warn")
    finally:
        database.write_bytes(kept)
    page.button[0].click()
    seen(page)
    assert "% probability" in plain(upload(page, ("scan.png", known[0][0])))


def test_a_server_that_does_not_answer_is_a_sentence(made, monkeypatch):
    with working_in(made):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert "http://127.0.0.1:9" in part(seen(start(monkeypatch)), "notice warn")


def test_nothing_is_written(page, made, known):
    """The way of an upload through the server, of which AppTest has none, is watched in tests/browser."""

    def written():
        return {path: path.stat().st_mtime_ns for path in made.rglob("*")}

    def holds_it(path):
        try:
            return known[1][0] in path.read_bytes()
        except OSError:  # another test's, and gone by now
            return False

    before, temporary = written(), Path(tempfile.gettempdir())
    earlier = set(temporary.iterdir())
    upload(page, ("scan.png", known[1][0]), ("bad.png", b"no image"))
    assert written() == before
    assert not [path for path in set(temporary.iterdir()) - earlier if path.is_file() and holds_it(path)]
    assert MultiPartParser.spool_max_size > 50 * 2**20  # the largest upload; a larger one goes to a temporary file


def test_the_examples_are_what_their_readme_makes(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == sorted(path.name for path in EXAMPLES.glob("*.png"))
    for name in found:
        assert (np.asarray(Image.open(name)) == np.asarray(Image.open(EXAMPLES / name))).all(), name
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 150_000
