"""What earlier releases left opens, and goes on being used.

`tests/stores/NAME.tar.xz` holds a store and what the stages before `register` left, made by that release's own code
with its `tests/pipeline/registry.py`; `NAME.dvc.lock` is the `dvc.lock` of its commit.

- `first` (commit 76de22e): one registered and promoted model of three weights. Since then versions carry checksums and
  promotions an audit log, and stages have other dependencies and outputs.
- `second` (commit 6b9fc41): fixture `with_two_versions` after `promote(2)`. Its versions carry all of `src/busi` under
  that name; stage `evaluate` wrote the report.
"""

import shutil
import tarfile

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.params import read_params
from pipeline.paths import ROOT
from pipeline.registry import checks, names, production
from pipeline.runtime.errors import StageError
from pipeline.stages import register
from pipeline.tracking import logged_model, versions
from tests.pipeline.registry import NAME, REAL_SMOKE_TEST

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own

STORES = ROOT / "tests" / "stores"


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def unpack(release: str, to, part: str) -> None:
    with tarfile.open(STORES / f"{release}.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        archive.extractall(to, [one for one in archive if one.name.startswith(part)])  # noqa: S202 - our own archive


def test_the_first_store_opens_and_takes_the_next_version(folder):
    shutil.rmtree("mlruns")
    unpack("first", folder, "./mlruns")
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


def test_the_second_store_opens_verifies_rolls_back_promotes_and_loads(folder, known):
    shutil.rmtree("mlruns")
    unpack("second", folder, "./mlruns")
    assert run("versions").count("passed") == 2
    assert "FAILED" not in run("verify", "--all")
    run("rollback", "--yes")
    assert versions.production_version(NAME) == "1"
    run("promote", "2", "--yes")
    assert run("history").count("promote") == 3
    register.main()
    run("promote", "3", "--yes")
    run("rollback", "--yes")
    assert versions.production_version(NAME) == "2"
    assert "FAILED" not in run("verify", "--all")

    # Its code is named `busi`: here that of the working tree runs, in a fresh process that of the version
    classifier = production.load(NAME).classifier
    file, row = known[0]
    [answer] = classifier.predict([file])["probabilities"]
    assert set(answer) < set(row)
    version = names.choose(NAME, 2)
    with logged_model.files_of(version) as files:
        tried = REAL_SMOKE_TEST(version, files)
    assert tried.passed, tried.sentence
    assert tried.name == checks.SMOKE


def test_the_first_parameters_are_held_against_the_present_ones(tmp_path):
    unpack("first", tmp_path, "./params.yaml")
    with pytest.raises(StageError, match=r"split\.folds: missing key") as caught:
        read_params(tmp_path / "params.yaml")
    assert "docs/parameters.md" in str(caught.value)


@pytest.mark.parametrize(("release", "next_version"), [("first", 2), ("second", 3)])
def test_the_plain_commands_go_on_in_a_workspace_of_an_earlier_release(built, tmp_path, release, next_version):
    """The code is pulled, and what git does not hold is the earlier release's. (Features, training and evaluation,
    which take longest, DVC finds in its run cache.)"""
    workspace, lock = built.copy_to(tmp_path / "repository"), STORES / f"{release}.dvc.lock"
    for part in ("artifacts", "reports", "mlruns"):
        shutil.rmtree(workspace.folder / part)
        unpack(release, workspace.folder, f"./{part}")
    shutil.copy(lock, workspace.folder / "dvc.lock")
    old = workspace.text("reports/metrics.json")
    workspace.dvc("repro")
    assert f"version {next_version}" in workspace.busi("summary")
    assert workspace.text("reports/metrics.json") != old
    assert workspace.text("dvc.lock") != lock.read_text()
