"""The flow for real: a server and a worker as processes of their own, DVC beside them, cancelled, failing, rejected."""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from tests.pipeline.registry import free_port
from tests.pipeline.test_repro import DECLARED, STAGES, stages_run

STEPS = ["data", *STAGES, "summary"]
ENDLESS = {"train.tail_epochs": 100000, "train.patience": 100000}
PATIENCE = 500  # seconds until a test gives up


def wait_until(true, what: str):
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
    return found


class Served:
    """A workspace with a Prefect server and a worker on it, started by the commands of the Makefile.

    The worker tells what happens through a block of Prefect's, which hands it to `webhook`.
    """

    def __init__(self, workspace, webhook: str):
        self.workspace = workspace
        port = free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        # What the Makefile exports
        workspace.environment |= {
            "PREFECT_HOME": str(workspace.folder / ".cache/prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "BUSI_ROOT": str(workspace.folder),
            "ARG_PORT": str(port),
            "PREFECT_API_URL": self.api,
            "BUSI_NOTIFY": "custom-webhook/team",
        }
        (workspace.folder / ".cache").mkdir(exist_ok=True)
        self.processes = []
        self._start(*self._recipe("server"))
        wait_until(self._is_up, "the server")
        save = (
            "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Webhook\n"
            f"Webhook(name='t', url={webhook!r}, json_data={{'text': '{{{{body}}}}'}}).save('team')"
        )
        workspace.run("python", "-c", save)
        *before, worker = self._recipe("worker")
        for command in before:
            workspace.run("bash", "-c", command)
        self._start(worker)

    def _recipe(self, target: str) -> list[str]:
        printed = self.workspace.run("make", "-n", target)
        return [line for line in printed.splitlines() if line.startswith("prefect ")]

    def _start(self, command: str) -> None:
        with (self.workspace.folder / ".cache/servers.log").open("a") as log:
            self.processes.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {command}"], cwd=self.workspace.folder, env=self.workspace.environment,
                    stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=5):
                return True
        except OSError:
            return False

    def post(self, path: str, body: dict) -> list[dict]:
        request = urllib.request.Request(
            f"{self.api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def of_run(self, path: str, run: str) -> list[dict]:
        return self.post(f"{path}/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def run(self, run: str) -> dict:
        return self.of_run("flow_runs", run)[0]

    def states(self, run: str) -> dict[str, str]:
        return {task["name"]: task["state_name"] for task in self.of_run("task_runs", run)}

    def order(self, *arguments: str) -> tuple[str, str]:
        """`prefect deployment run`; gives the run's id and what was printed."""
        printed = self.workspace.run("prefect", "deployment", "run", "busi/nightly", *arguments)
        return re.search(r"UUID: (\S+)", printed)[1], printed

    def end(self) -> None:
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def webhook():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received = []
    server.url = f"http://127.0.0.1:{server.server_port}/secret-path"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def served(built, webhook, tmp_path_factory):
    server = Served(built.clone_to(tmp_path_factory.mktemp("served") / "repository"), webhook.url)
    yield server
    server.end()


def running(folder: Path, module: str) -> list[int]:
    """Processes that run a module of the pipeline in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and module in (process / "cmdline").read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def table(output: str) -> dict[str, str]:
    """Step to what it did, of the closing table in a flow's log."""
    lines = output[output.index("stage        what") :].splitlines()[1 : 1 + len(STEPS)]
    return {line.split()[0]: line[13:25].strip() for line in lines}


def sets(values: dict) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def test_a_deployed_run_finishes_on_the_worker_and_tells_that_the_gate_rejected_the_model(served, webhook):
    run, printed = served.order("--watch")
    assert "Completed" in printed
    assert served.run(run)["parameters"] == {"until": None, "force": False, "overrides": None}
    assert served.states(run) == dict.fromkeys(STEPS, "Completed")
    artifacts = {artifact["key"]: artifact for artifact in served.of_run("artifacts", run)}
    assert set(artifacts) == {"stages", "metrics", "confusion", "gate", "mlflow-run", "data-docs"}
    rows = json.loads(artifacts["stages"]["data"])
    assert [(row["stage"], row["what"]) for row in rows] == [(step, "ran") for step in STEPS]
    receipt = json.loads(served.workspace.text("mlruns/registration.json"))
    assert f"#/runs/{receipt['run_id']})" in artifacts["mlflow-run"]["data"]
    logs = served.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    messages = [log["message"] for log in logs]
    assert sum(message.startswith("epoch ") for message in messages) > 5
    assert sum(message.startswith("featurize: ") for message in messages) < 10
    assert receipt["verdict"] == "failed"  # so small a phantom teaches it little
    [told] = webhook.received
    assert "the gate rejected the model by accuracy" in told


def test_what_the_flow_wrote_is_what_dvc_repro_writes(served, first):
    for path in DECLARED:
        assert served.workspace.text(path) == first.text(path), path
    assert stages_run(served.workspace.dvc("repro")) == []
    assert served.workspace.run("git", "status", "--porcelain") == ""


def test_the_schedule_plans_runs(served):
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_ASC"}
    runs = wait_until(lambda: served.post("flow_runs/filter", planned), "a scheduled run")
    assert runs[0]["auto_scheduled"]
    assert "T03:00:00" in runs[0]["expected_start_time"]


def test_after_dvc_repro_the_flow_has_nothing_to_do_without_any_server(first, tmp_path, monkeypatch):
    before = [first.text(path) for path in DECLARED]
    monkeypatch.setitem(first.environment, "HOME", str(tmp_path))
    output = first.busi("flow")
    assert table(output) == dict.fromkeys(STEPS, "cached") | {"summary": "ran"}
    assert "PREFECT_API_URL" not in first.environment
    assert running(first.folder, "create_app") == [], "the server that the flow brought along is still there"
    assert [first.text(path) for path in DECLARED] == before
    assert list(tmp_path.iterdir()) == [], "something was written outside the repository"


def test_cancelling_ends_the_stage_and_others_wait_for_it_or_say_who_is_at_work(served):
    workspace = served.workspace
    run, _ = served.order("--param", f"overrides={json.dumps(ENDLESS)}")
    checkpoint = workspace.folder / "artifacts/train/checkpoint.npz"
    wait_until(checkpoint.exists, "the training")
    assert served.run(run)["parameters"]["overrides"] == ENDLESS

    refused = workspace.dvc("repro", code=255)
    assert "is busy, it is being blocked by" in refused
    assert "repro --single-item train" in refused
    second = workspace.start("busi", "flow", "--until", "data")
    while "waiting: another flow is at work here (PID" not in (line := second.stdout.readline()):
        assert line, "the second flow did not wait"

    workspace.run("prefect", "flow-run", "cancel", run)
    wait_until(lambda: served.run(run)["state_type"] == "CANCELLED", "the cancellation")
    assert running(workspace.folder, "pipeline.stages.train") == []
    second.communicate(timeout=PATIENCE)
    assert second.returncode == 0


def test_a_failing_stage_fails_the_flow_with_its_own_words_and_stops_the_later_ones(served, webhook):
    workspace = served.workspace
    workspace.environment["BUSI_NOTIFY"] = webhook.url
    webhook.received.clear()
    many = {"split.folds": 40, "split.fold": 0, "split.test": 0.025, "split.train": 0.825}
    output = workspace.busi("flow", *sets(many), code=1)
    words = "error in split: too few images to split: each of 40 folds needs"
    assert words in output
    assert "Traceback" not in output
    assert table(output) == {
        "data": "cached", "validate": "cached", "split": "failed", "featurize": "not run",
        "train": "not run", "evaluate": "not run", "report": "not run", "register": "not run", "summary": "not run",
    }  # fmt: skip
    run = re.search(r"runs/flow-run/(\S+)", output)[1]
    assert served.run(run)["state_name"] == "Failed"
    states = served.states(run)
    assert (states["validate"], states["split"], states["featurize"]) == ("Cached", "Failed", "NotReady")
    [told] = webhook.received
    assert words in told
    assert "secret-path" not in output


def test_a_tracking_server_that_does_not_answer_is_tried_again(served):
    workspace = served.workspace
    dead = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    workspace.environment |= dead
    back = yaml.safe_load(workspace.run("git", "show", "HEAD:params.yaml"))
    names = (*ENDLESS, "split.folds", "split.fold", "split.test", "split.train")
    back = {name: json.dumps(back[name.split(".")[0]][name.split(".")[1]]) for name in names}
    output = workspace.busi("flow", *sets(back | {"flow.retries": 1, "flow.retry_seconds": 1}), code=1)
    for name in dead:
        del workspace.environment[name]
    assert "Retry 1/1 will start 1 second(s) from now" in output
    # Split failed before, and its report is not in DVC's cache; what the cancelled training removed is
    assert table(output) == dict.fromkeys(STEPS, "cached") | {"split": "ran", "summary": "unreachable"}
    assert "Traceback" not in output


def test_a_flow_waits_for_a_dvc_repro_and_says_so(served):
    workspace = served.workspace
    stages = workspace.text("dvc.yaml")
    endless = stages.replace("cmd: python -m pipeline.stages.split", "cmd: touch .cache/begun && sleep 1000")
    (workspace.folder / "dvc.yaml").write_text(endless)
    repro = workspace.start("dvc", "repro", "--single-item", "split")
    wait_until((workspace.folder / ".cache/begun").exists, "the stage")
    flow = workspace.start("busi", "flow", "--until", "data")
    while not re.search(
        rf"waiting: .*dvc repro --single-item split \(PID {repro.pid}\) is at work here", line := flow.stdout.readline()
    ):
        assert line, "the flow did not wait"
    os.killpg(repro.pid, signal.SIGKILL)  # DVC's own note of who is at work stays behind
    repro.communicate()
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 0, output
    (workspace.folder / "dvc.yaml").write_text(stages)


def test_ctrl_c_ends_a_flow_without_server_and_leaves_a_workspace_to_go_on_with(served):
    workspace = served.workspace
    started = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as at a terminal, wherever the tests run
        "from pipeline.cli import main\n"
        "sys.argv = ['busi', 'flow', '--until', 'validate', '--force']\n"
        "main()"
    )
    lock, servers = workspace.text("dvc.lock"), running(workspace.folder, "create_app")
    api = workspace.environment.pop("PREFECT_API_URL")
    process = workspace.start("python", "-c", started)
    workspace.environment["PREFECT_API_URL"] = api
    while "> python -m pipeline.stages.validate" not in (line := process.stdout.readline()):
        assert line, "validate did not begin"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, output
    assert "error in flow: cancelled" in output
    assert "Traceback" not in output
    assert running(workspace.folder, "pipeline.stages.validate") == []
    assert running(workspace.folder, "create_app") == servers, "the server that the flow brought along is still there"
    assert stages_run(workspace.dvc("repro", "validate")) == ["validate"]
    assert workspace.text("dvc.lock") == lock


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--until", "tran"), "no step 'tran'; the steps are data, validate, split"),
        (("--set", "train.batch_sise=4"), "train.batch_sise: unknown key"),
    ],
)
def test_what_the_user_typed_wrong_is_said_without_a_traceback(served, arguments, says):
    before = served.workspace.text("params.yaml")
    output = served.workspace.busi("flow", *arguments, code=1)
    assert says in output
    assert "Traceback" not in output
    assert served.workspace.text("params.yaml") == before
