"""Cross-validation on a real Dask scheduler and two real workers, one of which is killed while it runs a fold."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time

import pandas as pd
import psutil
import pytest

from tests.pipeline.test_repro import stages_run

QUICK = {"train": {"head_epochs": 0, "tail_epochs": 2}, "evaluate": {"bootstrap": 100}}
REPORT = "reports/crossval.json"
PREDICTIONS = "artifacts/crossval/predictions.csv"
WAIT = 500  # seconds, for what takes a few


def wait_for_fold(workers: list[psutil.Process], crossval: subprocess.Popen) -> psutil.Process:
    """The first worker that runs a fold."""
    deadline = time.monotonic() + WAIT
    while not (busy := [one for one in workers if jobs_of(one)]):
        assert crossval.poll() is None, crossval.communicate()[0]
        assert time.monotonic() < deadline, "no fold was begun"
        time.sleep(0.3)  # psutil looks at every process of the machine
    return busy[0]


def jobs_of(worker: psutil.Process) -> list[psutil.Process]:
    """The fold that a worker runs now."""
    jobs = []
    for job in worker.children():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if "pipeline.orchestration.fold fold" in " ".join(job.cmdline()):
                jobs.append(job)
    return jobs


@pytest.fixture(scope="module")
def done(first):
    """Two folds by a scheduler's address; the worker that has the first fold is killed with it."""
    workspace = first
    workspace.set_params(QUICK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    scheduler = workspace.start(
        "python", "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"
    )
    worker = ("python", "-m", "dask", "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    workers = [workspace.start(*worker) for _ in range(2)]
    crossval = workspace.start("busi", "crossval", "--folds", "2", "--scheduler", address)
    try:
        processes = [psutil.Process(one.pid) for one in workers]
        victim = wait_for_fold(processes, crossval)
        (orphan,) = jobs_of(victim)
        lost = orphan.cmdline()[-1]
        victim.send_signal(signal.SIGKILL)
        workspace.orphan = orphan
        workspace.output, _ = crossval.communicate(timeout=WAIT)
        assert crossval.returncode == 0, workspace.output
    finally:
        for process in (crossval, *workers, scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its Prefect server too
            process.communicate()
    workspace.lost = workspace.folder / lost
    return workspace


def test_a_killed_worker_loses_its_fold_only_and_it_runs_elsewhere(done):
    assert sorted(re.findall(r"repeat 0 fold (\d): accuracy", done.output)) == ["0", "1"]
    assert "Traceback" not in done.output
    assert not done.orphan.is_running() or done.orphan.status() == psutil.STATUS_ZOMBIE  # it ended with its worker
    assert (done.lost / "result.json").is_file()


def test_every_image_outside_quarantine_is_predicted_once_by_a_model_that_had_not_seen_it(done):
    predictions = pd.read_csv(done.folder / PREDICTIONS)
    manifest = pd.read_csv(done.folder / "artifacts/validate/manifest.csv")
    assert sorted(predictions.path) == sorted(manifest.path[~manifest.label_conflict])
    assert (predictions.groupby("duplicate_group").fold.nunique() == 1).all()
    for folder in (done.folder / "artifacts/crossval/folds").iterdir():
        split = pd.read_csv(folder / "artifacts/split/split.csv").set_index("path").part
        of_fold = predictions[predictions.fold == int(folder.name.split("-")[1])]
        assert set(split[of_fold.path]) == {"test"}


def test_the_report_has_folds_and_pooled_metrics(done):
    report = json.loads(done.text(REPORT))
    assert set(report) == {"folds", "pooled", "mean", "std"}
    assert [(fold["repeat"], fold["fold"], fold["seeds"]["train"]) for fold in report["folds"]] == [
        (0, 0, 17), (0, 1, 18),
    ]  # fmt: skip
    predictions = pd.read_csv(done.folder / PREDICTIONS)
    pooled = report["pooled"]["accuracy"]
    assert set(pooled) == {"value", "low", "high", "n"}
    assert pooled["value"] == pytest.approx((predictions.label == predictions.predicted).mean(), abs=1e-6)
    assert pooled["n"] == len(predictions)
    accuracies = pd.Series([fold["accuracy"]["value"] for fold in report["folds"]])
    assert report["mean"] == pytest.approx(accuracies.mean(), abs=1e-6)
    assert report["std"] == pytest.approx(accuracies.std(), abs=1e-6)


def test_mlflow_has_one_parent_with_a_child_a_fold(done):
    with sqlite3.connect(done.folder / "mlruns/mlflow.db") as database:
        runs = dict(database.execute("select run_uuid, name from runs").fetchall())
        parents = database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall()
        statuses = database.execute("select distinct status from runs").fetchall()
        (accuracy,) = database.execute(
            "select value from latest_metrics where key = 'test/accuracy' and run_uuid = ?", (parents[0][1],)
        ).fetchone()
    assert len(runs) == 1 + 3  # that of `dvc repro`, and these
    assert sorted(runs[child] for child, _ in parents) == [f"repeat 0 fold {i} of 2" for i in range(2)]
    assert {runs[parent].partition("-")[0] for _, parent in parents} == {"crossval"}
    assert statuses == [("FINISHED",)]
    assert accuracy == pytest.approx(json.loads(done.text(REPORT))["pooled"]["accuracy"]["value"])


def test_dvc_does_not_take_the_folds_for_pipelines(done):
    assert "crossval" not in done.dvc("status")
    assert "artifacts" not in done.run("git", "status", "--porcelain")


def test_the_fold_that_ran_twice_is_bit_for_bit_what_dvc_repro_makes_of_its_parameters(built, done, tmp_path):
    alone = built.copy_to(tmp_path / "alone")
    shutil.copy(done.lost / "params.yaml", alone.folder / "params.yaml")
    alone.environment |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    assert stages_run(alone.dvc("repro", "evaluate")) == ["split", "featurize", "train", "evaluate"]
    for path in (
        "artifacts/split/split.csv",
        "artifacts/train/run.json",
        "artifacts/evaluate/predictions.csv",
        "reports/metrics.json",
    ):
        assert alone.text(path) == (done.lost / path).read_text(), path
    result = json.loads((done.lost / "result.json").read_text())
    assert result["model_md5"] in alone.text("dvc.lock")


def test_a_run_that_was_cut_off_continues_on_local_workers_to_the_same_end(done):
    before = done.text(REPORT), done.text(PREDICTIONS)
    (done.lost / "result.json").unlink()
    (done.folder / REPORT).unlink()
    output = done.busi("crossval", "--folds", "2")
    assert "2 folds, 1 of them finished before" in output
    assert len(re.findall(r"repeat 0 fold \d: accuracy", output)) == 1
    assert (done.text(REPORT), done.text(PREDICTIONS)) == before


def test_what_cannot_be_run_is_said_before_any_work(done):
    assert "each of 90 folds" in done.busi("crossval", "--folds", "90", code=1)
    image = done.folder / "data/benign/benign (1).png"
    kept = image.read_bytes()
    image.unlink()
    image.write_bytes(kept + b"x")
    try:
        output = done.busi("crossval", "--folds", "2", code=1)
    finally:
        image.write_bytes(kept)
    assert "the first is benign/benign (1).png" in output
    assert "Traceback" not in output


def test_a_job_that_fails_raises_its_last_words_and_one_elsewhere_is_refused(done):
    broken = done.folder / "artifacts/crossval/folds/broken"
    broken.mkdir()
    (broken / "params.yaml").write_text("{}")
    job = "from pipeline.orchestration import fold; fold.run('fold', {!r})"
    assert "params.yaml is not valid" in done.run("python", "-c", job.format(str(broken)), code=1)
    assert "not there or not below" in done.run("python", "-c", job.format(str(broken / "elsewhere")), code=1)
    shutil.rmtree(broken)
