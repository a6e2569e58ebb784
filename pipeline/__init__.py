"""How the pipeline runs: the `busi` command, and one thin module a stage, both from the repository root.

Importing this package sets the variables that libraries read (`pipeline.runtime.environment`), before any of them is
imported, so that a stage computes and writes the same whether it is started by `busi`, by DVC or by hand.
"""

import importlib.util
import os
import sys
from pathlib import Path

from pipeline.paths import CACHE, ROOT
from pipeline.runtime import environment, user

ORIGINAL_ENVIRONMENT = dict(os.environ)  # as the user has it; `busi doctor` reads it
environment.apply()
user.complete_environment(CACHE / "home")

# An experiment of DVC runs in a copy of the checkout, where the installed `busi` would be that of the original
_installed = importlib.util.find_spec("busi")
if _installed is None or not Path(_installed.origin or "").resolve().is_relative_to(ROOT):
    sys.path.insert(0, str(ROOT / "src"))


def _say_in_short(kind: type[BaseException], error: BaseException, trace) -> None:
    """No traceback for what happens while packages are imported: Ctrl-C, a package that is not installed, no memory."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    elif issubclass(kind, ModuleNotFoundError) and package not in ("busi", "pipeline"):
        print(
            f"error: {sys.executable} lacks the project's packages ({package})\n"
            "  run `make env` once, then `. .venv/bin/activate`, and repeat the command",
            file=sys.stderr,
        )
    elif issubclass(kind, ImportError) and "failed to map segment" in str(error):
        print(
            f"error: {error}\n"
            "  there is too little memory for it (see `ulimit -v`), or .venv is on a disk mounted with noexec",
            file=sys.stderr,
        )
    else:
        _excepthook(kind, error, trace)


# Later `pipeline.runtime.lifecycle.stage` handles what is expected
_excepthook, sys.excepthook = sys.excepthook, _say_in_short
