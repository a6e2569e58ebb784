"""The progress of a cross-validation on Dask."""

import io
import signal
import subprocess
import sys
import threading

from pipeline.orchestration import dask_jobs


class Terminal(io.StringIO):
    """A terminal that says when `awaited` has been drawn on it."""

    def __init__(self, awaited: str) -> None:
        super().__init__()
        self.awaited, self.drawn = awaited, threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        done = super().write(text)
        if self.awaited in self.getvalue():
            self.drawn.set()
        return done


def test_the_bar_counts_the_jobs_with_a_result_while_they_run(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_jobs, "REDRAW_SECONDS", 0.01)
    folders = [tmp_path / name for name in "abc"]
    folders[1].mkdir()
    terminal = Terminal("1/3")
    with dask_jobs.jobs_bar(folders, file=terminal):
        (folders[1] / "result.json").write_text("{}")
        assert terminal.drawn.wait(30)


def test_a_file_gets_no_bar(tmp_path):
    file = io.StringIO()
    with dask_jobs.jobs_bar([tmp_path], file=file):
        pass
    assert file.getvalue() == ""


def test_a_local_worker_prints_nothing_at_ctrl_c():
    """It gets the terminal's signal as well; the command itself ends it."""
    [first] = dask_jobs.runner(None).cluster_kwargs["preload"]
    program = f"{first}\nimport os\nos.kill(os.getpid(), {int(signal.SIGINT)})\nprint('goes on')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("goes on\n", "")
