"""Examples of the pages, pasted as they stand into a shell in the repository root, work and leave nothing behind."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.paths import ROOT
from pipeline.registry import commands
from pipeline.stages import register
from tests.pipeline.registry import make_metrics, write_evaluation

pytestmark = pytest.mark.slow


def examples(page: str, language: str, word: str = "") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if word in block]


@pytest.fixture(scope="module")
def root(with_production, tmp_path_factory):
    """A root with a Production model and the images that the examples name."""
    folder = shutil.copytree(with_production, tmp_path_factory.mktemp("pasted") / "repository")
    shutil.copytree(ROOT / "pipeline/serving/examples", folder / "pipeline/serving/examples")
    return folder


def paste(root: Path, *command: str) -> str:
    """Run in the root, with the programs of the environment first on the path and no variable of ours."""
    before = sorted(path for path in root.glob("*"))
    ours = ("MLFLOW_", "PREFECT_", "DVC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    done = subprocess.run(command, cwd=root, env=kept, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path for path in root.glob("*")) == before  # such as a second mlflow.db
    return done.stdout


@pytest.mark.parametrize("block", examples("docs/serving.md", "python"))
def test_python_of_the_page_on_serving(root, block):
    *lines, last = block.rstrip().splitlines()
    assert "Error" not in paste(root, sys.executable, "-c", "\n".join([*lines, f"print({last})"]))


@pytest.mark.parametrize("block", examples("docs/registry.md", "", "search_model_versions"))
def test_the_search_of_the_page_on_the_registry(root, block):
    printed = paste(root, "bash", "-c", re.sub(r"'[0-9a-f]{32}\.dir'", "'0123.dir'", block))
    assert printed.split() == ["busi-densenet121-phantom", "1"]


def test_show_and_card_without_a_number_where_no_version_passed(folder, capsys):
    write_evaluation(make_metrics(accuracy=0.5))
    register.main()
    commands.show(None, None)
    assert "version 1" in capsys.readouterr().out
    commands.card(None, None, None)
    assert list(folder.glob("artifacts/*-v1.md"))
