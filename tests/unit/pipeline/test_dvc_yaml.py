"""dvc.yaml tells the truth: the code and parameters it declares are those that each stage really uses."""

import ast
from pathlib import Path

import pytest
import yaml

from pipeline import outputs

ROOT = Path(__file__).resolve().parents[3]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ORDER = ["validate", "split", "featurize", "train", "evaluate", "register"]


def source_of(module: str) -> Path | None:
    for base in (ROOT, ROOT / "src"):
        path = base.joinpath(*module.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def imported(file: Path) -> set[str]:
    """Every module of the project that `file` names in an import, inside functions too, with its packages."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name for name in names if name.split(".")[0] in ("busi", "pipeline")}
    return ours | {name.split(".")[0] for name in ours}


def closure(file: Path) -> set[Path]:
    found, waiting = set(), [file]
    while waiting:
        if (file := waiting.pop()) not in found:
            found.add(file)
            waiting += [source for name in imported(file) if (source := source_of(name))]
    return found


def declared(stage: str) -> set[Path]:
    return {ROOT / dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}


def test_the_stages_are_the_six_in_order():
    assert list(STAGES) == list(outputs.STAGES) == ORDER
    for stage, body in STAGES.items():
        assert body["cmd"] == f"python -m pipeline.{stage}"


@pytest.mark.parametrize("stage", ORDER)
def test_declared_code_is_what_the_stage_imports(stage):
    needed = closure(ROOT / "pipeline" / f"{stage}.py")
    if ROOT / "pipeline" / "promotion.py" in needed:
        needed.add(ROOT / "pipeline" / "smoke.py")  # run by its path, in a process of its own
    assert sorted(declared(stage)) == sorted(needed), "dvc.yaml's deps and the imports differ"


@pytest.mark.parametrize("stage", ORDER)
def test_files_that_the_code_reads_by_name_are_declared(stage):
    """Each data, artifacts or reports path in a stage's entry module is a dep or an output (or named as neither)."""
    body = STAGES[stage]
    listed = list(body["deps"])
    for kind in ("outs", "metrics", "plots"):
        listed += [out if isinstance(out, str) else next(iter(out)) for out in body.get(kind, [])]
    undeclared = {
        "artifacts/train/checkpoint.npz",  # survives a kill because DVC does not know it
        "artifacts/validate/data_docs",  # carries times
        "data/.gitignore",
    }
    tree = ast.parse((ROOT / "pipeline" / f"{stage}.py").read_text())
    named = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("artifacts/", "reports/"))
        and " " not in node.value
    }
    for path in named - undeclared:
        assert any(path == known or known.startswith(path + "/") or path.startswith(known + "/") for known in listed), (
            path
        )


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
    read = sections_read(ROOT / "pipeline" / f"{stage}.py")
    assert stage in read
    # register also records the sections of training, evaluate's confidence and featurize's weights, all of which
    # reach it through the outputs of the stages that they are declared for
    listed = {name.split(".")[0] for name in STAGES[stage]["params"]}
    assert read - (set(STAGES) if stage == "register" else set()) <= listed


def test_no_output_lies_in_data():
    for body in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for out in body.get(kind, []):
                assert not (out if isinstance(out, str) else next(iter(out))).startswith("data")
