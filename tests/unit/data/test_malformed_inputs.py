"""The short part of `make fuzz`: a few hundred malformed files, each taken or refused by name, and the heavy ones."""

import base64
import json
import os
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busi.data import archive, manifest
from busi.data.description import read_description
from busi.data.images import MAX_PIXELS, read_image
from busi.data.members import Limits
from pipeline.serving import serve
from tests import fuzz, malformed_inputs

SEED = 20


@pytest.mark.parametrize(
    "target", ["image", "manifest", "archive", "data", "folder", "predict", "predicted folder", "endpoint"]
)
@pytest.mark.filterwarnings("ignore")  # MLflow's and Keras's own
def test_each_malformed_file_is_taken_or_refused_by_name(target):
    found = list(fuzz.results(target, SEED, 0, fuzz.CASES[target] // fuzz.SMALLER, heavy=False))
    assert [result for result in found if result.fault] == [], f"seed {SEED}"
    assert {result.outcome for result in found} == {"taken", "refused"}


# The endpoint

IMAGE = base64.b64encode(malformed_inputs.good_images()[1][1]).decode()
WORDS = st.sampled_from(["image", "columns", "data", "index", "inputs", "params", "predictions", "messages"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(IMAGE)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=4)
)
FORMS = st.sampled_from(["dataframe_records", "dataframe_split", "inputs", "instances", "messages", "input"])


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(TREES | st.dictionaries(FORMS, TREES | st.lists(st.dictionaries(WORDS, LEAVES), max_size=3), max_size=2))
def test_any_json_is_answered_or_refused_with_a_reason(body):
    try:
        fuzz.ask_endpoint(malformed_inputs.Case("", "body", json.dumps(body).encode()), Path())
    except ValueError as refused:
        assert re.match(r"(?s)body: .", str(refused))


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_request_of_known_kind_and_length_is_refused_before_it_is_read():
    client, good = fuzz.endpoint(), malformed_inputs.request_of([malformed_inputs.good_images()[1][1]])
    kind, length = {"Content-Type": "application/json; charset=utf-8"}, {"Content-Length": str(serve.MAX_BODY + 1)}
    for body, headers, status, reason in [
        (good, {"Content-Type": "text/csv"}, 415, "text/csv; expected application/json"),
        (good, {}, 415, "none; expected application/json"),
        (iter([good]), kind, 411, "Content-Length"),
        (good, kind | length, 413, f"expected at most {serve.MAX_BODY:,}"),
        (b"[" * (serve.MAX_VALUES + 1), kind, 413, "send fewer images at once"),
        (b"[" * (serve.MAX_VALUES - 1), kind, 400, "RecursionError"),
    ]:
        answer = client.post("/invocations", content=body, headers=headers)
        assert (answer.status_code, set(answer.json())) == (status, {"error_code", "message"})
        assert reason in answer.json()["message"]
    assert client.post("/invocations", content=good, headers=kind).status_code == 200
    assert client.get("/health").status_code == 200


def test_the_same_seed_gives_the_same_files():
    for make in (malformed_inputs.images, malformed_inputs.archives):
        one, again, other = (list(make(seed, 30, heavy=False)) for seed in (1, 1, 2))
        assert one == again != other


# What the readers were mended for. Each of these took minutes or gigabytes


def with_chunks(kind, data, count):
    whole = malformed_inputs.png_chunks(malformed_inputs.good_images()[1][1])
    return malformed_inputs.png_of([*whole[:1], *[(kind, data)] * count, *whole[1:]])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_chunks(b"prVt", b"", 100_000), "its parts are too many"),
        (b"\xff\xd8" + b"\xff" * 400_000, "its parts are too many"),
        (b"\xff\xd8" + b"\xff\xe5\x00\x02" * 100_000, "its parts are too many"),
        (malformed_inputs.tiff_of_tags(40_000, 100_000), "Tag data larger|lie one on the other"),
        (malformed_inputs.jpeg_of_scans(64, 64, 200), r"2\d\d scans; expected at most 100"),
        (malformed_inputs.tiff_of_frames(2000), "frames|truncated or damaged"),
        (with_chunks(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)), 100), "truncated or damaged|damaged header"),
        (malformed_inputs.png_of_zeros(MAX_PIXELS + 1, 1, 0, 8), "expected at most"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:20],
)
def test_what_costs_too_much_is_refused(content, reason):
    before = fuzz.megabytes(reset=True)
    with pytest.raises(ValueError, match=f"^case: .*({reason})"):
        read_image(content, "case")
    assert fuzz.megabytes() - before < 200


def test_the_largest_image_is_read():
    image = read_image(malformed_inputs.png_of_zeros(MAX_PIXELS // 1000, 1000, 0, 1))
    assert image.size == (MAX_PIXELS // 1000, 1000)


def test_a_pipe_is_not_waited_for_and_a_name_with_a_nul_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: neither a file nor a link"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\\x00b: cannot be opened"):
        read_image(tmp_path / "a\0b")


def test_bombs_of_many_small_members_are_refused(tmp_path):
    (tmp_path / "many.zip").write_bytes(
        malformed_inputs.zipped([(f"benign/{n}.png", bytes(1 << 20)) for n in range(70)])
    )
    (tmp_path / "overlap.zip").write_bytes(malformed_inputs.overlapping(50))
    for name, reason in (("many.zip", "zip bomb"), ("overlap.zip", "lie one on the other")):
        with pytest.raises(ValueError, match=f"(?s)'{name}' can't be taken.*{reason}"):
            archive.collect(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_of_too_many_members_is_not_taken_apart(tmp_path):
    (tmp_path / "s.zip").write_bytes(malformed_inputs.directory_of(200))
    with pytest.raises(ValueError, match=r"'s\.zip' can't be taken.*200 files; at most 100"):
        archive.collect(tmp_path / "s.zip", tmp_path / "out", Limits(members=100))


@pytest.mark.parametrize("planted", ['{"\\ud800": 1}', '{"a": "\\udfff"}', '{"a": ' * 2000 + "1" + "}" * 2000])
def test_a_description_that_could_not_be_written_again_is_refused(planted):
    with pytest.raises(ValueError, match="is not JSON"):
        read_description(malformed_inputs.description(planted))


def test_a_link_to_everything_is_named_and_not_followed(tmp_path):
    malformed_inputs.write_set(tmp_path)
    (tmp_path / "other").symlink_to("/")
    (tmp_path / "benign" / "inner").symlink_to("/")
    _, problems = manifest.build_manifest(tmp_path, workers=1)
    assert [(problem.path, problem.kind) for problem in problems] == [
        ("benign/inner/", "nested_folder"),
        ("other/", "unknown_folder"),
    ]
    assert all("a link" in problem.reason for problem in problems)
