"""A workspace: a copy of the repository's files in a fresh git repository, with small numbers in params.yaml."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipeline.registry import (  # noqa: F401
    empty_store,
    folder_with_store,
    keras_file,
    known,
    outputs,
    with_production,
    with_two_versions,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "data": {"phantom": {"benign": 30, "malignant": 24, "normal": 18, "seed": 5}},
    "featurize": {"image_size": 32, "weights": "none", "boundary": "levels", "views": 1},
    "train": {"head_epochs": 3, "tail_epochs": 20, "patience": 20},
    "evaluate": {"bootstrap": 200},
}
FULL_NETWORK, SMALL_NETWORK = "BLOCKS = (6, 12, 24, 16)", "BLOCKS = (1, 1, 1, 1)"
# The longest files first, so that neither test process is left with one of them at the end. The first builds what
# `built` gives; until it is there, the other process has something to do that needs none of it
LONGEST = ("test_repro.py", "test_promotion.py", "test_flow.py", "test_crossval.py", "test_kubeflow.py")


class Workspace:
    """Runs commands in a folder as a user would, with the environment's programs on PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        ours = ("BUSI_", "DVC_", "MLFLOW_", "PREFECT_", "PYTHON")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environment = clean | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            # The workspace's own code, before that of the repository that is installed
            "PYTHONPATH": f"{folder}:{folder / 'src'}",
            "DVC_SITE_CACHE_DIR": str(folder / ".cache/dvc"),
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
        }  # fmt: skip

    def start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(self, *command: str, code: int = 0) -> str:
        """Run to the end and return what was printed; fails with it when the exit code is not `code`."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=500)
        assert process.returncode == code, f"{' '.join(command)} ended with {process.returncode}:\n{output}"
        return output

    def python(self, module: str, *arguments: str, code: int = 0) -> str:
        return self.run("python", "-m", module, *arguments, code=code)

    def busi(self, *arguments: str, code: int = 0) -> str:
        return self.run("busi", *arguments, code=code)

    def dvc(self, *arguments: str, code: int = 0) -> str:
        return self.run("dvc", *arguments, code=code)

    def text(self, path: str) -> str:
        return (self.folder / path).read_text()

    def set_params(self, changes: dict) -> None:
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        _merge(values, changes)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state")

    def copy_to(self, folder: Path) -> "Workspace":
        """All of it, with data, outputs, DVC's cache and the store."""
        return Workspace(Path(shutil.copytree(self.folder, folder, symlinks=True)))

    def clone_to(self, folder: Path) -> "Workspace":
        """What is in git, as on another machine."""
        self.run("git", "clone", "-q", ".", str(folder))
        return Workspace(folder)


def _merge(values: dict, changes: dict) -> None:
    for key, change in changes.items():
        if isinstance(change, dict):
            _merge(values[key], change)
        else:
            values[key] = change


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: names.get(item.path.name, len(names)))  # stable: the others stay as they were


def shrink_network(folder: Path) -> None:
    """One block for each of DenseNet121's levels in the copied sources: the same layers, fewer of them."""
    path = folder / "src/busi/model/backbone.py"
    text = path.read_text()
    assert FULL_NETWORK in text
    path.write_text(text.replace(FULL_NETWORK, SMALL_NETWORK))


def copy_sources(folder: Path) -> Workspace:
    """The repository's files that a run needs, in a fresh git repository, with `SMALL` numbers."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in listed:
        wanted = file.split("/")[0] not in ("reports", "data.dvc", "dvc.lock", "tests", "benchmarks", "docs")
        if wanted and (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    shrink_network(folder)
    workspace = Workspace(folder)
    workspace.run("git", "init", "-q")
    workspace.set_params(SMALL)
    workspace.commit()
    return workspace


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory):
    return lambda name: copy_sources(tmp_path_factory.mktemp(name) / "repository")


@pytest.fixture(scope="session")
def built(tmp_path_factory, worker_id):
    """A workspace after its first `dvc repro`, whose words are in `output`. One for all test processes: only read it,
    and change a copy or a clone."""
    base = tmp_path_factory.getbasetemp()
    base = (base if worker_id == "master" else base.parent) / "built"  # pytest-xdist: a folder a process in one for all
    base.mkdir(exist_ok=True)
    said = base / "output.txt"
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.is_file():
            shutil.rmtree(base / "repository", ignore_errors=True)  # of a process that failed to build it
            workspace = copy_sources(base / "repository")
            workspace.busi("data")
            output = workspace.dvc("repro")
            workspace.commit()
            said.write_text(output)
    workspace = Workspace(base / "repository")
    workspace.output = said.read_text()
    return workspace


@pytest.fixture(scope="module")
def first(built, tmp_path_factory):
    """A workspace after its first `dvc repro`, for one file of tests to change."""
    workspace = built.copy_to(tmp_path_factory.mktemp("first") / "repository")
    workspace.output = built.output
    return workspace
