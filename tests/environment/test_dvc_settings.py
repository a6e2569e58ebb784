"""DVC as people set it: data and outputs that are links into the cache, and files that DVC stages for git."""

import hashlib

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_stages_read_links_and_write_none_through_them(built, tmp_path, kind):
    workspace = built.copy_to(tmp_path / "repository")
    manifest, version = workspace.text("artifacts/validate/manifest.csv"), workspace.text("data.dvc")
    workspace.dvc("config", "--local", "cache.type", kind)
    workspace.dvc("config", "--local", "core.autostage", "true")
    workspace.dvc("checkout", "--relink")
    image = next(path for path in workspace.folder.joinpath("data/benign").iterdir() if path.suffix == ".png")
    assert image.is_symlink() if kind == "symlink" else image.stat().st_nlink > 1
    assert "same version" in workspace.busi("data", "./data")
    assert workspace.text("data.dvc") == version
    workspace.set_params({"split": {"seed": 5}})
    workspace.dvc("repro", "--force", "validate", "split")
    assert workspace.text("artifacts/validate/manifest.csv") == manifest
    files = [path for path in workspace.folder.joinpath(".dvc/cache/files/md5").rglob("*") if path.is_file()]
    digests = {path: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}
    assert [path for path, md5 in digests.items() if path.parent.name + path.name.partition(".")[0] != md5] == []
