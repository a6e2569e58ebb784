"""`busi data` in a real git and DVC repository: what comes in, and that nothing is lost when it fails."""

import errno
import gc
import hashlib
import http.server
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from pipeline import cli
from pipeline.ingest import data, dvc_command, sources, swap
from pipeline.ingest.version import read_version
from pipeline.paths import ROOT
from pipeline.runtime.lifecycle import EXTERNAL_SERVICE_EXIT
from pipeline.runtime.locks import locked
from tests.folders import spread, tree


def picture(text: str) -> bytes:
    """A small PNG that carries `text`, so that each one differs."""
    note = PngInfo()
    note.add_text("name", text)
    file = io.BytesIO()
    Image.new("L", (8, 6), 90).save(file, "PNG", pnginfo=note)
    return file.getvalue()


SET = {
    f"{label}/{label} ({n}){mask}.png": picture(f"{label}{n}{mask}")
    for label in ("benign", "malignant", "normal")
    for n in (1, 2)
    for mask in ("", "_mask")
}
COUNTS = {"benign": 2, "malignant": 2, "normal": 2}


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def state() -> tuple:
    """data/ and data.dvc, byte for byte; nothing of a run may be left beside them."""
    assert not list(Path().glob(".data-*"))
    return tree(Path("data")), Path("data.dvc").read_bytes() if Path("data.dvc").exists() else None


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["data", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def description() -> dict:
    return json.loads(Path("data/dataset.json").read_text())


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """An empty repository, and one whose data/ is the set `old`; made once and copied for each test."""
    root = tmp_path_factory.mktemp("repositories")
    empty = root / "empty"
    empty.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=empty, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=empty, check=True)
    for name in (".gitignore", ".dvcignore", ".dvc/config", "params.yaml"):
        shutil.copyfile(ROOT / name, empty / name)
    spread(root / "old", SET)
    shutil.copytree(empty, root / "filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "filled")
        run(str(root / "old"))
    return root


@pytest.fixture
def empty(templates, tmp_path, monkeypatch):
    shutil.copytree(templates / "empty", tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path


@pytest.fixture
def filled(templates, tmp_path, monkeypatch):
    shutil.copytree(templates / "filled", tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path


@pytest.fixture
def stub_phantom(monkeypatch):
    """The phantom generator without its physics."""

    def generate(folder, counts, seed, workers=None):
        spread(folder, SET)
        return {"name": "phantom", "synthetic": True, "source": "stub", "licence": "x", "counts": COUNTS, "masks": 6}

    monkeypatch.setattr("busi.phantom.dataset.generate", generate)


def fail_dvc_add(monkeypatch, outcome):
    """Put a DVC in place whose `add` ends as `outcome` says, an exception or a function, and that agrees otherwise."""

    def dvc(*arguments):
        if arguments[0] != "add":
            return subprocess.CompletedProcess(arguments, 0, "{}", "")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome()

    monkeypatch.setattr(dvc_command, "dvc", dvc)


# What comes in


def test_a_zip_becomes_the_next_version(filled):
    members = {f"Dataset_BUSI_with_GT/{n}": c for n, c in SET.items()} | {"__MACOSX/._x": b"", ".DS_Store": b""}
    members |= {"Dataset_BUSI_with_GT/benign/ä ö (1).png": picture("x")}
    before = read_version()
    output = run(str(pack(filled / "my set.zip", members)))
    assert description() == {
        "name": "my set",
        "synthetic": False,
        "source": "my set.zip",
        "licence": "not stated by its source",
        "counts": COUNTS | {"benign": 3},
        "masks": 6,
    }
    assert tree(Path("data")).keys() == SET.keys() | {"benign/ä ö (1).png", "dataset.json"}
    assert yaml.safe_load(Path("data.dvc").read_text())["meta"] == {
        "name": "my set",
        "md5": read_version()[1],
    }
    _, md5 = read_version()
    for said in (
        "7 images (benign 3, malignant 2, normal 2), 6 masks",
        "ignored: 2",
        md5,
        before[1],
        "next: dvc repro",
    ):
        assert said in output
    assert subprocess.run([sys.executable, "-m", "dvc", "status", "-q"], check=False).returncode == 0
    assert not list(Path().glob(".data-*"))


def test_an_exported_set_comes_back_as_the_same_version_and_stays_synthetic(filled, stub_phantom):
    run("phantom")
    before = state()
    shutil.copytree("data", filled / "innocent name")
    output = run(str(filled / "innocent name"))
    assert state() == before
    assert description()["synthetic"] is True
    assert "same version as before" in output


def test_data_itself_may_be_the_source(filled):
    before = state()
    Path("data/benign/Thumbs.db").write_bytes(b"")
    run("data")
    assert state() == before


def test_the_real_generator_fits(empty):
    text = Path("params.yaml").read_text()
    values = yaml.safe_load(text)
    values["data"]["phantom"] |= {"benign": 2, "malignant": 2, "normal": 1}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert "phantom (synthetic): 5 images (benign 2, malignant 2, normal 1)" in run("phantom")
    assert description()["synthetic"] is True
    assert sum("_mask" not in name for name in tree(Path("data"))) == 5 + 1
    assert read_version()[0] == "phantom"


def test_kaggle_gives_busi(empty, monkeypatch):
    import kagglehub

    source = spread(empty / "cache", {f"Dataset_BUSI_with_GT/{n}": c for n, c in SET.items()})
    monkeypatch.setattr(kagglehub, "dataset_download", {sources.KAGGLE_SET: str(source)}.__getitem__)
    output = run("kaggle")
    assert "note: BUSI as published has" in output
    assert description() | {"source": None} == {
        "name": "busi",
        "synthetic": False,
        "source": None,
        "licence": "CC BY 4.0",
        "counts": COUNTS,
        "masks": 6,
    }
    assert sources.BUSI_DOI in description()["source"]
    assert sources.KAGGLE_SET in description()["source"]


# Nothing is lost


def damaged(folder: Path, kind: str) -> str:
    if kind == "not there":
        return str(folder / "nothing.zip")
    if kind == "no class":
        return str(spread(folder / "s", {n: c for n, c in SET.items() if "normal" not in n}))
    if kind == "named phantom":
        return str(spread(folder / "phantom", SET))
    source = pack(folder / "s.zip", SET | ({"../evil.png": b""} if kind == "leads out" else {}))
    if kind == "undecodable":
        return str(
            spread(folder / "s", SET | {"benign/benign (2).png": picture("cut")[:-40], "normal/normal (2).png": b""})
        )
    if kind == "truncated":
        source.write_bytes(source.read_bytes()[:-30])
    if kind == "corrupt":
        source.write_bytes(source.read_bytes().replace(b"normal2", b"NORMAL2"))
    return str(source)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("not there", "is not there"),
        ("no class", "'normal': no image of this class"),
        ("named phantom", "no dataset.json to say what it is"),
        ("leads out", "'../evil.png'"),
        ("undecodable", "benign/benign (2).png"),
        ("truncated", "not a zip, or a damaged one"),
        ("corrupt", "Bad CRC-32 for file 'normal/normal (2).png'"),
    ],
)
def test_bad_input_changes_nothing(filled, kind, said):
    before = state()
    assert said in run(damaged(filled, kind), code=1)
    assert state() == before
    assert not (filled / "evil.png").exists()


@pytest.mark.parametrize("there", ["filled", "empty"])
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("failure", ["dvc fails", "dvc writes, then fails", "interrupted", "disk full"])
def test_a_failure_after_the_swap_is_undone(request, monkeypatch, there, exchange, failure):
    place = request.getfixturevalue(there)
    source = spread(place / "new", SET | {"benign/benign (3).png": picture("x")})
    before = state()
    if not exchange:
        monkeypatch.setattr(swap, "_exchange", lambda one, other: False)

    def write_and_fail():
        assert "benign/benign (3).png" in tree(Path("data"))
        Path("data.dvc").write_text("half")
        return subprocess.CompletedProcess([], 1, "", "ERROR: DVC's own words")

    outcome, code, said = {
        "dvc fails": (
            lambda: subprocess.CompletedProcess([], 255, "", "ERROR: no\n" * 300),
            1,
            "... and 290 more lines",
        ),
        "dvc writes, then fails": (write_and_fail, 1, "ERROR: DVC's own words"),
        "interrupted": (KeyboardInterrupt(), 130, ""),
        "disk full": (OSError(errno.ENOSPC, "No space left on device"), 1, "as they were"),
    }[failure]
    fail_dvc_add(monkeypatch, outcome)
    assert said in run(str(source), code=code)
    assert state() == before


def test_a_full_disk_while_copying_changes_nothing(filled, monkeypatch):
    before = state()

    def full(source, folder):
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device", str(folder.name))

    monkeypatch.setattr(sources.archive, "collect", full)
    assert "No space left on device" in run(str(filled), code=1)
    assert state() == before


@pytest.mark.parametrize(
    ("there", "exchange", "when"),
    [
        ("filled", True, "before the swap"),
        ("filled", True, "after the swap"),
        ("filled", False, "within the swap"),
        ("filled", False, "after the swap"),
        ("empty", True, "after the swap"),
    ],
)
def test_the_next_start_undoes_what_a_kill_left(request, there, exchange, when):
    place = request.getfixturevalue(there)
    source = spread(place / "new", SET | {"benign/benign (3).png": picture("x")})
    before = state()
    program = f"""
import os, subprocess
from pathlib import Path
from pipeline.ingest import data, dvc_command, swap
if not {exchange}:
    swap._exchange = lambda one, other: False
if {when!r} == "before the swap":
    swap._swap = lambda new, aside: os._exit(9)
if {when!r} == "within the swap":
    rename = Path.rename
    Path.rename = lambda self, target: (rename(self, target), os._exit(9))
def dvc(*words):
    if words[0] == "add":
        Path("data.dvc").write_text("half")
        os._exit(9)
    return subprocess.CompletedProcess(words, 0, "{{}}", "")
dvc_command.dvc = dvc
data.bring({str(source)!r})
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert len(list(Path().glob(".data-incoming-*"))) == 1
    swap.recover()
    assert state() == before


@pytest.mark.parametrize("there", ["filled", "empty"])
def test_undo_needs_no_space_and_may_be_cut_off(request, monkeypatch, there):
    source = spread(request.getfixturevalue(there) / "new", SET | {"benign/benign (3).png": picture("x")})
    before = state()
    fail_dvc_add(monkeypatch, KeyboardInterrupt())
    unlink = Path.unlink

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    def cut_off(path, missing_ok=False):
        if path.name == "journal":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cut_off)
        run(str(source), code=130)
    assert list(Path().glob(".data-incoming-*/journal"))
    with monkeypatch.context() as patch:
        for name in ("copyfile", "copy", "copytree"):
            patch.setattr(shutil, name, full)
        swap.recover()
    assert state() == before


def test_content_that_no_version_holds_is_not_replaced(filled):
    Path("data/benign/benign (1).png").write_bytes(b"relabelled by hand")
    before = state()
    assert "'modified'" in run(str(filled), code=1)
    Path("data.dvc").unlink()
    assert "'in no version'" in run(str(filled), code=1)
    assert state()[0] == before[0]


def test_a_version_that_left_the_cache_is_not_replaced(filled):
    before = state()
    shutil.rmtree(".dvc/cache")
    assert "'not in cache'" in run("phantom", code=1)
    assert state() == before


def test_what_a_killed_dvc_left_half_written_is_mended(filled):
    """Each of the two files ends every command of DVC until somebody removes it."""
    Path("dvc.yaml").write_text("stages:\n  s:\n    cmd: echo done > out\n    deps: [data]\n    outs: [out]\n")
    files = [Path(".dvc/tmp/rwlock"), Path("dvc.lock")]
    before = state()
    for file in files:
        file.write_text("")
    output = run()
    for file in files:
        assert f"half of {file}; it was removed" in output
    assert dvc_command.dvc("repro", "-q").returncode == 0
    assert state() == before


def test_two_runs_do_not_meet(filled):
    with locked(data.LOCK):
        assert "another `busi data`" in run("phantom", code=1)


def test_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "root of the repository" in run("phantom", code=1)


# Downloads


class Server(http.server.BaseHTTPRequestHandler):
    body, status, cut = b"", 200, 0

    def do_GET(self):
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[: len(self.body) - self.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on 127.0.0.1 in the place of the authors' page; its class says what it answers."""
    body = pack(tmp_path / "busi.zip", {f"Dataset_BUSI_with_GT/{n}": c for n, c in SET.items()}).read_bytes()
    handler = type("Answer", (Server,), {"body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(sources, "BUSI_URL", f"http://127.0.0.1:{running.server_port}/Dataset_BUSI.zip")
        monkeypatch.setattr(sources, "BUSI_SHA256", hashlib.sha256(body).hexdigest())
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield handler
        running.shutdown()
    # pooch leaves responses open; collected here, where the tests below ignore it
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_busi_is_downloaded_once(empty, server):
    sources.DOWNLOADS.mkdir(parents=True)
    (sources.DOWNLOADS / "tmpkilled").write_bytes(b"half")  # as a killed run leaves it
    run("busi")
    assert [path.name for path in sources.DOWNLOADS.iterdir()] == ["Dataset_BUSI.zip"]
    assert (description()["name"], description()["licence"], description()["counts"]) == ("busi", "CC BY 4.0", COUNTS)
    server.status = 500
    assert "same version as before" in run("busi")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"body": b"another file"}, "does not match the known hash"),
        ({"cut": 100}, "IncompleteRead"),
        ({"status": 404}, "404"),
        ("unreachable", "could not be downloaded"),
    ],
)
def test_a_failed_download_leaves_nothing(filled, server, monkeypatch, answer, said):
    before = state()
    if answer == "unreachable":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setattr(sources, "BUSI_URL", f"http://127.0.0.1:{free.getsockname()[1]}/Dataset_BUSI.zip")
    else:
        for name, value in answer.items():
            setattr(server, name, value)
    output = run("busi", code=1)
    assert said in output
    assert "busi data kaggle" in output
    assert state() == before
    assert not list(sources.DOWNLOADS.glob("*"))


def test_kaggle_fails_clearly(filled, monkeypatch):
    import kagglehub
    from kagglehub.exceptions import UnauthenticatedError

    def refuse(handle):
        raise UnauthenticatedError

    before = state()
    monkeypatch.setattr(kagglehub, "dataset_download", refuse)
    output = run("kaggle", code=1)
    assert "UnauthenticatedError: User is not authenticated" in output
    assert "busi data busi" in output
    assert state() == before


# Without SOURCE


def test_data_that_is_there_is_left_alone(filled):
    before = state()
    assert "there already" in run()
    Path("data/benign/benign (1).png").write_bytes(b"changed")
    assert "busi data ./data" in run(code=1)
    assert state()[1] == before[1]


def test_the_version_comes_back_from_the_cache(filled):
    before = state()
    shutil.rmtree("data")
    assert "by dvc checkout: old" in run()
    assert state() == before


def test_the_version_comes_back_from_the_remote(filled):
    before = state()
    for words in (["remote", "add", "-d", "store", str(filled / "store")], ["push", "-q"]):
        assert dvc_command.dvc(*words).returncode == 0
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    assert "by dvc pull: old" in run()
    assert state() == before


def test_a_version_that_is_nowhere_is_named(filled):
    md5 = read_version()[1]
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    before = Path("data.dvc").read_bytes()
    output = run(code=1)
    for said in (f"old {md5}", "dvc checkout: ", "busi data PATH"):
        assert said in output
    assert not Path("data").exists()
    assert Path("data.dvc").read_bytes() == before


def test_a_remote_that_does_not_give_the_version_may_be_asked_again(filled):
    assert dvc_command.dvc("remote", "add", "-d", "store", str(filled / "gone")).returncode == 0
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    assert "dvc pull: " in run(code=EXTERNAL_SERVICE_EXIT)
    assert not Path("data").exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_half_a_checkout_does_not_pass_for_a_set(filled, monkeypatch, interrupted):
    shutil.rmtree("data")

    def dvc(*arguments):
        if arguments[0] == "checkout":
            spread(Path("data"), {"benign/benign (1).png": picture("x")})
            if interrupted:
                raise KeyboardInterrupt
        return subprocess.CompletedProcess(arguments, int(arguments[0] == "checkout"), "", "")

    monkeypatch.setattr(dvc_command, "dvc", dvc)
    run(code=130 if interrupted else 1)
    assert not Path("data").exists()


def test_the_embedded_default_is_generated_again(empty, stub_phantom):
    run()
    before = state()
    assert read_version()[0] == "phantom"
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    assert "same version as before" in run()
    assert state() == before


def test_a_data_dvc_that_is_none_is_named(filled):
    Path("data.dvc").write_text("<<<<<<< ours\n")
    assert "data.dvc is not a file of DVC" in run(code=1)


@pytest.mark.parametrize("words", [("add", "data"), ("repro", "-q")])
def test_a_version_that_dvc_wrote_by_itself_is_not_taken_for_the_named_one(filled, words):
    """DVC keeps `meta` beside a new md5: what is not the phantom any more must never be regenerated as it."""
    assert read_version()[0] == "old"
    Path("dvc.yaml").write_text("stages:\n  s:\n    cmd: echo done > out\n    deps: [data]\n    outs: [out]\n")
    Path("data/benign/more.png").write_text("more")
    assert dvc_command.dvc(*words).returncode == 0
    assert read_version()[0] == ""
    Path("data/benign/more.png").unlink()
    assert dvc_command.dvc(*words).returncode == 0
    assert read_version()[0] == "old"
