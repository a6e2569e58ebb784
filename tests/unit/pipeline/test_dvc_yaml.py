"""dvc.yaml tells the truth: the code and parameters it declares are those that each stage really uses.

Code is declared by sub-package directory. What only records or draws, and so changes no output, is in `RECORDERS`.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline import paths
from pipeline.runtime import lifecycle

ROOT = Path(__file__).resolve().parents[3]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
MODULE = re.compile(
    r"(busi|pipeline)(\.\w+)+"
)  # in a string, a loader's or a process's: "busi.serving", "pipeline.cli"
ORDER = ["validate", "split", "featurize", "train", "evaluate", "report", "register"]

# What a stage imports although it changes none of its outputs: stage -> directories and files, each with its reason
RECORDERS = {
    "train": {
        "pipeline/tracking": "logs epochs to MLflow while the network trains",
        "pipeline/dataset.py": "names the MLflow run after the data set",
    },
}


def source_of(module: str) -> Path | None:
    for base in (ROOT, ROOT / "src"):
        path = base.joinpath(*module.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def imported(file: Path) -> frozenset[Path]:
    """The project's files that `file` names: in imports, inside functions too, and in strings that are modules."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and MODULE.fullmatch(str(node.value)):
            names.add(node.value)
    ours = {name for name in names if name.split(".")[0] in ("busi", "pipeline")}
    packages = {".".join(name.split(".")[:depth]) for name in ours for depth in range(1, name.count(".") + 1)}
    found = {source for name in ours | packages if (source := source_of(name))}
    # Templates and other files that a package reads lie in it, and so in its directory
    return frozenset(found)


def closure(files: list[Path], stop: set[str] = frozenset()) -> set[Path]:
    found, waiting = set(), list(files)
    while waiting:
        file = waiting.pop()
        if file not in found and not is_below(file, stop):
            found.add(file)
            waiting += imported(file)
    return found


def is_below(file: Path, places) -> bool:
    name = file.relative_to(ROOT).as_posix()
    return any(name == place or name.startswith(f"{place}/") for place in places)


def says_nothing(file: Path) -> bool:
    """Whether a package's `__init__.py` holds a docstring alone."""
    body = ast.parse(file.read_text()).body
    return file.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in body)


def code_of(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["deps"] if dep.startswith(("pipeline", "src"))}


def outs_of(body: dict) -> list[str]:
    listed = [*body.get("outs", []), *body.get("metrics", []), *body.get("plots", [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


def test_the_stages_are_the_seven_in_order():
    assert list(STAGES) == list(lifecycle.STAGES) == ORDER
    for stage, body in STAGES.items():
        assert body["cmd"] == f"python -m pipeline.stages.{stage}"


@pytest.mark.parametrize("stage", ORDER)
def test_all_code_that_a_stage_imports_is_declared(stage):
    needed = closure([ROOT / f"pipeline/stages/{stage}.py"], stop=set(RECORDERS.get(stage, ())))
    undeclared = sorted(
        file.relative_to(ROOT).as_posix()
        for file in needed
        if not is_below(file, code_of(stage)) and not says_nothing(file)
    )
    assert undeclared == [], f"{stage} imports what dvc.yaml does not declare"


@pytest.mark.parametrize("stage", ORDER)
def test_no_code_is_declared_that_a_stage_does_not_import(stage):
    needed = closure([ROOT / f"pipeline/stages/{stage}.py"])
    unused = [place for place in code_of(stage) if not any(is_below(file, [place]) for file in needed)]
    assert unused == []


@pytest.mark.parametrize(("stage", "places"), RECORDERS.items())
def test_the_exceptions_are_still_imported(stage, places):
    needed = closure([ROOT / f"pipeline/stages/{stage}.py"])
    for place in places:
        assert any(is_below(file, [place]) for file in needed), f"{stage} does not import {place}: not an exception"


def test_drawing_and_recording_are_no_input_of_what_computes():
    for stage in ("validate", "split", "featurize", "train", "evaluate"):
        assert not any(is_below(ROOT / place, ["src/busi/reporting", "pipeline/tracking"]) for place in code_of(stage))


@pytest.mark.parametrize("stage", ORDER)
def test_files_that_the_code_reads_are_declared(stage):
    """Each path of `pipeline.paths` below artifacts/ or reports/ that a stage's module names is a dep or an output."""
    listed = [*STAGES[stage]["deps"], *outs_of(STAGES[stage])]
    undeclared = {paths.CHECKPOINT, paths.DATA_DOCS, paths.RECEIPT}  # what they are says why
    tree = ast.parse((ROOT / f"pipeline/stages/{stage}.py").read_text())
    names = {node.attr if isinstance(node, ast.Attribute) else node.id for node in ast.walk(tree)
             if isinstance(node, ast.Attribute | ast.Name)}  # fmt: skip
    used = {value for name in names if isinstance(value := getattr(paths, name, None), Path)} - undeclared
    for path in (path.as_posix() for path in used if path.parts[0] in ("artifacts", "reports")):
        assert any(f"{path}/".startswith(f"{known}/") or f"{known}/".startswith(f"{path}/") for known in listed), path


def test_no_path_is_spelt_out_in_a_stage():
    for stage in ORDER:
        tree = ast.parse((ROOT / f"pipeline/stages/{stage}.py").read_text())
        named = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        spelt = [one for one in named if isinstance(one, str) and re.fullmatch(r"(artifacts|reports)/\S+", one)]
        assert spelt == [], f"{stage}: pipeline/paths.py names it"


def sections_read(file: Path) -> set[str]:
    """The sections of params.yaml that a module takes, as `params.split` or `read_params().split`."""
    sections = {"data", "validate_", "split", "featurize", "train", "evaluate", "register_"}
    read = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        of_params = isinstance(owner, ast.Name) and owner.id == "params"
        of_reader = isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "read_params"
        if (of_params or of_reader) and node.attr in sections:
            read.add(node.attr.rstrip("_"))
    return read


@pytest.mark.parametrize("stage", ORDER)
def test_declared_parameters_are_those_the_stage_reads(stage):
    read = sections_read(ROOT / f"pipeline/stages/{stage}.py")
    # register also records the sections of training and evaluate's confidence, which reach it through the outputs of
    # the stages that declare them
    listed = {name.split(".")[0] for name in STAGES[stage]["params"]}
    assert read - (set(STAGES) if stage == "register" else set()) <= listed


def test_no_output_lies_in_data():
    for body in STAGES.values():
        assert not any(out.startswith("data") for out in outs_of(body))
