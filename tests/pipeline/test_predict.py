"""The command line's reading of files: what can't be read has its row, and nothing is waited for."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from tqdm import tqdm

from busi.data.images import read_image
from pipeline.registry import production
from pipeline.runtime.errors import StageError
from pipeline.serving import predict
from tests.bad_images import encoded, pixels


class Classifier:
    """Says what it was given, in the form of `busi.serving`."""

    def predict(self, files):
        reasons = []
        for file in files:
            try:
                read_image(file)
                reasons.append("")
            except ValueError as error:
                reasons.append(str(error))
        table = pd.DataFrame({"label": "benign", "accepted": [not reason for reason in reasons], "reason": reasons})
        said = {"benign": 1.0, "malignant": 0.0, "normal": 0.0}
        return table.assign(probabilities=[said] * len(files), model_version="m/1", disclaimer="d")


def rows_of(*paths):
    return list(predict.classify(Classifier(), predict.find(list(paths)), tqdm(disable=True)))


def test_what_can_not_be_read_has_its_row_and_disturbs_no_other(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(pixels(1)))
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nowhere")
    (tmp_path / "d.png").write_bytes(encoded(pixels(2)))
    (tmp_path / "e.png").mkdir()
    with (tmp_path / "f.png").open("wb") as file:
        file.truncate(10 * 2**40)  # more than any memory; it takes no room
    real = type(tmp_path).open

    def opened(path, *arguments):
        if path.name == "d.png":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments)

    monkeypatch.setattr(type(tmp_path), "open", opened)
    rows = rows_of(tmp_path, tmp_path / "b.png", tmp_path / "a.png")
    names = ["a.png", "b.png", "c.png", "d.png", "f.png", "b.png", "a.png"]
    assert [row["path"] for row in rows] == [str(tmp_path / name) for name in names]
    neither, denied = "neither a file nor a link to one", "can't be opened: Permission denied"
    assert [row["reason"] for row in rows if row["path"] != names[4]][:4] == ["", neither, neither, denied]
    assert [row["accepted"] for row in rows] == [True, False, False, False, False, False, True]


def test_a_name_that_is_no_text_is_printed_in_each_way(tmp_path, capsys, monkeypatch):
    (tmp_path / os.fsdecode(b"a\xff\n.png")).write_bytes(b"")
    monkeypatch.setattr(production, "load", lambda name: type("Found", (), {"classifier": Classifier()}))
    ways = [(False, False, r"a\udcff\n.png"), (False, True, r"a\udcff\n.png"), (True, False, "a\\udcff\n.png")]
    for as_csv, as_json, name in ways:
        predict.run([tmp_path], as_csv, as_json, model="m")
        said = capsys.readouterr().out
        assert name in said
        if as_json:
            assert json.loads(said)[0]["path"].encode("utf-8", "surrogateescape").endswith(b"a\xff\n.png")


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StageError, match="not found"):
        predict.find([tmp_path / "nope.png"])


def test_one_text_is_one_path_where_that_exists_and_otherwise_several(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "malignant (12).png").touch()
    assert predict.split_paths("malignant (12).png") == [Path("malignant (12).png")]
    assert predict.split_paths("scan.png  folder") == [Path("scan.png"), Path("folder")]
    assert predict.split_paths("") == predict.split_paths("  ") == []


def test_both_formats_or_no_file_is_an_error(tmp_path):
    with pytest.raises(StageError, match="one of them"):
        predict.run([tmp_path], as_csv=True, as_json=True, model=None)
    with pytest.raises(StageError, match="no file was named"):
        predict.run([], as_csv=False, as_json=False, model=None)
