"""The strict reader: a wrong key is named, with what was received and what was expected."""

from pathlib import Path

import pytest
import yaml

from busi.evaluation.gate import RULES
from pipeline.params import override, read_params
from pipeline.runtime.errors import StageError

ROOT = Path(__file__).resolve().parents[3]
GATE_OFF = dict.fromkeys(RULES)
ALIASES = "\n".join(["b0: &b0 [x]", *(f"b{n}: &b{n} [{f'*b{n - 1},' * 9}]" for n in range(1, 9)), "split: {seed: *b8}"])


@pytest.fixture
def values():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def reading(values, folder):
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return read_params(path)


def test_the_committed_file_is_valid():
    assert read_params(ROOT / "params.yaml").register_.gate.accuracy == 0.85


def test_unknown_key_is_named(values, tmp_path):
    values["train"]["learning_rte"] = 1
    with pytest.raises(StageError, match=r"train\.learning_rte: unknown key"):
        reading(values, tmp_path)


def test_missing_key_is_named(values, tmp_path):
    del values["split"]["seed"]
    with pytest.raises(StageError, match=r"split\.seed: missing key"):
        reading(values, tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "wrong"),
    [
        ("train", "batch_size", "32"),
        ("train", "batch_size", 0),
        ("train", "patience", 2.5),
        ("train", "dropout", 1.0),
        ("featurize", "weights", None),
        ("featurize", "image_size", 4),
        ("split", "train", 1.2),
        ("evaluate", "confidence", True),
    ],
)
def test_wrong_type_or_range_is_named_with_what_was_received(values, tmp_path, section, key, wrong):
    values[section][key] = wrong
    with pytest.raises(StageError) as caught:
        reading(values, tmp_path)
    assert f"{section}.{key}" in str(caught.value)
    assert repr(wrong) in str(caught.value)


def test_every_problem_is_reported_at_once(values, tmp_path):
    del values["split"]["seed"]
    values["train"]["batch_size"] = "many"
    with pytest.raises(StageError) as caught:
        reading(values, tmp_path)
    assert "split.seed" in str(caught.value)
    assert "train.batch_size" in str(caught.value)


def test_parts_must_add_up(values, tmp_path):
    values["split"]["train"] = 0.5
    with pytest.raises(StageError, match=r"split: train \+ val \+ test must be 1, got 0\.8"):
        reading(values, tmp_path)


def test_missing_file_and_bad_yaml(tmp_path):
    with pytest.raises(StageError, match="not found"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1, 2")
    with pytest.raises(StageError, match="not valid YAML"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- just\n- a list\n")
    with pytest.raises(StageError, match="not valid"):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"validate": {"min_side": 500, "max_side": 100}}, "min_side 500 is larger than max_side 100"),
        ({"train": {"head_epochs": 0, "tail_epochs": 0}}, "nothing would be trained"),
        ({"register": {"gate": GATE_OFF}}, "nothing would be decided"),
        ({"split": {"seed": -1}}, "split.seed"),
    ],
)
def test_values_that_contradict_each_other_are_refused_before_anything_runs(values, tmp_path, changes, says):
    for section, change in changes.items():
        values[section] |= change
    with pytest.raises(StageError) as caught:
        reading(values, tmp_path)
    assert says in str(caught.value)


@pytest.fixture
def committed(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    return path


def test_an_override_changes_its_line_and_keeps_every_other(committed):
    before = committed.read_text().splitlines()
    override({"train.batch_size": 16, "train.tail_learning_rate": 0.00001, "register.gate.accuracy": None}, committed)
    params = read_params(committed)
    assert (params.train.batch_size, params.train.tail_learning_rate) == (16, 0.00001)
    assert params.register_.gate.accuracy is None
    after = committed.read_text().splitlines()
    changed = [line for line, other in zip(before, after, strict=True) if line != other]
    assert [line.split(":")[0].strip() for line in changed] == ["batch_size", "tail_learning_rate", "accuracy"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.batch_sise": 16}, "train.batch_sise: unknown key"),
        ({"trian.batch_size": 16}, "no section 'trian'"),
        ({"train.batch_size.x": 16}, "no section 'train.batch_size'"),
        ({"train.batch_size": "many"}, "train.batch_size"),
        ({"split.train": 0.5}, "must be 1"),
    ],
)
def test_an_override_that_the_reader_refuses_changes_nothing(committed, changes, says):
    before = committed.read_text()
    with pytest.raises(StageError) as caught:
        override(changes, committed)
    assert says in str(caught.value)
    assert committed.read_text() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": 5}, "give both"),
        ({"fold": 0}, "give both"),
        ({"folds": 5, "fold": 5, "test": 0.2, "train": 0.65}, "fold must be 0 to 4"),
        ({"folds": 5, "fold": 0}, "test must be 1 / folds = 0.2"),
    ],
)
def test_a_fold_is_one_of_the_folds(values, tmp_path, changes, said):
    values["split"] |= changes
    with pytest.raises(StageError, match=said):
        reading(values, tmp_path)
    values["split"] |= {"folds": 5, "fold": 4, "test": 0.2, "train": 0.65}
    assert reading(values, tmp_path).split.fold == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!python/object/apply:os.system ['touch pwned']", "could not determine a constructor"),
        ("[" * 1200, "recursion"),
        (ALIASES, "split.seed"),
    ],
)
def test_a_malicious_file_is_refused_and_nothing_in_it_runs(tmp_path, monkeypatch, text, reason):
    """No object of Python is made; neither deep nesting nor aliases that multiply take time or memory."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text)
    with pytest.raises(StageError, match=reason) as caught:
        read_params()
    assert len(str(caught.value)) < 5000
    assert not Path("pwned").exists()
