"""The user whom this process runs for, where the system knows no name, no home or no usable shell of theirs.

So it is in a container that is started with `--user 1234`, in a job of a cluster and in a service's account. DVC asks
for the name in every command and runs stages with the login shell; MLflow asks for the home while it is imported.
"""

import getpass
import os
from pathlib import Path

STAGE_SHELL = "/bin/sh"  # a stage's command is one plain line; nologin, a missing shell or fish would not run it alike


def complete_environment(home: Path) -> None:
    """Set USER and HOME where they can't be found out, and SHELL always, for this process and those that it starts.

    Args:
        home: what HOME becomes where there is none; it need not exist.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["USER"] = f"uid{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(home)
    os.environ["SHELL"] = STAGE_SHELL
