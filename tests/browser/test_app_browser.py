"""The app in a browser, at desktop and at phone width: upload, result, heat map, download.

The server runs as `make app` starts it, on a promoted model of a real store, with every file that it opens to write
on record.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER
from pipeline.paths import ROOT
from pipeline.serving.app_command import SCRIPT
from tests.bad_images import encoded
from tests.pipeline.registry import NAME, empty_store, free_port, keras_file, with_production, working_in  # noqa: F401

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore"),  # Streamlit's, MLflow's and their libraries' own
]

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
MILLISECONDS = 120_000  # of patience with one step

# Streamlit's command, with each file that Python opens to write or to create put on record
SERVER = """
import os, sys
record = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def watch(event, arguments):
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(record, f"{arguments[0]}\\n".encode())
sys.addaudithook(watch)
from streamlit.web.cli import main
main()
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory, with_production):  # noqa: F811
    """The address of the app, and the file that names what it opened to write."""
    with working_in(shutil.copytree(with_production, tmp_path_factory.mktemp("browser") / "repository")) as folder:
        shutil.copytree(ROOT / ".streamlit", ".streamlit")
        port, record = free_port(), folder / "opened"
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [
                    *(sys.executable, "-c", SERVER, str(record)),
                    *("run", str(SCRIPT), "--server.port", str(port)),
                ],
                cwd=folder, stdout=log, stderr=log, env={**os.environ, "HOME": str(folder / "home")},
            )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
                        break
                except OSError:
                    assert server.poll() is None, (folder / "log").read_text()
                    time.sleep(0.2)
            yield address, record
        finally:
            server.terminate()
            server.wait(timeout=30)
        assert "Traceback" not in (folder / "log").read_text()
        assert not (folder / "home").exists()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(request, browser, served):
    """The start page; afterwards, nothing was logged as an error and no other host was asked for anything."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    context.set_default_timeout(MILLISECONDS)
    page, errors, hosts = context.new_page(), [], set()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(served[0])
    page.wait_for_selector("input[type=file]", state="attached")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".disclaimer").bounding_box()["y"] == 0
    assert page.locator(".disclaimer").inner_text() == DISCLAIMER
    context.close()
    assert errors == []
    assert hosts - {""} == {urlsplit(served[0]).netloc}  # none for what is within the page


def give(page, **files):
    page.set_input_files(
        "input[type=file]",
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files.items()],
    )


def test_from_upload_to_download(page, keras_file):  # noqa: F811
    known = next(keras_file.with_name("smoke").glob("*.image")).read_bytes()
    give(page, **{"a <b>scan</b>.png": known})
    page.wait_for_selector(".bars")
    assert page.locator(".eyebrow").inner_text() == "a <b>scan</b>.png · 32 × 32 pixels"
    said = page.locator(".verdict").inner_text()
    label, probability = re.match(r"([A-Z][a-z]+)\s*([\d.]+)% probability", said).groups()

    page.wait_for_selector(".legend")
    picture = page.locator(".st-key-result img").first
    page.get_by_text("HiResCAM").wait_for()
    before = picture.get_attribute("src")
    slider = page.locator(".st-key-opacity").get_by_role("slider")
    slider.focus()
    slider.press("End")
    page.wait_for_function(
        "before => document.querySelector('.st-key-result img').src !== before", arg=page.url + before
    )
    for _ in range(200):
        if picture.get_attribute("src") != before:
            break
        page.wait_for_timeout(100)
    assert picture.get_attribute("src") != before

    with page.expect_download() as download:
        page.locator(".st-key-csv").get_by_role("button").click()
    table = pd.read_csv(download.value.path())
    assert download.value.suggested_filename == "classified.csv"
    [row] = table.to_dict(orient="records")
    assert (row["file"], row["label"], row["accepted"]) == ("a <b>scan</b>.png", label.lower(), True)
    assert row[label.lower()] * 100 == pytest.approx(float(probability), abs=0.06)
    assert (row["model_version"], row["disclaimer"]) == (f"{NAME}/1", DISCLAIMER)


def test_nothing_that_is_uploaded_is_written(page, served):
    """Also a file of more than a megabyte, which the server's library would put into a temporary file."""
    noise = encoded(np.random.default_rng(int(time.time())).integers(0, 256, (1500, 1500), dtype=np.uint8))
    assert len(noise) > 2_000_000 and Image.open(io.BytesIO(noise)).size == (1500, 1500)
    before = served[1].read_text()
    give(page, **{"large.png": noise, "bad.png": b"no image"})
    page.locator(".stDataFrame").wait_for()
    page.wait_for_selector(".verdict")
    opened = served[1].read_text().removeprefix(before).splitlines()
    assert [path for path in opened if path != os.devnull] == []


def test_a_file_over_the_limit_is_refused_before_it_is_sent(page, tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(51 * 2**20)
    page.set_input_files("input[type=file]", tmp_path / "huge.png")
    page.get_by_text("File must be 50.0MB or smaller.").wait_for()
