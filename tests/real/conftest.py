"""The real images, which are not in the repository: brought in and validated once a session, as a user would."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.pipeline.conftest import ROOT, Workspace, make_workspace  # noqa: F401

REAL_DATA = ROOT.parent / "shared" / "data"


def folder_of(name: str) -> Path:
    folder = REAL_DATA / name
    if not folder.is_dir():
        pytest.skip(f"real images are not here: {folder} is absent")
    return folder


class Validated:
    """A workspace with a real set in `data/` that went through stage validate."""

    def __init__(self, workspace: Workspace, source: Path):
        self.workspace = workspace
        self.source = source
        self.brought = workspace.busi("data", str(source))
        self.output = workspace.python("pipeline.stages.validate")
        self.dataset = json.loads(workspace.text("data/dataset.json"))
        self.report = json.loads(workspace.text("reports/validation.json"))
        self.manifest = self.table("artifacts/validate/manifest.csv")

    @property
    def data(self) -> Path:
        return self.workspace.folder / "data"

    def table(self, path: str) -> pd.DataFrame:
        return pd.read_csv(self.workspace.folder / path, dtype={"duplicate_group": str, "sha256": str})


@pytest.fixture(scope="session")
def sample(make_workspace) -> Validated:  # noqa: F811
    """149 images at native size with 151 masks."""
    source = folder_of("busi-native-sample")
    return Validated(make_workspace("native-sample"), source)


@pytest.fixture(scope="session")
def whole(make_workspace) -> Validated:  # noqa: F811
    """All 780 images at 256 x 256, without masks."""
    source = folder_of("busi-256")
    return Validated(make_workspace("busi-256"), source)
