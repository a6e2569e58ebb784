"""A branch with another data version: nothing runs on data that its data.dvc does not name, and nothing is lost."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.ingest import dvc_command
from pipeline.ingest.version import read_version
from pipeline.orchestration import dvc_steps
from pipeline.paths import ROOT
from pipeline.runtime.errors import StageError
from tests.malformed_inputs.good_files import write_set
from tests.pipeline.registry import git


def busi(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [*arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("branches")
    with pytest.MonkeyPatch.context() as patch:
        make_branches(tmp_path, patch)
    return tmp_path


@pytest.fixture
def branches(template, tmp_path, monkeypatch):
    """Branch `main` was checked out by git alone: its data.dvc names another set than lies in data/."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path


def make_branches(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git("init")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    for name in (".gitignore", ".dvcignore", ".dvc/config", "params.yaml"):
        shutil.copyfile(ROOT / name, name)
    write_set(tmp_path / "one")
    write_set(tmp_path / "two")
    image = next((tmp_path / "two").rglob("*.png"))
    image.write_bytes(image.read_bytes() + b"\0")
    busi("data", str(tmp_path / "one"))
    git("add", "-A")
    git("commit", "-m", "one")
    git("checkout", "-b", "other")
    busi("data", str(tmp_path / "two"))
    git("add", "-A")
    git("commit", "-m", "two")
    git("checkout", "main")


def test_the_flow_stops_too(branches):
    before = Path("data.dvc").read_bytes()
    with pytest.raises(StageError, match="dvc checkout"):
        dvc_steps.run_step(dvc_steps.DATA, timeout=100, say=print)
    assert Path("data.dvc").read_bytes() == before


@pytest.mark.parametrize("command", ["data", "run"])
def test_the_run_stops_and_names_both_ways(branches, command):
    before = Path("data.dvc").read_bytes()
    said = busi(command, code=1)
    assert "dvc checkout data.dvc" in said and "busi data ./data" in said and read_version()[1] in said
    assert Path("data.dvc").read_bytes() == before


def test_the_first_way_leads_to_the_branchs_own_data(branches):
    assert dvc_command.dvc("checkout", "data.dvc").returncode == 0
    assert "nothing to do" in busi("data")


def test_the_second_way_makes_it_the_next_version(branches):
    wanted = read_version()[1]
    busi("data", "./data")
    assert read_version()[1] != wanted
    assert "nothing to do" in busi("data")


def test_another_set_may_replace_it_because_dvc_has_both(branches):
    assert "only copy" not in busi("data", str(branches / "one"))


def test_what_was_changed_by_hand_is_not_replaced(branches):
    next(Path("data").rglob("*.png")).write_bytes(b"by hand")
    assert "only copy" in busi("data", str(branches / "one"), code=1)
