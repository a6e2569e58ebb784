"""The progress of a cross-validation on Dask."""

import io
import threading

from pipeline.orchestration import dask_jobs


class Terminal(io.StringIO):
    """A terminal that says when it has been drawn on a third time: twice without a job having ended."""

    drawn = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        done = super().write(text)
        if self.getvalue().count("0/3") > 2:
            self.drawn.set()
        return done


def test_the_bar_is_drawn_again_while_no_job_ends(monkeypatch):
    monkeypatch.setattr(dask_jobs, "REDRAW_SECONDS", 0.01)
    terminal = Terminal()
    with dask_jobs.jobs_bar(3, file=terminal):
        assert terminal.drawn.wait(30)


def test_a_file_gets_no_bar():
    file = io.StringIO()
    with dask_jobs.jobs_bar(3, file=file) as bar:
        bar.update()
    assert file.getvalue() == ""
