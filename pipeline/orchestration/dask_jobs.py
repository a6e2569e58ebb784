"""Jobs of a cross-validation on Dask, through Prefect's Dask task runner.

Without the address of a scheduler two local workers are started, and without PREFECT_API_URL a Prefect server; both
end with the call that needs them.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from distributed import Security, rpc
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings
from prefect.states import Failed, State
from prefect_dask import DaskTaskRunner
from tqdm import tqdm

from pipeline.orchestration import fold, prefect_server
from pipeline.orchestration.folds import FOLDER, Fold
from pipeline.orchestration.typed import check_address
from pipeline.runtime import servers
from pipeline.runtime.errors import ExternalServiceError, StageError

WORKERS = 2
REDRAW_SECONDS = 1.0
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # what a local worker runs first


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_job(kind: fold.Kind, folder: str, name: str):
    """Run a job as a Prefect task, which fails with the job's own message."""
    try:
        return fold.run(kind, folder)
    except StageError as error:
        return Failed(message=str(error))


def run_all(waiting: list[Fold], prefixes: list[Path], scheduler: str | None) -> None:
    """Run the prefix jobs, then the folds, as a Prefect flow. All that can be finished is, before a failure is raised.

    Args:
        scheduler: address of a Dask scheduler, or None for local workers.

    Raises:
        StageError: no scheduler answers there, or jobs failed; it names them with their last lines.
    """
    workers = runner(scheduler)

    @flow(name="crossval", task_runner=workers, persist_result=False)
    def crossval() -> dict[str, str]:
        shared = {run_job.submit("prefix", str(job.resolve()), f"prefix {job.name}"): job for job in prefixes}
        submitted = {
            run_job.submit(one.kind, str(one.folder.resolve()), one.name, wait_for=list(shared)): one for one in waiting
        }
        problems = {}
        for future in as_completed([*shared, *submitted]):
            future.wait()
            one = submitted.get(future)
            if one is None and not (shared[future] / fold.RESULT).is_file():
                problems["prefix"] = reason(future.state)
            elif one and one.is_finished:
                accuracy = one.result()["metrics"]["accuracy"]
                tqdm.write(f"{one.name}: accuracy {accuracy['value']:.3f}, n = {accuracy['n']}", file=sys.stdout)
                sys.stdout.flush()
            elif one and "prefix" not in problems:
                problems[one.name] = reason(future.state)
        return problems

    print(f"each writes its progress into its log: tail -f {FOLDER}/*/*/{fold.LOG}", flush=True)
    with api_server(), jobs_bar([*prefixes, *(one.folder for one in waiting)]):
        problems = crossval()
    if problems:
        told = "\n".join(f"{name}: {message}" for name, message in problems.items())
        raise StageError(f"{told}\n  finished folds are kept; mend the cause and run the same command again")


@contextlib.contextmanager
def jobs_bar(folders: list[Path], file: TextIO | None = None) -> Iterator[None]:
    """Show how many of these jobs have a result and how long it has taken; on a terminal only (`file`, or stderr).

    It looks at the folders, because a flow takes all that it names to the workers, and a bar can't go there.
    """
    ended = threading.Event()
    with tqdm(total=len(folders), desc="jobs", unit="job", disable=None, file=file) as bar:

        def redraw() -> None:
            while not ended.wait(REDRAW_SECONDS):
                bar.n = sum((folder / fold.RESULT).is_file() for folder in folders)
                bar.refresh()

        clock = threading.Thread(target=redraw, daemon=True)
        clock.start()
        try:
            yield
        finally:
            ended.set()
            clock.join()


def reason(state: State) -> str:
    """Why a job has no result."""
    if state.is_failed() or state.is_crashed():
        return state.message or state.name
    return "its workers were lost more often than Dask tries again"


def runner(scheduler: str | None) -> DaskTaskRunner:
    """The task runner on the scheduler, or on `WORKERS` local workers.

    Raises:
        StageError: that is no address of a scheduler.
        ExternalServiceError: no scheduler answers at it.
    """
    check_address(scheduler)
    if scheduler:
        if why := servers.silence(lambda: asyncio.run(_greet(scheduler))):
            raise ExternalServiceError(
                f"no Dask scheduler answers at {scheduler} ({why})\n"
                "  start one there (`dask scheduler`), or leave --scheduler out for two local workers"
            )
        return DaskTaskRunner(address=scheduler)
    # How Dask ends a worker that has nothing left to do
    logging.getLogger("distributed.nanny").addFilter(lambda record: "still alive" not in record.getMessage())
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": WORKERS,
            "threads_per_worker": 1,
            "dashboard_address": "127.0.0.1:0",
            "memory_limit": 0,
            # A terminal sends Ctrl-C to them too, and each would print a traceback; they end with this process
            "preload": [DEAF],
        }
    )


async def _greet(scheduler: str) -> None:
    """Ask a scheduler for its name. Unlike a `Client`, this leaves nothing behind where none answers."""
    keys = Security().get_connection_args("client")
    async with asyncio.timeout(servers.ANSWER_SECONDS), rpc(scheduler, connection_args=keys) as remote:
        await remote.identity()


@contextlib.contextmanager
def api_server() -> Iterator[None]:
    """One Prefect server for this process and its workers, unless one is named already."""
    prefect_server.require_usable_proxy()
    if address := PREFECT_API_URL.value():
        prefect_server.require_answer(address)
        yield
        return
    # Nobody can look at this server, and errors are reported at the end
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    server = SubprocessASGIServer()
    # A terminal sends Ctrl-C to all processes. The server inherits this mask, so that the flow can still end with it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with server:
        named = {PREFECT_API_URL: server.api_url, PREFECT_LOGGING_LEVEL: "CRITICAL"}
        with temporary_settings(named), _environment({key.name: value for key, value in named.items()}):
            yield


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in the block."""
    kept = os.environ.copy()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
