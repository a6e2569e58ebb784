"""What a registered model is called, and which of its versions a command means."""

from collections.abc import Mapping

from busi.evaluation import gate
from pipeline.dataset import read_dataset
from pipeline.runtime.errors import StageError
from pipeline.tracking import connection, versions
from pipeline.tracking.versions import ModelVersion

NAME = "busi-densenet121"
SYNTHETIC_NAME = "busi-densenet121-phantom"


def registered_name(dataset: Mapping) -> str:
    """The model's name in the registry; a model of synthetic images has its own and never replaces one of real images.

    Args:
        dataset: the content of `data/dataset.json`, of which `synthetic` (bool) decides.
    """
    return SYNTHETIC_NAME if dataset["synthetic"] else NAME


def default_name() -> str:
    """The registered model that belongs to the data set in `data/`."""
    return registered_name(read_dataset())


def require_registered(name: str) -> None:
    """Raise a `StageError` for a name that the registry, which has others, does not know: most likely misspelt."""
    with connection.store_errors():
        known = [model.name for model in connection.client().search_registered_models()]
    if known and name not in known:
        raise StageError(f"there is no registered model {name!r}\n  the registry has {', '.join(sorted(known))}")


def choose(name: str, number: int | None) -> ModelVersion:
    """The version with this number, or the newest that passed the gate and lost nothing; one passed over is named.

    Raises:
        StageError: there is no such version, or none has passed.
    """
    found = versions.list_versions(name)
    if number is None:
        passed = [version for version in found if version.tags.get("verdict") == gate.PASSED]
        if not passed:
            raise StageError(
                f"no version of {name} has passed the gate, and none was named\n"
                "  name one: `busi versions` lists them; `busi promote VERSION` needs --force --reason 'TEXT' for it,\n"
                "  `make promote VERSION=...` needs REASON='TEXT'"
            )
        for version in passed:
            if (lost := versions.lost(version)) is None:
                return version
            print(f"note: version {version.version} passed the gate and is passed over. {lost}")
        raise StageError(
            f"no version of {name} that passed the gate is whole\n  `busi run` registers the present model"
        )
    for version in found:
        if int(version.version) == number:
            return version
    have = ", ".join(str(version.version) for version in reversed(found)) or "none"
    raise StageError(f"{name} has no version {number}; it has {have}\n  `busi versions` shows them")


def choose_to_show(name: str, number: int | None) -> ModelVersion:
    """The version with this number, or the newest that passed the gate, or the newest of all.

    Raises:
        StageError: there is no such version, or none at all.
    """
    if number is not None:
        return choose(name, number)
    found = versions.list_versions(name)
    if not found:
        raise StageError(f"{name} has no version\n  `busi run` registers one")
    passed = [version for version in found if version.tags.get("verdict") == gate.PASSED]
    return (passed or found)[0]


def production_of(name: str) -> ModelVersion | None:
    """The version that the alias `production` names; None where there is no alias, or where that version is gone."""
    number = versions.production_version(name)
    return next((found for found in versions.list_versions(name) if str(found.version) == number), None)
