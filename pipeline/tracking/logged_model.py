"""The logged model of a version: its files, written once and checked by checksum, and loading it from a copy of them.

Beside the model lie the evidence of its evaluation and `checksums.json`, which names the sha256 of every file.
"""

import contextlib
import importlib.metadata
import io
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map
from PIL import Image

from busi import DISCLAIMER
from busi.data.layout import CLASSES, IMAGE_COLUMN, MODEL_FILE, OOD_DETECTOR_FILE
from pipeline.paths import STORE
from pipeline.runtime.atomic_io import sha256
from pipeline.runtime.errors import StageError
from pipeline.runtime.locks import scratch
from pipeline.tracking import bundle
from pipeline.tracking.bundle import Bundle
from pipeline.tracking.connection import client, experiment_id, store_errors
from pipeline.tracking.runs import Run

WORKPLACE = STORE / ".registering"
REGISTRATION_TAG = "registration_key"
FILES_TAG = "files_sha256"  # of `CHECKSUMS`
CHECKSUMS = "checksums.json"
SERVING_PACKAGES = ("keras", "mlflow", "numpy", "pandas", "pillow", "pyyaml", "tensorflow")


@dataclass(frozen=True)
class Parts:
    """What a logged model is made of: the Keras file and the detector of unknown inputs, copied byte for byte, the
    code that serves them, and the evidence, file name to text."""

    keras_file: Path
    ood_detector: Path
    bundle: Bundle
    evidence: Mapping[str, str]


# Reading


@contextlib.contextmanager
def files_of(version: ModelVersion) -> Iterator[Path]:
    """A copy of the files of a version for the length of a block: the model and the evidence beside it.

    Raises:
        StageError: they are gone, or the store refuses.
    """
    with scratch(STORE, "reading") as made:
        folder = made / "files"  # a folder without the lock file of `scratch`, which belongs to no version
        folder.mkdir()
        with store_errors():
            client()
            try:
                path = mlflow.artifacts.download_artifacts(
                    f"models:/{version.name}/{version.version}", dst_path=str(folder)
                )
            except OSError as error:
                raise StageError(
                    f"the files of {version.name} version {version.version} can't be read: {error}\n"
                    "  they were deleted from the artifact store; `busi run` registers the present model again"
                ) from error
        yield Path(path)


def load_classifier(files: Path):
    """The `ImageClassifier` in a copy of a version's files, as `files_of` makes it, run by the code in those files.

    The files may go once it is loaded. Versions from before the code had a name of its own run the `busi` that this
    process has imported.
    """
    with store_errors(), _importing(files):
        return mlflow.pyfunc.load_model(str(files)).get_raw_model()


def scoring_app(files: Path):
    """MLflow's scoring server, an ASGI application, on a copy of a version's files as `files_of` makes it."""
    from mlflow.pyfunc import scoring_server

    with store_errors(), _importing(files):
        return scoring_server.init(mlflow.pyfunc.load_model(str(files)))


def altered_files(version: ModelVersion, folder: Path) -> list[str]:
    """How the files in `folder`, a copy of a version's, differ from its registration; empty when they do not."""
    listed = folder / CHECKSUMS
    if FILES_TAG not in version.tags:
        return ["no checksum was recorded at registration"]
    if not listed.is_file():
        return [f"{CHECKSUMS} is missing"]
    if sha256(listed) != version.tags[FILES_TAG]:
        return [f"{CHECKSUMS} was changed"]
    recorded, found = json.loads(listed.read_text(encoding="utf-8")), checksums(folder)
    changed = {name for name in recorded.keys() & found.keys() if recorded[name] != found[name]}
    what = {
        **dict.fromkeys(changed, "was changed"),
        **dict.fromkeys(recorded.keys() - found.keys(), "is missing"),
        **dict.fromkeys(found.keys() - recorded.keys(), "was added"),
    }
    return [f"{name} {what[name]}" for name in sorted(what)]


def checksums(folder: Path) -> dict[str, str]:
    """Name to sha256 of each file of a logged model, without `CHECKSUMS` and what MLflow writes when it loads one."""
    left_out = {CHECKSUMS, "registered_model_meta"}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256(path) for name, path in names.items() if name not in left_out}


def find(store: mlflow.MlflowClient, key: str) -> LoggedModel | None:
    """The logged model of a registration key."""
    oldest_first = [{"field_name": "creation_timestamp", "ascending": True}]
    found = store.search_logged_models(
        [experiment_id(store)], f"tags.{REGISTRATION_TAG} = '{key}'", order_by=oldest_first, max_results=1
    )
    return found[0] if found else None


def is_complete(store: mlflow.MlflowClient, model: LoggedModel) -> bool:
    """Whether everything of a logged model was uploaded and is still there."""
    if model.status != "READY":
        return False
    return any(file.path == "MLmodel" for file in store.list_logged_model_artifacts(model.model_id))


@contextlib.contextmanager
def _importing(files: Path) -> Iterator[None]:
    """Import all the code of a version in the block that loads it, and leave `sys.path` as it was."""
    code = str(files / "code")
    try:
        yield
        bundle.import_all(files / "code")
    finally:
        # MLflow puts it there for good; the folder is a copy that goes
        if code in sys.path:
            sys.path.remove(code)


# Writing


def upload(run: Run, model: LoggedModel, parts: Parts) -> None:
    """Write the files of a logged model and mark it ready; under the store's lock."""
    shutil.rmtree(WORKPLACE, ignore_errors=True)  # of a killed process; the lock keeps living ones apart
    try:
        folder = WORKPLACE / "model"
        write_model(folder, parts, model.model_id, run.id, model.artifact_location)
        for file, text in parts.evidence.items():
            (folder / file).write_text(text, encoding="utf-8", newline="\n")
        listed = folder / CHECKSUMS
        listed.write_text(json.dumps(checksums(folder), indent=2) + "\n", encoding="utf-8", newline="\n")
        run.client.set_logged_model_tags(model.model_id, {FILES_TAG: sha256(listed)})
        run.client.log_model_artifacts(model.model_id, str(folder))
    finally:
        shutil.rmtree(WORKPLACE, ignore_errors=True)
    outputs = run.client.get_run(run.id).outputs
    if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        run.client.log_outputs(run.id, [LoggedModelOutput(model.model_id, step=0)])
    run.client.finalize_logged_model(model.model_id, "READY")


def write_model(folder: Path, parts: Parts, model_id: str | None, run_id: str | None, location: str) -> None:
    """Write one MLflow model with two flavours: `keras` for the network, `python_function` for image files.

    Both read the same file, a byte-for-byte copy of the Keras file; nothing is loaded, so this costs no TensorFlow.
    The code that serves travels with the model, so that it loads without this repository.
    """
    model = Model(artifact_path=location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    model.add_flavor(
        "keras",
        data="data/keras",
        keras_version=_version("keras"),
        keras_backend="tensorflow",
        save_exported_model=False,
    )
    data = folder.with_name("keras")
    data.mkdir(parents=True)
    shutil.copyfile(parts.keras_file, data / MODEL_FILE)
    shutil.copyfile(parts.ood_detector, data / OOD_DETECTOR_FILE)
    (data / "keras_module.txt").write_text("keras", encoding="utf-8")
    source = parts.bundle.write(folder.with_name("code"))
    mlflow.pyfunc.save_model(
        folder,
        loader_module=parts.bundle.loader_module,
        data_path=str(data),
        code_paths=[str(source)],
        mlflow_model=model,
        signature=signature(),
        input_example=input_example(),
        pip_requirements=[f"{package}=={_version(package)}" for package in SERVING_PACKAGES],
        metadata={"classes": list(CLASSES), "disclaimer": DISCLAIMER},
    )


def signature() -> ModelSignature:
    """Image files in, and out what `busi.serving` says of each."""
    outputs = [
        ColSpec("string", "label", required=False),
        ColSpec(Map(DataType.double), "probabilities", required=False),
        ColSpec("boolean", "accepted"),
        *(ColSpec("string", name) for name in ("reason", "model_version", "disclaimer")),
    ]
    return ModelSignature(inputs=Schema([ColSpec("binary", IMAGE_COLUMN)]), outputs=Schema(outputs))


def input_example() -> pd.DataFrame:
    """One small PNG, a grey ramp: no patient's image leaves the data set."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(file, "PNG")
    return pd.DataFrame({IMAGE_COLUMN: [file.getvalue()]})


def _version(package: str) -> str:
    return importlib.metadata.version(package)
