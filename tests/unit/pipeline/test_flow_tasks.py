"""The flow's own parts without a server: states, the plan, notifications."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from prefect.logging import disable_run_logger
from prefect.states import State

from pipeline.orchestration import flow, flow_artifacts, typed
from pipeline.orchestration.dvc_steps import Outcome, StageTimeout
from pipeline.paths import ROOT
from pipeline.runtime.errors import ExternalServiceError, StageError


def run(monkeypatch, result) -> State:
    def run_step(step, **settings):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(flow, "run_step", run_step)
    with disable_run_logger():
        return flow.run_stage.fn("train", 60)


@pytest.mark.parametrize(
    ("result", "kind", "name"),
    [
        (Outcome("train", True, 1.0, True), "COMPLETED", "Completed"),
        (Outcome("train", False, 1.0, False), "COMPLETED", "Cached"),
        (StageError("mend it"), "FAILED", "Failed"),
        (StageTimeout("too long"), "FAILED", "TimedOut"),
        (ExternalServiceError("no answer"), "FAILED", "Unreachable"),
    ],
)
def test_a_stage_gives_the_state_that_says_what_happened(monkeypatch, result, kind, name):
    state = run(monkeypatch, result)
    assert (state.type.value, state.name) == (kind, name)
    assert isinstance(result, Outcome) or state.message == str(result)


def test_only_what_failed_outside_is_tried_again(monkeypatch):
    assert flow.may_work_later(None, None, run(monkeypatch, ExternalServiceError("no answer")))
    assert not flow.may_work_later(None, None, run(monkeypatch, StageError("mend it")))
    assert not flow.may_work_later(None, None, run(monkeypatch, StageTimeout("too long")))


def test_a_bug_is_no_state(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, ZeroDivisionError())


def test_the_plan_is_dvc_yamls(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    assert flow.plan(None) == ["data", *stages, "summary"]
    assert flow.plan("split") == ["data", "validate", "split"]
    assert flow.plan("data") == ["data"]
    with pytest.raises(StageError, match=r"no step 'tran'; the steps are data, validate, split"):
        flow.plan("tran")


def test_each_step_has_a_timeout(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert set(flow.read_settings().timeout) == set(flow.plan(None))
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["flow"]["timeout"]["train"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="differ by train"):
        flow.read_settings()


def test_an_override_is_read_as_yaml():
    assert typed.parse_changes(["train.seed=3"]) == {"train.seed": 3}
    assert typed.parse_changes(["register.gate.accuracy=null"]) == {"register.gate.accuracy": None}
    assert typed.parse_changes([]) == {}
    for wrong in ("train.seed", "=3", ""):
        with pytest.raises(StageError, match="KEY=VALUE"):
            typed.parse_changes([wrong])


def test_several_overrides_may_stand_in_one_text_and_a_value_may_hold_a_space():
    text = " train.seed=3  featurize.weights=my weights.h5 split.seed=4"
    expected = {"train.seed": 3, "featurize.weights": "my weights.h5", "split.seed": 4, "train.dropout": 0.1}
    assert typed.parse_changes([text, "train.dropout=0.1"]) == expected


def test_the_metrics_table_holds_what_has_an_interval():
    metric = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 10}
    found = dict(
        flow_artifacts.intervals({"accuracy": metric, "per_class": {"benign": {"f1": metric}}, "note": {"n": 3}})
    )
    assert found == {"accuracy": metric, "per_class.benign.f1": metric}


@pytest.fixture
def webhook():
    """A local HTTP server that keeps what it is sent; `answer` is its status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(server.answer)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.answer = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}/secret-path"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def logger():
    return logging.getLogger("test_flow")


def test_a_notification_goes_to_the_webhook(webhook, logger, monkeypatch, caplog):
    monkeypatch.setenv("BUSI_NOTIFY", webhook.url)
    with caplog.at_level("INFO"):
        flow_artifacts.notify("train failed", logger)
    assert webhook.received == [{"text": "train failed"}]
    assert "secret-path" not in caplog.text


@pytest.mark.parametrize("target", ["refusing webhook", "http://127.0.0.1:9/secret-path", "no-such-type/secret-path"])
def test_a_notification_that_fails_is_a_log_line_without_the_address(webhook, logger, monkeypatch, caplog, target):
    webhook.answer = 500
    monkeypatch.setenv("BUSI_NOTIFY", webhook.url if target == "refusing webhook" else target)
    monkeypatch.setattr(flow_artifacts.Block, "load", lambda name: 1 / 0)
    flow_artifacts.notify("train failed", logger)
    assert "train failed" in caplog.text
    assert "notification failed" in caplog.text
    assert "secret-path" not in caplog.text


def test_without_a_target_a_notification_is_a_log_line(logger, monkeypatch, caplog):
    monkeypatch.delenv("BUSI_NOTIFY", raising=False)
    flow_artifacts.notify("train failed", logger)
    assert "train failed" in caplog.text
    assert "BUSI_NOTIFY is not set" in caplog.text
