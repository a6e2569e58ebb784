"""The stages as a Kubeflow pipeline, artifacts/kubeflow/pipeline.yaml: `busi kubeflow --image IMAGE`.

A step a stage, read from dvc.yaml, after a first one that brings the data in. What a step declares as its outputs is
one artifact, a folder with the paths of dvc.yaml below it, and goes to the steps whose deps name something in it. IMAGE
holds this repository and its environment (Dockerfile). Needs kfp: requirements-kubeflow.lock.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from pipeline import paths
from pipeline.orchestration.dvc_file import outputs_of, read_stages
from pipeline.orchestration.dvc_steps import DATA
from pipeline.params import read_params
from pipeline.paths import CACHE, PARAMS, ROOT
from pipeline.runtime.atomic_io import atomic_write, write_text
from pipeline.runtime.errors import StageError

PIPELINE = Path("artifacts/kubeflow/pipeline.yaml")
STEPS = CACHE / "kubeflow"

DATA_OUTPUTS = (str(paths.DATA), str(paths.DATA_DVC))
CODE = ("pipeline", "src", str(paths.WEIGHTS), str(paths.DVC_FILE))
SOURCE = "phantom"  # what the first step brings in unless a run says otherwise

# kfp reads the types of a step from its source, so there is one function a step and no loop
STEP = """
from kfp import dsl


def {name}({arguments}, made: dsl.Output[dsl.Artifact]):
    from pipeline.orchestration.kubeflow import run_step

    run_step("{name}", {text}, [{paths}], made.path)
"""


def compile(image: str) -> None:
    """Compile the pipeline for a container image into `PIPELINE`, and check it against the pipeline specification.

    Raises:
        StageError: kfp is not installed.
        ValueError: as `check`.
    """
    if not importlib.util.find_spec("kfp"):
        raise StageError(
            "kfp is not installed; `make kubeflow IMAGE=...` installs it\n"
            "  without make: python -m pip install --require-hashes -r requirements-kubeflow.lock -c requirements.lock"
        )
    from kfp import compiler

    pipeline = build(image)
    with atomic_write(PIPELINE) as partial:
        written = partial.with_suffix(".yaml")  # the compiler goes by the suffix
        compiler.Compiler().compile(pipeline, str(written))
        os.replace(written, partial)
        steps = check(partial)
    print(f"{PIPELINE}: {' -> '.join(steps)}, image {image}")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        print("note: without MLFLOW_TRACKING_URI each step logs to a store of its own, which ends with its container")


def build(image: str) -> Callable:
    """The pipeline, for kfp's compiler or its local runner. Its parameters: a data source, a params.yaml as JSON."""
    from kfp import dsl

    settings = read_params().kubeflow
    text = json.dumps(yaml.safe_load(PARAMS.read_text(encoding="utf-8")))  # one line: the compiler puts it in a comment
    inputs = inputs_of_steps()
    components = {
        name: dsl.component(function, base_image=image, install_kfp_package=False)
        for name, function in _functions(inputs).items()
    }
    tracking = os.environ.get("MLFLOW_TRACKING_URI")

    @dsl.pipeline(name="busi", description="BUSI classification; research and education only, not a medical device")
    def busi(source: str = SOURCE, params: str = text):
        tasks = {}
        for name, component in components.items():
            made = {f"from_{one}": tasks[one].outputs["made"] for one in inputs[name]}
            tasks[name] = component(**({"source": source} if name == DATA else {"params": params}), **made)
            tasks[name].set_display_name(name).set_caching_options(False)
            tasks[name].set_cpu_limit(str(settings.cpu)).set_cpu_request(str(settings.cpu))
            tasks[name].set_memory_limit(settings.memory).set_memory_request(settings.memory)
            tasks[name].set_retry(settings.retries, backoff_duration=f"{settings.backoff}s", backoff_factor=2)
            if tracking:
                tasks[name].set_env_variable("MLFLOW_TRACKING_URI", tracking)

    return busi


def inputs_of_steps() -> dict[str, list[str]]:
    """Step -> the steps whose outputs it reads, in the order of dvc.yaml, the data step first."""
    stages = read_stages(ROOT)
    made_by = dict.fromkeys(DATA_OUTPUTS, DATA) | {
        out: name for name, body in stages.items() for out in outputs_of(body)
    }
    inputs: dict[str, list[str]] = {DATA: []}
    for name, body in stages.items():
        read = {maker for dep in body["deps"] for out, maker in made_by.items() if f"{dep}/".startswith(f"{out}/")}
        inputs[name] = [one for one in (DATA, *stages) if one in read]
    return inputs


def run_step(name: str, text: str, inputs: list[str], made: str) -> None:
    """Run one step where it was put: a folder that looks like the repository root, made of code and inputs.

    Args:
        name: `data`, or a stage of dvc.yaml.
        text: for the data step its source, for a stage the content of params.yaml as JSON.
        inputs: folders that earlier steps made.
        made: folder to be made of the step's outputs.
    """
    STEPS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STEPS) as temporary:
        folder = Path(temporary)
        for code in CODE:
            (folder / code).symlink_to(ROOT / code)
        for one in inputs:
            shutil.copytree(one, folder, dirs_exist_ok=True)
        if name == DATA:
            shutil.copy(ROOT / PARAMS, folder / PARAMS)
            _call("dvc", "init", "--no-scm", "--quiet", folder=folder)
            _call(sys.executable, "-m", "pipeline.cli", "data", text, folder=folder)
            outputs = DATA_OUTPUTS
        else:
            body = read_stages(ROOT)[name]
            write_text(folder / PARAMS, yaml.safe_dump(json.loads(text), sort_keys=False))
            _call(sys.executable, *body["cmd"].split()[1:], folder=folder)
            outputs = outputs_of(body)
        for output in outputs:
            target = Path(made) / output
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (folder / output).is_dir() else shutil.copy
            copy(folder / output, target)


def check(path: Path) -> list[str]:
    """Read a compiled file by the pipeline specification, and return the names of its steps.

    Raises:
        ValueError: it is no pipeline, or its steps or their inputs are not those of dvc.yaml.
    """
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    try:
        spec = json_format.ParseDict(
            next(yaml.safe_load_all(path.read_text(encoding="utf-8"))), pipeline_spec_pb2.PipelineSpec()
        )
    except json_format.ParseError as error:
        raise ValueError(f"{path} is no Kubeflow pipeline: {error}") from error
    tasks, wanted = spec.root.dag.tasks, inputs_of_steps()
    if set(tasks) != set(wanted) or any(set(tasks[name].dependent_tasks) != set(wanted[name]) for name in wanted):
        raise ValueError(f"{path} has the steps {sorted(tasks)}; expected {list(wanted)} wired as dvc.yaml says")
    return list(wanted)


def _functions(inputs: dict[str, list[str]]) -> dict[str, Callable]:
    functions = {}
    STEPS.mkdir(parents=True, exist_ok=True)
    for name, read in inputs.items():
        text = "source" if name == DATA else "params"
        source = STEP.format(
            name=name,
            text=text,
            arguments=", ".join([f"{text}: str", *(f"from_{one}: dsl.Input[dsl.Artifact]" for one in read)]),
            paths=", ".join(f"from_{one}.path" for one in read),
        )
        path = STEPS / f"step_{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # where inspect looks for the source
        spec.loader.exec_module(module)
        functions[name] = getattr(module, name)
    return functions


def _call(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode:
        raise StageError(f"`{' '.join(command)}` ended with {done.returncode} in {folder}; its own message is above")
