"""What the first whole version of this project left (commit 76de22e) opens, and goes on being used.

`tests/stores/first.tar.xz` holds a store with one registered and promoted model of three weights and what the stages
before it left, made by that commit's own code; `first.dvc.lock` is the `dvc.lock` of that commit. Since then versions
carry checksums and promotions an audit log, and stages have other dependencies and outputs.
"""

import shutil
import tarfile

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.params import read_params
from pipeline.paths import ROOT
from pipeline.runtime.errors import StageError
from pipeline.stages import register
from pipeline.tracking import logged_model, versions
from tests.pipeline.registry import NAME

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own

STORE = ROOT / "tests" / "stores" / "first.tar.xz"
LOCK = STORE.with_name("first.dvc.lock")


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def unpack(to, part: str) -> None:
    with tarfile.open(STORE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        archive.extractall(to, [one for one in archive if one.name.startswith(part)])  # noqa: S202 - our own archive


def test_the_first_store_opens_and_takes_the_next_version(folder):
    shutil.rmtree("mlruns")
    unpack(folder, "./mlruns")
    said = run("versions")
    assert "passed" in said
    assert "Production" in said
    assert "accuracy" in run("show", "1")
    assert "no version has been in Production" in run("history")  # by the log, which is younger
    run("card", "1")
    [version] = versions.list_versions(NAME)
    with logged_model.files_of(version) as files:
        assert (files / "data" / "keras" / "model.keras").is_file()

    # Nobody can say any more that its files are those of the registration
    said = run("verify", code=1)
    assert "moved by hand" in said
    assert "no checksum was recorded at registration" in run("verify", "--all", code=1)
    run("promote", "1", "--yes", code=1)

    register.main()
    # The first versions kept no predictions to compare with, so somebody has to say that it is well
    assert "not_worse_than_production" in run("promote", "--yes", code=1)
    assert f"{NAME} version 2" in run("promote", "--yes", "2", "--force", "--reason", "the first after the upgrade")
    assert versions.production_version(NAME) == "2"
    assert "version 2" in run("history")
    assert "FAILED" not in run("verify")


def test_the_first_parameters_are_held_against_the_present_ones(tmp_path):
    unpack(tmp_path, "./params.yaml")
    with pytest.raises(StageError, match=r"split\.folds: missing key") as caught:
        read_params(tmp_path / "params.yaml")
    assert "docs/parameters.md" in str(caught.value)


def test_the_plain_commands_go_on_in_a_workspace_of_the_first_version(first):
    """The code is pulled, and what git does not hold is the first version's. (Features, training and evaluation, which
    take longest, DVC finds in its run cache.)"""
    for part in ("artifacts", "reports", "mlruns"):
        shutil.rmtree(first.folder / part)
        unpack(first.folder, f"./{part}")
    shutil.copy(LOCK, first.folder / "dvc.lock")
    old = first.text("reports/metrics.json")
    first.dvc("repro")
    assert "version 2" in first.busi("summary")
    assert first.text("reports/metrics.json") != old
    assert first.text("dvc.lock") != LOCK.read_text()
