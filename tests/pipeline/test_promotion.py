"""Promotion on real stores: the gate is asked, what goes round it is found, a kill leaves one Production version."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from busi import DISCLAIMER
from pipeline import cli
from pipeline.params import read_params
from pipeline.paths import ROOT
from pipeline.registry import audit_log, checks, moves, names, verify
from pipeline.runtime.errors import StageError
from pipeline.stages import register
from pipeline.tracking import connection, logged_model, versions
from tests.pipeline.registry import (
    NAME,
    REAL_SMOKE_TEST,
    free_port,
    lay_out,
    make_metrics,
    mlflow_server,
    passing,
    process_pool,
    working_in,
    write,
    write_evaluation,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own


def add_version(accuracy=0.9, predictions=None):
    """Register another version, told from the others by its metrics."""
    write_evaluation(make_metrics(accuracy=accuracy))
    if predictions is not None:
        predictions.to_csv("artifacts/evaluate/predictions.csv", index=False)
    register.main()
    return json.loads(Path("mlruns/registration.json").read_text())["version"]


def set_param(name, value):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["promote"][name] = value
    Path("params.yaml").write_text(yaml.safe_dump(values))


def promote_version(number=None, force=False, reason="", agree=lambda *_: None):
    return moves.promote(NAME, number, read_params(), force, reason, agree)


def production():
    """Alias, versions in stage Production, and the top of the audit log."""
    stages = versions.stages(NAME)
    stack = audit_log.production_stack(audit_log.entries(NAME).values())
    in_stage = [number for number, stage in stages.items() if stage == "Production"]
    return versions.production_version(NAME), in_stage, stack[-1] if stack else None


def wrong(every=False):
    return {check.name: check.sentence for check in checks.failures(verify.verify(NAME, every))}


def files(number):
    version = names.choose(NAME, int(number))
    model = connection.connect().get_logged_model(version.source.removeprefix("models:/"))
    return Path(model.artifact_location)


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory, keras_file, empty_store):
    folder = lay_out(tmp_path_factory.mktemp("three") / "made", keras_file)
    shutil.copytree(empty_store, folder / "mlruns")
    with working_in(folder):
        assert [add_version(0.9), add_version(0.8), add_version(0.91)] == ["1", "2", "3"]
    return folder


@pytest.fixture
def three(three_versions, tmp_path):
    """A folder with three versions: passed, failed, passed. Made once and copied, as a store may be."""
    with working_in(Path(shutil.copytree(three_versions, tmp_path / "copy"))) as folder:
        yield folder


def test_the_newest_that_passed_is_promoted_and_the_one_before_archived(three):
    asked = []
    promote_version(1)
    entry = promote_version(reason="better", agree=lambda *found: asked.append(found))
    assert (entry["from"], entry["to"], entry["reason"], entry["verdict"]) == ("1", "3", "better", "passed")
    assert production() == ("3", ["3"], "3")
    assert versions.stages(NAME) == {"1": "Archived", "3": "Production"}
    [(version, before, found)] = asked
    assert (str(version.version), str(before.version)) == ("3", "1")
    expected = ["verdict", "finished", "kind", "unaltered", "smoke", "not_worse_than_production"]
    assert [check.name for check in found] == expected
    assert all(check.passed for check in found)
    assert wrong(every=True) == {}


def test_a_version_that_is_production_already_is_left_alone(three):
    promote_version(3)
    with pytest.raises(StageError, match="in Production already"):
        promote_version()
    assert len(audit_log.entries(NAME)) == 1


def test_nothing_moves_without_agreement(three):
    def no(*_):
        raise StageError("stopped")

    with pytest.raises(StageError, match="stopped"):
        promote_version(agree=no)
    assert production() == (None, [], None)


def test_a_failed_version_is_refused_by_its_rules_and_forced_on_record(three, monkeypatch):
    with pytest.raises(StageError, match=r"verdict: The gate rejected it by accuracy 0.800, threshold 0.850"):
        promote_version(2)
    with monkeypatch.context() as without_checks:
        without_checks.setattr(checks, "run_checks", lambda *_: pytest.fail("checks ran, which take time"))
        with pytest.raises(StageError, match=r"needs a reason.*REASON="):
            promote_version(2, force=True, reason=" ")
    assert production() == (None, [], None)
    promote_version(2, force=True, reason="to show a | pipe")
    assert production() == ("2", ["2"], "2")
    [entry] = audit_log.entries(NAME).values()
    assert entry["overridden"] == ["verdict"]
    tags = names.choose(NAME, 2).tags
    assert tags["override.0001"].startswith("to show a | pipe (verdict overridden by ")
    assert wrong() == {}
    promote_version(3)
    assert names.choose(NAME, 2).tags["override.0001"] == tags["override.0001"]
    description = connection.connect().get_registered_model(NAME).description
    assert DISCLAIMER in description
    assert "to show a \\| pipe" in description
    assert "In Production: version 3." in description


def test_when_none_has_passed_there_is_nothing_to_promote(folder):
    add_version(0.8)
    with pytest.raises(StageError, match=r"no version of .* has passed"):
        promote_version()
    with pytest.raises(StageError, match="it has 1"):
        promote_version(9)


def test_rollback_goes_back_one_each_time(three):
    add_version(0.92)
    for number in (1, 3, 4):
        promote_version(number)
    agree = lambda *_: None  # noqa: E731
    assert moves.rollback(NAME, "worse in use", agree)["to"] == "3"
    assert production() == ("3", ["3"], "3")
    assert moves.rollback(NAME, "", agree)["to"] == "1"
    assert production() == ("1", ["1"], "1")
    with pytest.raises(StageError, match=r"no version .* was in Production before version 1"):
        moves.rollback(NAME, "", agree)
    promote_version(3)
    assert moves.rollback(NAME, "", agree)["to"] == "1"
    actions = [(entry["action"], entry["from"], entry["to"]) for entry in audit_log.entries(NAME).values()]
    assert actions == [
        ("promote", None, "1"), ("promote", "1", "3"), ("promote", "3", "4"), ("rollback", "4", "3"),
        ("rollback", "3", "1"), ("promote", "1", "3"), ("rollback", "3", "1"),
    ]  # fmt: skip
    assert wrong() == {}


@pytest.mark.parametrize(
    ("spoil", "check", "says"),
    [
        (lambda v: (files(v) / "data/keras/model.keras").write_bytes(b"other"), "unaltered", "model.keras was changed"),
        (lambda v: (files(v) / "code/extra.py").write_text("1"), "unaltered", "code/extra.py was added"),
        (lambda v: (files(v) / "predictions.csv").unlink(), "unaltered", "predictions.csv is missing"),
        (lambda v: write(files(v) / "checksums.json", {}), "unaltered", "checksums.json was changed"),
        (lambda v: versions.set_version_tags(NAME, v, {"smoke": "failed"}), "finished", "failed"),
        (lambda v: versions.set_version_tags(NAME, v, {"synthetic": "false"}), "kind", "tag was edited"),
        (lambda v: connection.connect().set_terminated(names.choose(NAME, 3).run_id, "FAILED"), "finished", "run"),
    ],
)
def test_what_is_not_what_it_is_taken_for_can_not_be_forced(three, spoil, check, says):
    spoil("3")
    with pytest.raises(StageError) as refused:
        promote_version(3, force=True, reason="all the same")
    assert f"{check}: " in str(refused.value)
    assert says in str(refused.value)
    assert "can't be overridden" in str(refused.value)
    assert production() == (None, [], None)


def test_a_verdict_that_was_edited_is_not_believed(three):
    versions.set_version_tags(NAME, "2", {"verdict": "passed"})
    with pytest.raises(StageError, match="the tag was edited"):
        promote_version(2)
    assert "verdict of version 2" in wrong(every=True)


def test_a_model_of_phantoms_is_refused_under_the_real_name(three):
    client = connection.connect()
    version = names.choose(NAME, 3)
    client.create_registered_model(names.NAME)
    client.create_model_version(names.NAME, version.source, version.run_id, tags=dict(version.tags))
    with pytest.raises(StageError, match=r"kind: It was trained on synthetic .* belongs to busi-densenet121-phantom"):
        moves.promote(names.NAME, None, read_params(), True, "all the same", lambda *_: None)


def worse(folder, right):
    """The same test images with only so many classified right."""
    table = pd.read_csv(folder / "artifacts/evaluate/predictions.csv")
    other = table["label"].map({"benign": "normal", "malignant": "benign", "normal": "benign"})
    return table.assign(predicted=np.where(np.arange(len(table)) < right, table["label"], other))


def test_a_version_that_is_worse_than_production_is_refused_unless_forced(folder):
    add_version(0.9, worse(folder, 24))
    add_version(0.91, worse(folder, 20))
    promote_version(1)
    with pytest.raises(StageError, match=r"not_worse_than_production: Accuracy changes by -0\.167 \(-0\.\d+ to -0\.0"):
        promote_version(2)
    promote_version(2, force=True, reason="needed")
    assert audit_log.entries(NAME)[2]["overridden"] == ["not_worse_than_production"]
    with pytest.raises(StageError, match="in Production already"):
        promote_version(2)
    promote_version(1)  # better than what is there: no force


def test_a_version_of_other_data_is_not_compared(folder):
    add_version(0.9, worse(folder, 24))
    write("data.dvc", "outs:\n- md5: 4567.dir\n  path: data\n")
    add_version(0.91, worse(folder, 2))
    seen = []
    promote_version(1)
    promote_version(2, agree=lambda *found: seen.extend(found[2]))
    assert "trained on another data version (0123.dir)" in seen[-1].sentence


def test_checks_are_switched_off_in_params(three):
    for name, value in (("unaltered", False), ("smoke", False), ("not_worse_than_production", None)):
        set_param(name, value)
    (files("3") / "predictions.csv").unlink()
    seen = []
    promote_version(3, agree=lambda *found: seen.extend(found[2]))
    assert {check.name for check in seen if check.passed is None} == {
        "unaltered", "smoke", "not_worse_than_production",
    }  # fmt: skip


# Round the gate


def move_stage(number):
    connection.connect().transition_model_version_stage(NAME, number, "Production")


def test_each_way_round_the_gate_is_found(three):
    promote_version(1)
    promote_version(3)
    assert wrong() == {}
    with verify.production_files(NAME) as (version, _):
        assert str(version.version) == "3"

    move_stage("2")
    assert "version 2 is in stage Production" in wrong()["stage"]
    with pytest.raises(StageError, match="not served\n  stage: version 2"), verify.production_files(NAME):
        pass
    versions.set_production_stage(NAME, "3")
    assert wrong() == {}

    versions.set_alias(NAME, "2")
    found = wrong()
    assert "names version 2, but by the log 3 is in Production" in found["alias"]
    assert "verdict of version 2" in found
    versions.set_alias(NAME, "3")

    versions.set_version_tags(NAME, "3", {"commit": "0" * 40})
    assert wrong() == {"tags of version 3": "Edited: commit."}
    versions.set_version_tags(NAME, "3", {"commit": names.choose(NAME, 1).tags["commit"]})

    keras_model = files("3") / "data/keras/model.keras"
    content = keras_model.read_bytes()
    keras_model.write_bytes(content + b" ")
    assert wrong() == {"unaltered of version 3": "Since registration: data/keras/model.keras was changed."}
    keras_model.write_bytes(content)

    versions.delete_model_tag(NAME, "audit.0001")
    assert "deleted by hand" in wrong()["audit log"]


def test_what_was_moved_by_hand_is_set_right_by_a_promotion_and_stays_in_sight(three):
    promote_version(1)
    versions.set_alias(NAME, "3")
    with pytest.raises(StageError, match="moved by hand"):
        moves.rollback(NAME, "", lambda *_: None)
    promote_version(3, reason="meant, but done by hand")
    assert production() == ("3", ["3"], "3")
    assert wrong() == {}
    [log] = [check.sentence for check in verify.verify(NAME) if check.name == "audit log"]
    assert "entry 2 found version 3 in Production, where no entry had put it" in log
    move_stage("2")
    promote_version(3)
    assert production() == ("3", ["3"], "3")
    assert wrong() == {}
    assert moves.rollback(NAME, "", lambda *_: None)["to"] == "1"


def test_a_reason_that_does_not_fit_is_refused_before_anything_moves(three):
    with pytest.raises(StageError, match="2001 characters"):
        promote_version(2, force=True, reason="x" * 2001)
    assert production() == (None, [], None)


# Kills and races


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("set_registered_model_tag", 0), ("set_registered_model_alias", 0), ("transition_model_version_stage", 0),
        ("set_registered_model_tag", 1), ("set_model_version_tag", 0), ("update_registered_model", 0),
        ("delete_registered_model_tag", 0),
    ],
)  # fmt: skip
def test_a_kill_at_any_step_leaves_one_production_version(three, monkeypatch, step, call, when):
    promote_version(1)
    real, calls = getattr(mlflow.MlflowClient, step), []

    def killed(*arguments, **named):
        calls.append(step)
        if len(calls) - 1 != call:
            return real(*arguments, **named)
        if when == "after":
            real(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            promote_version(2, force=True, reason="kept")
    moved = versions.production_version(NAME)
    assert moved in ("1", "2")
    moves.recover(NAME)
    assert production() == (moved, [moved], moved)
    assert wrong() == {}
    assert ("override.0002" in names.choose(NAME, 2).tags) == (moved == "2")
    assert moves.recover(NAME) == []
    promote_version(3)
    assert production() == ("3", ["3"], "3")
    assert wrong() == {}
    assert len(audit_log.entries(NAME)) == (3 if moved == "2" else 2)


def promote_in_a_process(folder, number, barrier):
    os.chdir(folder)
    checks.smoke_test = passing
    connection.connect()
    try:
        return promote_version(number, agree=lambda *_: barrier.wait(60))["to"]
    except StageError as refused:
        return str(refused)


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(three, monkeypatch):
    with process_pool(2, monkeypatch) as pool, multiprocessing.get_context("forkserver").Manager() as manager:
        barrier = manager.Barrier(2)  # both have asked and been answered before either moves
        said = pool.starmap(promote_in_a_process, [(str(three), n, barrier) for n in (1, 3)], chunksize=1)
    winner = versions.production_version(NAME)
    assert winner in said
    [told] = [text for text in said if text != winner]
    assert f"version {winner} is in Production by now, not None" in told
    assert production() == (winner, [winner], winner)
    assert wrong() == {}


def test_on_a_server_a_note_of_another_machine_is_respected_for_a_while(three, monkeypatch):
    monkeypatch.setattr(connection, "is_embedded", lambda: False)
    note = {"id": "x", "action": "promote", "to": "1", "who": "a@b", "when": datetime.now(UTC).isoformat()}
    versions.set_model_tag(NAME, "promoting.x", json.dumps(note))
    with pytest.raises(StageError, match="a@b began to promote"):
        promote_version(3)
    assert production() == (None, [], None)
    monkeypatch.setattr(audit_log, "PATIENCE", 0)
    assert moves.recover(NAME)[0].startswith("undone: promote of version 1")
    promote_version(3)
    assert wrong() == {}


def test_where_stages_are_gone_everything_works(three, monkeypatch):
    monkeypatch.delattr(mlflow.MlflowClient, "transition_model_version_stage")
    assert versions.stages(NAME) == {}
    promote_version(1)
    promote_version(3)
    moves.rollback(NAME, "", lambda *_: None)
    assert versions.production_version(NAME) == "1"
    assert wrong() == {}


def test_where_the_old_stage_can_not_be_archived_along_the_versions_move_one_by_one(three, monkeypatch):
    """As with PostgreSQL through psycopg 3, which refuses what MLflow 3.17 asks for."""
    real = mlflow.MlflowClient.transition_model_version_stage

    def refusing(self, name, version, stage, archive_existing_versions=False):
        if archive_existing_versions:
            raise mlflow.MlflowException("operator does not exist: integer <> character varying")
        return real(self, name, version, stage)

    monkeypatch.setattr(mlflow.MlflowClient, "transition_model_version_stage", refusing)
    promote_version(1)
    promote_version(3)
    assert versions.stages(NAME) == {"1": "Archived", "3": "Production"}
    assert wrong() == {}


# The real smoke test


def test_the_smoke_test_loads_what_is_in_the_store_and_notices_another_model(folder, keras_file):
    add_version()
    version = names.choose(NAME, 1)

    def smoke_test():
        with logged_model.files_of(version) as copy:
            return REAL_SMOKE_TEST(version, copy)

    import keras

    stored = files("1") / "data/keras/model.keras"
    model = keras.saving.load_model(keras_file)
    model.layers[-1].set_weights([weight + 0.3 * np.arange(3) for weight in model.layers[-1].get_weights()])
    model.save(stored)
    found = smoke_test()
    assert not found.passed
    assert found.value > found.threshold
    assert "differ by up to" in found.sentence
    (files("1") / "MLmodel").write_text("flavors: {}")
    assert "can't be loaded and used" in smoke_test().sentence
    for path in Path("mlruns").rglob("*.image"):
        path.write_bytes(b"another image")
    assert "was changed or is missing" in smoke_test().sentence


# The command line


def say(*arguments, code=0, given=None):
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=given)
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.output


def test_the_commands_tell_what_a_person_asks(three):
    listed = say("versions")
    assert "0.9100 (0.8600 to 0.9500, n = 90)" in listed
    for command in ("versions", "history", "verify"):
        assert f"the registry has {NAME}" in say(command, "--model", "nothing", code=1)
    assert "no version has been in Production" in say("history")
    assert "add --yes" in say("promote", code=1)
    assert "version 1 is in Production, before it none\n" in say("promote", 1, "--yes")
    assert "version 3 is in Production, before it version 1" in say("promote", "--yes", "--reason", "better")
    shown = say("show", 3)
    for part in ("alias production, stage Production", "of 24 malignant", "data_md5", "can't be rebuilt", DISCLAIMER):
        assert part in shown
    assert "rejected" in say("promote", 2, "--yes", code=1)
    say("rollback", "--yes", "--reason", "worse in use")
    told = say("history")
    assert told.count("version") == 3
    assert "worse in use" in told
    assert "FAILED" not in say("verify", "--all")
    move_stage("2")
    assert "version 2 is in stage Production" in say("verify", code=1)
    assert "has no version 9" in say("show", 9, code=1)
    say("card", 3)
    assert Path(f"artifacts/{NAME}-v3.md").read_text().startswith(f"# {NAME}: passed the gate")


def test_nothing_but_the_answer_reaches_the_terminal(three):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.cli", "versions"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "deprecat" not in done.stdout.lower()


# PostgreSQL


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL server of its own; its address."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    as_other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="busi-") as folder:
        if as_other:
            shutil.chown(folder, "postgres")
        port = free_port()

        def run(program, *arguments, check=True):
            command = [*as_other, str(found[-1].with_name(program)), "-D", f"{folder}/db", *arguments]
            subprocess.run(command, check=check, capture_output=True, cwd=folder)

        run("initdb", "-U", "mlflow", "-A", "trust", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-l", f"{folder}/log", "-o", options, "-w", "start")
        try:
            yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop", check=False)


def test_the_same_commands_on_a_tracking_server_with_postgresql(outputs, postgres, tmp_path, monkeypatch):
    with mlflow_server(tmp_path, postgres) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setattr(checks, "smoke_test", passing)
        assert [add_version(0.9), add_version(0.8), add_version(0.91)] == ["1", "2", "3"]
        say("promote", 1, "--yes")
        monkeypatch.setattr(checks, "smoke_test", REAL_SMOKE_TEST)  # of files that come over the network
        assert "8 test images" in say("promote", 3, "--yes")
        monkeypatch.setattr(checks, "smoke_test", passing)
        assert "accuracy" in say("promote", 2, "--yes", code=1)
        say("promote", 2, "--yes", "--force", "--reason", "on a server too")
        say("rollback", "--yes")
        assert production() == ("3", ["3"], "3")
        assert "on a server too" in say("history")
        assert "FAILED" not in say("verify", "--all")
        move_stage("2")
        assert "version 2 is in stage Production" in say("verify", code=1)
        assert not connection.DATABASE.exists()
