"""The compiled Kubeflow pipeline: steps as dvc.yaml has them, and the same metrics as `dvc repro` when they are run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp", reason="kfp is not installed: pip install --require-hashes -r requirements-kubeflow.lock")

IMAGE = "example.org/python-busi:1"
RUN_LOCALLY = f"""
from pathlib import Path
from pipeline.orchestration.kubeflow import STEPS, build
from kfp import local

local.init(
    local.SubprocessRunner(use_venv=False), pipeline_root=str(STEPS / "made"), workspace_root=str(STEPS / "shared")
)
build("{IMAGE}")()
"""


@pytest.fixture(scope="module")
def workspace(make_workspace):
    workspace = make_workspace("kubeflow")
    workspace.output = workspace.busi("kubeflow", "--image", IMAGE)
    return workspace


@pytest.fixture(scope="module")
def compiled(workspace):
    return next(yaml.safe_load_all(workspace.text("artifacts/kubeflow/pipeline.yaml")))


def test_the_steps_are_those_of_dvc_yaml_and_take_what_their_deps_name(workspace, compiled):
    tasks = compiled["root"]["dag"]["tasks"]
    stages = yaml.safe_load(workspace.text("dvc.yaml"))["stages"]
    assert set(tasks) == {"data", *stages}
    assert set(tasks["train"]["dependentTasks"]) == {"featurize"}
    assert set(tasks["register"]["dependentTasks"]) == {"data", *stages} - {"featurize", "register"}
    assert set(tasks["split"]["dependentTasks"]) == {"validate"}
    produced = tasks["train"]["inputs"]["artifacts"]["from_featurize"]["taskOutputArtifact"]
    assert produced == {"producerTask": "featurize", "outputArtifactKey": "made"}


def test_image_resources_and_retries_are_the_given_ones(workspace, compiled):
    settings = yaml.safe_load(workspace.text("params.yaml"))["kubeflow"]
    for executor in compiled["deploymentSpec"]["executors"].values():
        container = executor["container"]
        assert container["image"] == IMAGE
        assert float(container["resources"]["cpuLimit"]) == settings["cpu"]
        assert float(container["resources"]["memoryLimit"]) == 4
        assert "pip install" not in " ".join(container["command"])
    for task in compiled["root"]["dag"]["tasks"].values():
        assert task["retryPolicy"]["maxRetryCount"] == settings["retries"]
        assert task["retryPolicy"]["backoffDuration"] == f"{settings['backoff']}s"


def test_it_names_no_place_of_this_machine(workspace):
    assert str(workspace.folder) not in workspace.text("artifacts/kubeflow/pipeline.yaml")
    assert str(Path.home()) not in workspace.text("artifacts/kubeflow/pipeline.yaml")


def test_run_step_by_step_the_metrics_are_those_of_dvc_repro(workspace, built):
    done = subprocess.run(
        [sys.executable, "-c", RUN_LOCALLY],
        cwd=workspace.folder,
        env=workspace.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    (made,) = workspace.folder.glob(".cache/kubeflow/made/busi-*")
    for step, path in (
        ("validate", "artifacts/validate/manifest.csv"),
        ("evaluate", "reports/metrics.json"),
        ("evaluate", "artifacts/evaluate/predictions.csv"),
        ("report", "reports/gate.json"),
    ):
        assert (made / step / "made" / path).read_text() == built.text(path), path
    assert "accuracy" in json.loads((made / "evaluate/made/reports/metrics.json").read_text())
    assert not list((workspace.folder / ".cache/kubeflow").glob("tmp*"))  # nothing left behind
