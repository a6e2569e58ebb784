"""Git as people set it: the stored patch and the lineage are the same, and what is missing is said."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.registry import lineage
from pipeline.runtime import git
from pipeline.runtime.errors import StageError

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
SETTINGS = {
    "color.ui": "always",
    "core.attributesFile": "attributes",
    "core.autocrlf": "input",
    "core.excludesFile": "ignored",
    "core.fsmonitor": "./run",
    "core.hooksPath": "hooks",
    "core.quotePath": "true",
    "diff.algorithm": "patience",
    "diff.context": "0",
    "diff.external": "./run",
    "diff.interHunkContext": "9",
    "diff.mnemonicPrefix": "true",
    "diff.noprefix": "true",
    "diff.renames": "copies",
    "diff.wsErrorHighlight": "all",
    "status.relativePaths": "false",
    "status.showUntrackedFiles": "no",
}
VARIABLES = {
    "GIT_DIR": "/nowhere/.git",
    "GIT_EXTERNAL_DIFF": "./run",
    "GIT_INDEX_FILE": "/nowhere/index",
    "GIT_WORK_TREE": "/nowhere",
    "GIT_DIFF_OPTS": "-u0",
}


def plain(*arguments: str) -> None:
    subprocess.run(["git", *IDENTITY, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A commit, a changed file, a new one with a name of many kinds, a moved one; no settings but those of the test."""
    folder = tmp_path / "a folder, «übel» 'quoted'"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    plain("init", "--quiet")
    Path("pipeline").mkdir()
    Path("pipeline/old.py").write_text("".join(f"{line}\n" for line in range(40)))
    Path("pipeline/moved.py").write_text("".join(f"moved {line}\n" for line in range(40)))
    Path("params.yaml").write_text("train: {}\n")
    plain("add", ".")
    plain("commit", "--quiet", "--message", "all")
    Path("pipeline/old.py").write_text("".join(f"{line}\n" for line in range(1, 41)))
    Path("pipeline/moved.py").rename("pipeline/elsewhere.py")
    Path("pipeline/ne w ä.py").write_text("new\n")
    return folder


def found() -> tuple[str, dict]:
    return lineage.uncommitted(), lineage._code()


def test_the_patch_and_the_lineage_are_the_same_under_every_setting(repository, tmp_path, monkeypatch):
    plain_setup = found()
    assert "ne w" in plain_setup[0]
    (tmp_path / "ignored").write_text("*.py\n")
    for name, value in SETTINGS.items():
        value = str(tmp_path / value) if name.endswith("File") else value
        subprocess.run(["git", "config", "--global", name, value], check=True)
        assert found() == plain_setup, name
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
        assert found() == plain_setup, name


def test_the_stored_patch_rebuilds_what_was_there(repository):
    subprocess.run(["git", "config", "--global", "diff.noprefix", "true"], check=True)
    patch = lineage.uncommitted()
    wanted = {
        path: Path(path).read_text() for path in ("pipeline/old.py", "pipeline/elsewhere.py", "pipeline/ne w ä.py")
    }
    plain("add", "--all")
    plain("reset", "--hard", "--quiet")
    applied = git.call("apply", "-", content=patch.encode())
    assert applied.returncode == 0, applied.stderr
    assert {path: Path(path).read_text() for path in wanted} == wanted
    assert not Path("pipeline/moved.py").exists()


def test_a_patch_that_could_not_be_applied_is_refused_when_it_is_stored(repository, monkeypatch):
    monkeypatch.setattr(git, "PATCH", (*git.PATCH, "--no-prefix"))
    with pytest.raises(StageError, match="commit the changes"):
        lineage.uncommitted()


def test_a_file_that_is_no_utf_8_is_refused(repository):
    Path("pipeline/old.py").write_bytes(b"caf\xe9\n")
    with pytest.raises(StageError, match="commit the changes"):
        lineage.uncommitted()


def test_each_kind_of_checkout_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert git.state() is git.Checkout.NO_REPOSITORY
    plain("init", "--quiet")
    assert git.state() is git.Checkout.WITHOUT_COMMIT
    plain("commit", "--quiet", "--allow-empty", "--message", "first")
    assert git.state() is git.Checkout.WHOLE
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    assert git.state() is git.Checkout.INSIDE_ANOTHER
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.state() is git.Checkout.NO_GIT


@pytest.mark.skipif(os.geteuid() != 0, reason="only the administrator can give a folder away")
def test_a_repository_of_another_user_names_gits_own_remedy(repository, monkeypatch):
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 4321, 4321)
    assert git.state() is git.Checkout.ANOTHER_OWNER
    recorded = lineage._code()["commit"]
    assert "safe.directory" in recorded and str(repository) in recorded
    assert not lineage.is_commit(recorded)


@pytest.mark.parametrize("kind", ["worktree", "shallow", "detached"])
def test_other_kinds_of_checkout_are_recorded(repository, kind, tmp_path, monkeypatch):
    commit = git.text("rev-parse", "HEAD")
    plain("stash", "--include-untracked")
    if kind == "worktree":
        plain("worktree", "add", "--quiet", str(tmp_path / kind))
    elif kind == "shallow":
        plain("clone", "--quiet", "--depth", "1", f"file://{repository}", str(tmp_path / kind))
    else:
        plain("clone", "--quiet", str(repository), str(tmp_path / kind))
        plain("-C", str(tmp_path / kind), "checkout", "--quiet", "--detach")
    monkeypatch.chdir(tmp_path / kind)
    assert git.state() is git.Checkout.WHOLE
    assert (lineage._code()["commit"], lineage._code()["tree"]) == (commit, "clean")
