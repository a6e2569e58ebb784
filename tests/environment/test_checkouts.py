"""Where and how a checkout lies on the disk: any name of the folder, line ends of Windows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.paths import ROOT
from pipeline.runtime.errors import StageError
from pipeline.stages import register
from pipeline.tracking import connection
from tests.pipeline.registry import git, promote, working_in

NAME = """a b 'ü' "q" #% $x"""


def test_a_clone_with_line_ends_of_windows_has_those_of_unix(tmp_path, monkeypatch):
    """In what make, the shell and Python read, and in what DVC hashes."""
    source = tmp_path / "source"
    source.mkdir()
    for name in (".gitattributes", "Makefile", "requirements.lock", ".ci/run", "pipeline/paths.py", "params.yaml"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    monkeypatch.chdir(source)
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "-c", "core.autocrlf=true", "-c", "core.eol=crlf", "clone", "-q", str(source), str(clone)], check=True
    )
    files = [path for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert len(files) == 6
    assert [path.name for path in files if b"\r" in path.read_bytes()] == []


def test_the_store_is_made_below_a_folder_of_any_name(outputs, tmp_path):
    """Only the store: MLflow puts the path into SQL and addresses."""
    folder = tmp_path / NAME / "repository"
    shutil.copytree(outputs, folder)
    with working_in(folder):
        register.main()
        promote(1)
        assert Path("mlruns/mlflow.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("a b")] == [NAME]


@pytest.mark.parametrize("name", ["why?", "100%41"])
def test_what_has_a_meaning_in_an_address_is_refused(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StageError, match="another name"):
        connection.connect()


@pytest.mark.slow
def test_data_docs_are_written_below_a_folder_of_any_name(built, tmp_path):
    """Great Expectations takes a dollar in a path for a variable."""
    workspace = built.copy_to(tmp_path / NAME / "repository")
    shutil.rmtree(workspace.folder / "artifacts/validate/data_docs")
    workspace.python("pipeline.stages.validate")
    assert (workspace.folder / "artifacts/validate/data_docs/index.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
