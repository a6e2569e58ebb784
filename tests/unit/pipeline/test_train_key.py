"""The key of a training: every declared input changes it, and nothing that only records does."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml

from pipeline.params import read_params
from pipeline.stages.train import input_key, recorded

ROOT = Path(__file__).parents[3]
DVC = """\
stages:
  train:
    deps:
      - features.npy
      - weights/${featurize.weights}
      - code
"""


@pytest.fixture
def params():
    return read_params(ROOT / "params.yaml")


@pytest.fixture
def inputs(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    files = {"dvc.yaml": DVC, "features.npy": "numbers", f"weights/{params.featurize.weights}": "weights"}
    for name, content in (files | {"code/model.py": "a = 1", "code/deep/layers.py": "", "recording.py": ""}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("name", ["features.npy", "code/model.py", "code/deep/layers.py", "code/added.py"])
def test_an_edit_to_an_input_changes_it(inputs, params, name):
    before = input_key(params)
    (inputs / name).write_text("b = 2")
    assert input_key(params) != before


def test_so_do_another_name_other_weights_and_other_parameters(inputs, params):
    keys = [input_key(params)]
    (inputs / "code/model.py").rename(inputs / "code/other.py")
    keys.append(input_key(params))
    (inputs / "weights" / params.featurize.weights).write_text("other weights")
    keys.append(input_key(params))
    for section, change in {"train": {"seed": 99}, "featurize": {"seed": 99}}.items():
        changed = getattr(params, section).model_copy(update=change)
        keys.append(input_key(params.model_copy(update={section: changed})))
    assert len(set(keys)) == len(keys)


def test_what_is_not_declared_what_is_compiled_and_what_is_of_other_stages_does_not(inputs, params):
    before = input_key(params)
    (inputs / "recording.py").write_text("c = 3")
    (inputs / "code/__pycache__").mkdir()
    (inputs / "code/__pycache__/model.pyc").write_bytes(b"compiled")
    evaluate = params.evaluate.model_copy(update={"seed": 99})
    assert input_key(params.model_copy(update={"evaluate": evaluate})) == before


def test_recording_is_none_of_the_inputs_that_dvc_yaml_declares():
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    assert not [
        name for name in declared if name.startswith(("pipeline/tracking", "pipeline/registry", "src/busi/rep"))
    ]


def test_a_training_is_recorded_also_where_only_its_declared_inputs_are(inputs, params, monkeypatch):
    """As in a step of Kubeflow, which has no data/."""
    from pipeline.tracking import runs

    class Run:
        def log_params(self, params):
            pass

    names = []

    @contextlib.contextmanager
    def run(key, name=None):
        names.append(name)
        yield Run()

    monkeypatch.setattr(runs, "run", run)
    key = input_key(params)
    with recorded(key, params):
        pass
    (inputs / "data").mkdir()
    (inputs / "data/dataset.json").write_text(json.dumps({"name": "mine", "synthetic": False}))
    with recorded(key, params):
        pass
    assert names == [None, f"mine-{key[:8]}"]
