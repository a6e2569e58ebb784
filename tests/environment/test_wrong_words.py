"""A wrong word is refused before anything starts: no server, nothing written."""

import subprocess
import sys

import pytest

from pipeline.paths import ROOT


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("flow --until nosuch", "nosuch"),
        ("flow --set nosuch=3", "nosuch"),
        ("flow --set train.seed=x", "train.seed"),
        ("flow --set train", "KEY=VALUE"),
        ("flow --set train.seed=[", "YAML"),
        ("crossval --scheduler nonsense", "tcp://"),
        ("crossval --scheduler tcp://", "expected"),
        ("crossval --folds 1", "--folds"),
        ("show three", "VERSION"),
        ("serve --port 99999", "--port"),
        ("app --port abc", "--port"),
        ("ui --port -1", "--port"),
        ("frobnicate", "frobnicate"),
        ("run --fast", "--fast"),
        ("predict", "no file"),
        ("predict nosuch.png", "nosuch.png"),
        ("data nosuch", "nosuch"),
        ("pretrain --learning-rate -1", "--learning-rate"),
        ("pretrain --backend nosuch", "nosuch"),
        ("pretrain --backend torch", "pip install torch"),  # which the lock file does not have
    ],
)
def test_a_wrong_word_is_refused(arguments, word, tmp_path):
    """In a folder with nothing but the parameters, where any work would fail in other words."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".dvc").mkdir()
    program = f"import sys\nsys.argv[1:] = {arguments.split()!r}\nfrom pipeline.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (1, 2)
    assert word in done.stderr and "Traceback" not in done.stderr
    assert "Flow run" not in done.stdout + done.stderr  # no server was started for it


@pytest.mark.parametrize(
    "arguments", ["flow --until nosuch", "flow --set nosuch=3", "crossval --scheduler nonsense", "serve --port 99999"]
)
def test_a_typing_error_waits_for_no_library(arguments):
    program = (
        f"import sys\nsys.argv[1:] = {arguments.split()!r}\nfrom pipeline.cli import main\n"
        "try: main()\nfinally: print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert {"dask", "mlflow", "pandas", "prefect", "tensorflow"}.isdisjoint(done.stdout.split())
