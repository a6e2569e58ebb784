"""`busi run`: data where there is none, the stages through `dvc repro`, and the summary."""

import subprocess
import sys

from pipeline.ingest import data
from pipeline.orchestration import summary
from pipeline.runtime.processes import end_tree

# `python -m dvc`, whose output may end as that of our own commands may: `busi run | head -1`
DVC = """\
import sys
from pipeline.runtime import terminal
terminal.prepare()
from dvc.cli import main
sys.argv[0] = "dvc"
sys.exit(main(sys.argv[1:]))
"""


def run() -> None:
    """Bring data in if it is missing, run what has something to do, and print what was reached.

    Ends the process with DVC's exit code when a stage failed. Ctrl-C or a signal ends the running stage first. DVC runs
    in a session of its own, so that the stage gets one signal and not a second one from the terminal.

    Raises:
        StageError: the data could not be brought in.
    """
    data.bring(None)
    sys.stdout.flush()  # before what DVC prints
    repro = subprocess.Popen([sys.executable, "-c", DVC, "repro"], start_new_session=True)
    try:
        code = repro.wait()
    except BaseException:
        end_tree(repro)
        raise
    if code:
        sys.exit(code)
    summary.run()
