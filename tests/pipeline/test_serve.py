"""The REST endpoint and the command line on a promoted model of a real store."""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from pipeline.paths import ROOT
from pipeline.runtime.errors import StageError
from pipeline.serving import predict, serve
from tests.pipeline.registry import NAME, free_port, post, working_in

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROW = {"label", "probabilities", "accepted", "reason", "model_version", "disclaimer"}


@pytest.fixture(scope="module")
def promoted(tmp_path_factory, with_production):
    """A folder whose store has a Production version of the tiny model; the working folder of this module."""
    with working_in(shutil.copytree(with_production, tmp_path_factory.mktemp("serve") / "röpository")) as folder:
        (folder / "pipeline").symlink_to(ROOT / "pipeline")
        yield folder


def start(folder, *arguments):
    """Run a sub-command of `busi` in `folder`, in a process of its own."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [Path(sys.executable).parent / "busi", *arguments], cwd=folder, env=environment, text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(folder, *arguments):
    process = start(folder, *arguments)
    said, errors = process.communicate(timeout=300)
    return process.returncode, said, errors


@pytest.fixture(scope="module")
def served(promoted):
    """The address of the endpoint, and what `busi serve` printed before it answered."""
    server = start(promoted, "serve", "--model", NAME, "--port", str(free_port()))
    lines = []
    try:
        for line in server.stdout:
            lines.append(line)
            if DISCLAIMER in line:
                break
        said = "".join(lines)
        assert "answers at" in said, said + server.stderr.read()
        yield re.search(r"http://[^ ]+/invocations", said)[0], said
        server.send_signal(signal.SIGINT)  # as Ctrl-C does
        assert server.wait(timeout=60) == 0
        assert server.stderr.read() == ""
        assert not list((promoted / "mlruns").glob(".reading-*"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def ask_for(address, body):
    return post(address, body if isinstance(body, bytes) else json.dumps(body).encode())


def rows_of(*files):
    return {"dataframe_records": [{"image": base64.b64encode(file).decode()} for file in files]}


def test_each_row_of_a_request_has_its_answer(served, known):
    status, answer = ask_for(served[0], rows_of(*(file for file, _ in known), b"no image"))
    assert status == 200
    *rows, bad = answer["predictions"]
    assert len(rows) == len(known)
    for row, (_, expected) in zip(rows, known, strict=True):
        assert set(row) == ROW
        assert row["probabilities"] == pytest.approx({label: expected[label] for label in CLASSES}, abs=1e-5)
        assert row["label"] == max(CLASSES, key=lambda label: expected[label])
        assert (row["accepted"], row["reason"]) == (True, "")
        assert (row["model_version"], row["disclaimer"]) == (f"{NAME}/1", DISCLAIMER)
    assert (bad["label"], bad["probabilities"], bad["accepted"]) == (None, None, False)
    assert "not an image" in bad["reason"]


def test_the_curl_line_that_is_printed_works_when_pasted(served, promoted, known):
    address, said = served
    line = said[said.index("  printf") : said.index(DISCLAIMER)]
    pasted = subprocess.run(["bash", "-c", line], cwd=promoted, capture_output=True, text=True, check=True)
    [row] = json.loads(pasted.stdout)["predictions"]
    assert set(row) == ROW and row["model_version"] == f"{NAME}/1"
    assert set(row["probabilities"]) == set(CLASSES)  # the image that it names is there and readable


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON", b"", {"picture": 1}, {"dataframe_records": []}, {"dataframe_records": [{"picture": "eHg="}]},
        {"dataframe_records": [{"image": None}]}, {"dataframe_records": [{"image": 3}]},
    ],
)  # fmt: skip
def test_a_wrong_payload_is_a_bad_request_with_a_reason(served, body):
    status, answer = ask_for(served[0], body)
    assert status == 400 and answer["message"]
    assert "Traceback" not in json.dumps(answer)


def test_oversized_images_are_refused_with_the_reason(served, tmp_path):
    Image.new("1", (10_000, 9_000)).save(tmp_path / "many pixels.png")
    status, answer = ask_for(served[0], rows_of((tmp_path / "many pixels.png").read_bytes(), bytes(50_000_001)))
    assert status == 200
    assert [row["accepted"] for row in answer["predictions"]] == [False, False]
    pixels, size = (row["reason"] for row in answer["predictions"])
    assert "expected at most 25,000,000" in pixels and "50,000,001 bytes" in size


def test_two_hundred_requests_and_four_clients_at_once_get_the_same_answers(served, known):
    def ask(number):
        file, expected = known[number % len(known)]
        status, answer = ask_for(served[0], rows_of(file))
        return status, answer["predictions"][0]["probabilities"], {label: expected[label] for label in CLASSES}

    with ThreadPoolExecutor(4) as clients:
        answers = [*clients.map(ask, range(100)), *map(ask, range(100))]
    assert {status for status, *_ in answers} == {200}
    for _, said, expected in answers:
        assert said == pytest.approx(expected, abs=1e-5)


def test_files_and_folders_are_predicted_as_a_table_csv_and_json(promoted, known, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "ä b.PNG").write_bytes(known[0][0])
    (tmp_path / "deep" / "a.png").write_bytes(b"no image")
    (tmp_path / "deep" / "notes.txt").write_text("not looked at in a folder")
    paths = [str(tmp_path / "deep"), str(tmp_path / "deep" / "notes.txt")]

    code, said, errors = run(promoted, "predict", "--json", "--model", NAME, *paths)
    assert code == 0, errors
    rows = json.loads(said)
    assert [Path(row["path"]).name for row in rows] == ["a.png", "ä b.PNG", "notes.txt"]
    assert [row["accepted"] for row in rows] == [False, True, False]
    assert set(rows[0]) == ROW | {"path"}
    expected = {label: known[0][1][label] for label in CLASSES}
    assert rows[1]["probabilities"] == pytest.approx(expected, abs=1e-5)

    flat = predict.flatten(rows)
    assert list(flat) == ["path", "label", *CLASSES, "accepted", "reason", "model_version", "disclaimer"]
    assert flat.loc[1, "benign"] == rows[1]["probabilities"]["benign"] and pd.isna(flat.loc[0, "benign"])
    table = predict.as_table(rows)
    assert "1 classified, 2 refused by" in table and DISCLAIMER in table and "ä b.PNG" in table


def test_a_path_that_is_not_there_and_an_empty_folder_are_errors_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.registry.production.load", lambda name: pytest.fail("loaded"))
    for path, reason in [(tmp_path / "nope.png", "not found"), (tmp_path, "has no image file in it")]:
        with pytest.raises(StageError, match=reason):
            predict.run([path], as_csv=False, as_json=False, model=NAME)


def test_a_model_that_was_altered_or_never_promoted_is_not_served(promoted, served, known, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *handler: None)  # this process keeps its own
    [model] = promoted.glob("mlruns/artifacts/*/models/*/artifacts/data/keras/model.keras")
    kept = model.read_bytes()
    model.write_bytes(kept + b"\n")
    (tmp_path / "image.png").write_bytes(known[0][0])
    try:
        with pytest.raises(StageError, match=r"data/keras/model\.keras was changed"):
            serve.run(free_port(), NAME)
        with pytest.raises(StageError, match=r"data/keras/model\.keras was changed"):
            predict.run([tmp_path], as_csv=False, as_json=False, model=NAME)
    finally:
        model.write_bytes(kept)
    # What was verified before goes on answering: it is a copy
    assert ask_for(served[0], rows_of(known[0][0]))[0] == 200
    with pytest.raises(StageError, match="other has no Production version"):
        predict.run([tmp_path], as_csv=False, as_json=False, model="other")


def test_a_port_that_is_taken_is_said(served, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    port = re.search(r":(\d+)/", served[0])[1]
    with pytest.raises(StageError, match=f"port {port} is taken"):
        serve.run(int(port), NAME)
