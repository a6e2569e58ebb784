"""The code that travels with a registered model: which files, under which name, with which imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.paths import ROOT
from pipeline.tracking import bundle

SMALL = {
    "busi/__init__.py": "NAME = 'small'\n",
    "busi/serving.py": "from busi.data import layout\n\ndef answer():\n    import busi.late\n    return busi.late.VALUE\n",  # noqa: E501
    "busi/late.py": "from importlib import import_module\nVALUE = import_module('busi.named').VALUE\n",
    "busi/named.py": "from .data.layout import VALUE\n",
    "busi/data/__init__.py": "",
    "busi/data/layout.py": "VALUE = 7\n",
    "busi/data/unused.py": "raise RuntimeError('never imported')\n",
}


@pytest.fixture
def sources(tmp_path):
    for name, text in SMALL.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "src"


def test_a_bundle_holds_what_serving_imports_and_nothing_else(sources):
    assert set(bundle.collect(sources).files) == set(SMALL) - {"busi/data/unused.py"}


def test_the_bundle_of_this_repository_is_closed_and_knows_no_training(tmp_path):
    found = bundle.collect()
    for name in found.files:
        assert (ROOT / "src" / name).is_file()
    assert "busi/serving.py" in found.files
    rooms = {name.split("/")[1] for name in found.files}
    assert rooms <= {"__init__.py", "serving.py", "backend.py", "data", "model"}
    assert "busi/model/training.py" not in found.files
    written = found.write(tmp_path)
    imported = set()
    for path in written.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
    assert found.package in imported
    assert "busi" not in imported


def test_the_digest_is_of_names_and_bytes_and_not_of_times(sources):
    before = bundle.collect(sources)
    (sources / "busi/late.py").touch()
    (sources / "busi/data/unused.py").write_text("1\n")
    assert bundle.collect(sources).digest == before.digest
    (sources / "busi/data/layout.py").write_text("VALUE = 8\n")
    assert bundle.collect(sources).digest != before.digest


def test_two_bundles_and_another_busi_run_side_by_side(sources, tmp_path):
    first = bundle.collect(sources)
    first.write(tmp_path / "code")
    (sources / "busi/data/layout.py").write_text("VALUE = 8\n")
    second = bundle.collect(sources)
    second.write(tmp_path / "code")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'code')!r})\n"
        f"import busi.data.layout, {first.loader_module}, {second.loader_module}\n"
        f"print(sys.modules[{first.loader_module!r}].answer(), sys.modules[{second.loader_module!r}].answer())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "7 8\n"


def test_what_a_bundle_would_lack_is_refused(sources):
    (sources / "busi/late.py").write_text("text = open(__file__)\n")
    with pytest.raises(ValueError, match=r"busi/late.py uses __file__"):
        bundle.collect(sources)


@pytest.mark.parametrize(
    ("source", "renamed"),
    [
        ("import busi", "import new as busi"),
        ("import busi.a, os", "import new.a, new as busi, os"),
        ("import busi.a as b", "import new.a as b"),
        ("from busi import a, b", "from new import a, b"),
        ("from  busi.a.b import (\n    c,  # busi\n)", "from new.a.b import (\n    c,  # busi\n)"),
        ("if x:\n    é = 'é'; from busi.a import b", "if x:\n    é = 'é'; from new.a import b"),
        ("import_module('busi.a')", "import_module('new.a')"),
        ("from . import a\nfrom .a import busi", "from . import a\nfrom .a import busi"),
        ("import business\nfrom business.a import b\nname = 'busi.a'", None),
    ],
)
def test_imports_are_renamed_and_nothing_else(source, renamed):
    assert bundle.rename_imports(source.encode(), "new").decode() == (renamed or source)


def test_what_serves_loads_classifiers_by_the_code_of_their_version_only():
    """The app, the endpoint and the command line may show what `busi` says of itself, but not run its network."""
    for path in (ROOT / "pipeline" / "serving").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        modules = {
            name
            for node in ast.walk(ast.parse(text))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        wrong = [
            name
            for name in modules
            if name.split(".")[0] in ("keras", "tensorflow")
            or name.startswith(("busi.backend", "busi.model", "mlflow.pyfunc", "mlflow.keras"))
            or name.endswith((".ImageClassifier", "._load_pyfunc"))
        ]
        assert wrong == [], Path(path).name
