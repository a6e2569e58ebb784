"""What docs say of DVC works typed as it stands, in a shell that make has not set up, and leaves nothing untracked."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.paths import ROOT


def test_the_settings_of_dvc_hold_in_the_copies_that_experiments_run_in():
    """A relative `core.site_cache_dir` names a folder that is missing in the copy: "unable to open database file"."""
    config = configparser.ConfigParser()
    config.read_string("\n".join(line.strip() for line in (ROOT / ".dvc" / "config").read_text().splitlines()))
    folder = config.get("core", "site_cache_dir", fallback=None)
    assert folder is None or Path(folder).is_absolute()


def test_what_dvc_plots_writes_is_ignored():
    """Else the next version's lineage says "uncommitted changes"."""
    asked = ["git", "-C", str(ROOT), "check-ignore", "--quiet", "dvc_plots/index.html"]
    assert subprocess.run(asked).returncode == 0


def test_an_experiment_runs_the_code_of_its_own_copy(tmp_path):
    """The installed `busi` is that of the checkout which `make env` ran in."""
    for name in ("pipeline", "src/busi"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = "import pipeline, busi; print(pipeline.__file__, busi.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=clean, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path / "pipeline/__init__.py"), str(tmp_path / "src/busi/__init__.py")]
