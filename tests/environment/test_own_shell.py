"""What docs say of DVC works typed as it stands, in a shell that make has not set up, and leaves nothing untracked."""

import configparser
import subprocess
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
