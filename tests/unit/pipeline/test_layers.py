"""Imports run one way: from what runs the pipeline down to what computes, and there from reports down to data."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# What each room may import besides itself
BUSI = {
    "data": set(),
    "phantom": {"data"},
    "model": {"data"},
    "pretraining": {"data", "phantom", "model"},
    "evaluation": {"data", "model"},
    "reporting": {"data", "model", "evaluation"},
}
STAGES_USE = {"runtime", "validation", "ingest", "tracking", "registry"}
PIPELINE = {
    "runtime": set(),
    "validation": {"runtime"},
    "tracking": {"runtime"},
    "ingest": {"runtime", "tracking"},
    "registry": {"runtime", "tracking", "ingest"},
    "stages": STAGES_USE,
    "orchestration": STAGES_USE | {"stages"},
    "serving": {"runtime", "tracking", "registry"},
    "doctor": {"runtime", "serving"},
}
ROOT_MODULES = {"params", "paths", "dataset", "cli"}  # of pipeline
MOST_LINES = 320  # a file does one job


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(file: Path, package: str) -> set[str]:
    parts = [name.split(".") for name in imports_of(file) if name.startswith(f"{package}.")]
    return {part[1] for part in parts}


@pytest.mark.parametrize("room", BUSI)
def test_what_computes_imports_downwards(room):
    for file in (ROOT / "src/busi" / room).rglob("*.py"):
        assert rooms_used(file, "busi") & set(BUSI) <= {room, *BUSI[room]}, file


def test_what_computes_knows_nothing_of_how_it_runs():
    for file in (ROOT / "src/busi").rglob("*.py"):
        outside = {name.split(".")[0] for name in imports_of(file)}
        assert not outside & {"pipeline", "mlflow", "prefect", "dvc", "typer", "streamlit"}, file
        assert "params.yaml" not in [
            node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)
        ], file


@pytest.mark.parametrize("room", PIPELINE)
def test_what_runs_imports_downwards(room):
    for file in (ROOT / "pipeline" / room).rglob("*.py"):
        assert rooms_used(file, "pipeline") & set(PIPELINE) <= {room, *PIPELINE[room]}, file


def test_every_folder_is_a_room_that_says_what_belongs_there():
    for package, rooms in (("pipeline", PIPELINE), ("src/busi", BUSI)):
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert folders == set(rooms)
        for room in rooms:
            assert len(ast.get_docstring(ast.parse((ROOT / package / room / "__init__.py").read_text())) or "") > 60, (
                room
            )


def test_a_file_does_one_job():
    """Save the command line, which is one table: a row of options and help for each command."""
    for package in ("pipeline", "src/busi"):
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= MOST_LINES or file.name == "cli.py", file


def test_nobody_adds_to_the_import_path():
    """The project is installed; what MLflow adds for the length of a load may be taken away.

    But one: in a copy of the checkout, as DVC makes for an experiment, `pipeline` takes the `busi` beside it.
    """
    for package in ("pipeline", "src", "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            if file == ROOT / "pipeline" / "__init__.py":
                assert text.count("sys.path.insert(") == 1
                text = text.replace("sys.path.insert(", "")
            assert not re.search(r"sys\.path(\[.*\]\s*=[^=]|\s*\+?=[^=]|\.(insert|append|extend)\()", text), file
            assert "site.addsitedir" not in text, file
