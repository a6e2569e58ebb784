"""What lineage says of a folder: commit, changes, remote, checksums."""

from pathlib import Path

import pytest

from pipeline.paths import DVC_LOCK
from pipeline.registry import lineage
from tests.pipeline.registry import git, write


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What lineage reads, outside any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write("params.yaml", "train: {}\n")
    write("data/dataset.json", {"name": "phantom", "synthetic": True})
    write("data.dvc", "outs:\n- md5: 0123.dir\n  path: data\n")
    write("dvc.lock", "schema: '2.0'\nstages:\n  train: {cmd: x}\n")
    write("artifacts/split/split.csv", "path,label,duplicate_group,part\n")
    return tmp_path


def test_lineage_says_what_the_code_was(folder):
    def code():
        found = lineage.collect("none")
        return found["commit"], found["tree"], found["remote"]

    why, *others = code()
    assert why.startswith("not recorded: no git repository") and not lineage.is_commit(why)
    assert others == [lineage.NOT_RECORDED] * 2
    git("init")
    write(".gitignore", "/data/\n/artifacts/\n/mlruns/\n")
    commit, tree, remote = code()
    assert commit.startswith("not recorded: no commit yet") and remote == "none"
    assert tree.startswith("uncommitted changes")
    git("add", ".")
    git("commit", "-m", "all")
    commit, tree, _ = code()
    assert lineage.is_commit(commit)
    assert tree == "clean"
    write("dvc.lock", "schema: '2.0'\n")  # what the run itself writes
    write("reports/gate.json", {})
    assert code()[1] == "clean"
    write("params.yaml", Path("params.yaml").read_text() + "#\n")
    git("remote", "add", "origin", "https://me:secret@host/team/busi.git")
    assert code() == (commit, "uncommitted changes: params.yaml", "https://host/team/busi.git")


def test_lineage_of_the_lock_file_leaves_its_own_stage_out(folder):
    before = lineage.lock_md5(DVC_LOCK)
    write("dvc.lock", "schema: '2.0'\nstages:\n  train: {cmd: x}\n  register: {cmd: y}\n")
    assert lineage.lock_md5(DVC_LOCK) == before
    write("dvc.lock", "schema: '2.0'\nstages:\n  train: {cmd: z}\n")
    assert lineage.lock_md5(DVC_LOCK) != before


def test_lineage_names_what_is_not_there(folder):
    for path in ("data.dvc", "dvc.lock", "artifacts/split/split.csv"):
        Path(path).unlink()
    found = lineage.collect("imagenet.h5")
    missing = {name for name, value in found.items() if value == lineage.NOT_RECORDED}
    assert missing == {"data_md5", "dvc_lock_md5", "split_md5", "weights_md5", "tree", "remote"}
    write("weights/imagenet.h5", "abc")
    assert lineage.collect("imagenet.h5")["weights_md5"] == "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://me:secret@host:80/a/b.git?token=1", "https://host:80/a/b.git"),
        ("https://token@host/a", "https://host/a"),
        ("ssh://git:secret@host/a", "ssh://git@host/a"),
        ("git@host:a/b.git", "git@host:a/b.git"),
        ("../elsewhere", "../elsewhere"),
    ],
)
def test_credentials_are_left_out_of_a_remote(url, kept):
    assert lineage.without_credentials(url) == kept
