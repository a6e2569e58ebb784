"""Registered versions: registering one once, reading them, and setting what may change (alias, stage, tags).

Call `connection.connect` first, once a process: it creates what is missing, under the lock. The functions that read or
set leave locking to their callers.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from busi import DISCLAIMER
from pipeline.tracking import logged_model
from pipeline.tracking.connection import client, experiment_id, locked, store_errors
from pipeline.tracking.runs import Run

PRODUCTION = "production"  # the alias that programs read: models:/NAME@production
REGISTRATION_TAG = logged_model.REGISTRATION_TAG
VERSIONS_TAG = "mlflow.modelVersions"
LOST_TAG = "lost"  # why a version was given up
DESCRIPTION_LIMIT = 5000  # characters, the registry's column in every database
SMOKE_FOLDER = "evaluate/smoke"  # of a run: test images to try a model on
_NO_STAGES = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED")  # error codes of an MLflow without stages


# Registration


def find_version(run: Run, name: str, key: str) -> ModelVersion | None:
    """The version that was registered under this key, whole or not (`lost`); None where a registration was cut off."""
    with store_errors():
        model = logged_model.find(run.client, key)
        if model is not None and VERSIONS_TAG not in model.tags:
            return None
        return _version_of(run.client, model, name, key)


def register_version(
    run: Run,
    *,
    name: str,
    key: str,
    parts: logged_model.Parts,
    tags: Mapping[str, str],
    description: str,
) -> ModelVersion:
    """Register a model once: the version of this key is returned if it exists and completed if it was begun.

    Each step is one transaction of the store that carries the key, so a process killed between two of them leaves
    nothing that the next call does not find: logged model, its files, its readiness, then the version with all its
    tags and its description.

    Args:
        run: the run the model came from.
        name: the registered model.
        key: what makes two registrations the same one.
        parts: the files of the logged model.
        tags: tags of the version.
        description: Markdown, at most `DESCRIPTION_LIMIT` characters.
    """
    if len(description) > DESCRIPTION_LIMIT:
        raise ValueError(f"the description has {len(description)} characters; the registry takes {DESCRIPTION_LIMIT}")
    store = run.client
    with store_errors(), locked():
        model = logged_model.find(store, key) or store.create_logged_model(
            experiment_id(store), name=name, source_run_id=run.id, tags={REGISTRATION_TAG: key}
        )
        if not logged_model.is_complete(store, model):
            logged_model.upload(run, model, parts)
        version = _version_of(store, model, name, key)
        if version is None:
            files = store.get_logged_model(model.model_id).tags[logged_model.FILES_TAG]
            own = {REGISTRATION_TAG: key, logged_model.FILES_TAG: files}
            version = _create_version(run, model, name, {**tags, **own}, description)
        # What mlflow.register_model writes too, for the model's page to link to its version
        versions = json.dumps([{"name": name, "version": version.version}])
        store.set_logged_model_tags(model.model_id, {VERSIONS_TAG: versions})
        return version


# Reading


def list_versions(name: str) -> list[ModelVersion]:
    """Every version of a registered model, newest first, with its aliases; none where the name is not registered."""
    with store_errors():
        store = client()
        # A search leaves the aliases out
        found = [
            store.get_model_version(name, version.version)
            for version in store.search_model_versions(f"name = '{name}'")
        ]
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def production_version(name: str) -> str | None:
    """The number of the version that the alias `production` names."""
    with store_errors():
        model = _registered_model(client(), name)
    return str(model.aliases[PRODUCTION]) if model and PRODUCTION in model.aliases else None


def stages(name: str) -> dict[str, str]:
    """Number to stage of each version that has one; empty where this MLflow has no stages."""
    store = client()
    if not hasattr(store, "transition_model_version_stage"):
        return {}
    with store_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return _stages(store, name)
        except MlflowException as error:
            if error.error_code in _NO_STAGES:
                return {}
            raise


def model_tags(name: str) -> dict[str, str]:
    """The tags of a registered model; none where the name is not registered."""
    with store_errors():
        model = _registered_model(client(), name)
    return dict(model.tags) if model else {}


def lost(version: ModelVersion) -> str | None:
    """What a version lacks of its registration, as a sentence; None when run and model are there and whole."""
    if not (version.run_id and version.source.startswith("models:/m-")):
        return "It was registered by other means than this pipeline."
    with store_errors():
        store = client()
        try:
            run = store.get_run(version.run_id)
            if run.info.lifecycle_stage == "deleted":
                return f"Its run {version.run_id} was deleted."
            model = store.get_logged_model(version.source.removeprefix("models:/"))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return f"Its run {version.run_id} or its logged model was deleted and collected."
        if run.info.status != "FINISHED":
            return "Its run has not ended well."
        if not logged_model.is_complete(store, model):
            return "Its model is not complete, or its files were deleted."
    return None


def give_up(version: ModelVersion, key: str, reason: str) -> None:
    """Let a version that lost something keep neither the registration key nor the logged model of it.

    Then `register_version` registers under this key anew. The version stays, with the reason as its tag `lost`.
    """
    with store_errors():
        store = client()
        model = logged_model.find(store, key)
        if model is not None:
            store.set_logged_model_tags(model.model_id, {REGISTRATION_TAG: f"lost-{key}"})
        store.set_model_version_tag(version.name, version.version, REGISTRATION_TAG, f"lost-{key}")
        store.set_model_version_tag(version.name, version.version, LOST_TAG, reason)


def smoke_images(version: ModelVersion, folder: Path) -> Path:
    """Copy the test images that were set aside at evaluation, and what is expected of them, into `folder`."""
    with store_errors():
        client()
        found = mlflow.artifacts.download_artifacts(
            run_id=version.run_id, artifact_path=SMOKE_FOLDER, dst_path=str(folder)
        )
    return Path(found)


# Setting


def set_alias(name: str, version: str) -> None:
    """Let the alias `production` name this version; one transaction of the store."""
    with store_errors():
        client().set_registered_model_alias(name, PRODUCTION, version)


def set_production_stage(name: str, version: str) -> None:
    """Move a version to stage Production and archive the one before. Where MLflow has no stages it does nothing."""
    store = client()
    move = getattr(store, "transition_model_version_stage", None)
    if move is None:
        return
    stage = PRODUCTION.capitalize()
    with store_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            move(name, version, stage, archive_existing_versions=True)
            return
        except MlflowException as error:
            if error.error_code in _NO_STAGES:
                return
        # MLflow 3.17 archives by comparing numbers with text, which PostgreSQL refuses from the driver psycopg 3;
        # then the versions move one by one
        move(name, version, stage)
        for number, found in _stages(store, name).items():
            if found == stage and number != version:
                move(name, number, "Archived")


def set_version_tags(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version; those with other names stay."""
    with store_errors():
        for tag, value in tags.items():
            client().set_model_version_tag(name, version, tag, value)


def describe_model(name: str, text: str) -> None:
    """Set the description of a registered model, Markdown."""
    with store_errors():
        client().update_registered_model(name, text)


def set_model_tag(name: str, tag: str, value: str) -> None:
    with store_errors():
        client().set_registered_model_tag(name, tag, value)


def delete_model_tag(name: str, tag: str) -> None:
    with store_errors():
        client().delete_registered_model_tag(name, tag)


def _stages(store: mlflow.MlflowClient, name: str) -> dict[str, str]:
    found = store.search_model_versions(f"name = '{name}'")
    return {str(one.version): one.current_stage for one in found if one.current_stage not in (None, "", "None")}


def _registered_model(store: mlflow.MlflowClient, name: str):
    found = store.search_registered_models(f"name = '{name}'")
    return found[0] if found else None


def _version_of(store: mlflow.MlflowClient, model: LoggedModel | None, name: str, key: str) -> ModelVersion | None:
    """The version of a key and its logged model; without the model, which may have been deleted, of the key."""
    found = store.search_model_versions(f"name = '{name}' and tags.{REGISTRATION_TAG} = '{key}'")
    found = [version for version in found if model is None or version.source == f"models:/{model.model_id}"]
    return min(found, key=lambda version: int(version.version), default=None)


def _create_version(run: Run, model: LoggedModel, name: str, tags: Mapping[str, str], description: str) -> ModelVersion:
    if not run.client.search_registered_models(f"name = '{name}'"):
        run.client.create_registered_model(name, description=DISCLAIMER)
    return run.client.create_model_version(
        name, f"models:/{model.model_id}", run.id, tags=dict(tags), description=description, model_id=model.model_id
    )
