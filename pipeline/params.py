"""The one reader of `params.yaml`: strict, so that a typo stops the run and no number has a default in Python.

Each class below is one section; a stage declares the sections it takes in `dvc.yaml`.
"""

import io
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.paths import PARAMS
from pipeline.runtime.atomic_io import write_text
from pipeline.runtime.errors import StageError

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Phantom(Section):
    benign: Count
    malignant: Count
    normal: Count
    seed: Seed


class Data(Section):
    phantom: Phantom


class Validate(Section):
    min_side: Count
    max_side: Count

    @model_validator(mode="after")
    def sides_are_in_order(self):
        if self.min_side > self.max_side:
            raise ValueError(f"min_side {self.min_side} is larger than max_side {self.max_side}")
        return self


class Split(Section):
    train: Fraction
    val: Fraction
    test: Fraction
    folds: Annotated[int, Field(ge=2)] | None
    fold: Annotated[int, Field(ge=0)] | None
    seed: Seed

    @model_validator(mode="after")
    def a_fold_is_one_of_the_folds(self):
        if (self.folds is None) != (self.fold is None):
            raise ValueError(f"folds {self.folds} and fold {self.fold}: give both, or null for both")
        if self.folds is not None:
            if self.fold >= self.folds:
                raise ValueError(f"fold must be 0 to {self.folds - 1} with {self.folds} folds, got {self.fold}")
            if abs(self.test - 1 / self.folds) > 1e-6:
                raise ValueError(f"test must be 1 / folds = {1 / self.folds:.6g}, got {self.test:g}")
        return self

    @model_validator(mode="after")
    def parts_make_one(self):
        if abs(self.train + self.val + self.test - 1) > 1e-9:
            raise ValueError(f"train + val + test must be 1, got {self.train + self.val + self.test:g}")
        return self


class Augmentation(Section):
    max_rotation: Annotated[float, Field(ge=0, le=180)]
    max_zoom: Annotated[float, Field(ge=0, lt=1)]
    max_shift: Annotated[float, Field(ge=0, lt=1)]
    max_gain: Annotated[float, Field(ge=0, le=255)]
    max_contrast: Annotated[float, Field(ge=0, lt=1)]
    max_depth_gain: Annotated[float, Field(ge=0, le=255)]


class Featurize(Section):
    image_size: Annotated[int, Field(ge=32, le=1024)]
    weights: str
    boundary: str
    views: Annotated[int, Field(ge=0)]
    precision: Literal["float32", "bfloat16"]
    seed: Seed
    augmentation: Augmentation


class Train(Section):
    batch_size: Annotated[int, Field(ge=2)]
    head_epochs: Annotated[int, Field(ge=0)]
    tail_epochs: Annotated[int, Field(ge=0)]
    head_learning_rate: Rate
    tail_learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    patience: Count
    seed: Seed

    @model_validator(mode="after")
    def something_is_trained(self):
        if self.head_epochs + self.tail_epochs == 0:
            raise ValueError("head_epochs and tail_epochs are both 0, so nothing would be trained")
        return self


class Evaluate(Section):
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Fraction
    target_sensitivity: Fraction
    max_threshold: Fraction
    accepted_inputs: Annotated[float, Field(gt=0, le=1)]
    known_images: Annotated[int, Field(ge=2)]
    explained_images: Count
    smoke_images: Count
    audit_random_split: bool
    seed: Seed


class Gate(Section):
    accuracy: Fraction | None
    accuracy_lower_bound: Fraction | None
    malignant_sensitivity: Fraction | None
    expected_calibration_error: Fraction | None
    slices: Fraction | None

    @model_validator(mode="after")
    def a_rule_is_on(self):
        if all(threshold is None for threshold in dict(self).values()):
            raise ValueError("every rule is off (null), so nothing would be decided; give one a threshold")
        return self


class Register(Section):
    gate_slice_images: Count
    gate: Gate


class Promote(Section):
    smoke: bool
    unaltered: bool
    not_worse_than_production: Annotated[float, Field(ge=-1, le=1)] | None


class Flow(Section):
    retries: Annotated[int, Field(ge=0)]
    retry_seconds: Count
    timeout: dict[str, Count]


class Kubeflow(Section):
    cpu: Count
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*(M|G|Mi|Gi)$")]
    retries: Annotated[int, Field(ge=0)]
    backoff: Count


class Params(Section):
    data: Data
    validate_: Annotated[Validate, Field(alias="validate")]
    split: Split
    featurize: Featurize
    train: Train
    evaluate: Evaluate
    register_: Annotated[Register, Field(alias="register")]
    promote: Promote
    flow: Flow
    kubeflow: Kubeflow

    def of_training(self) -> dict:
        """The sections that decide a trained model, as its MLflow run records them; the others may change later."""
        return self.model_dump(include={"split", "featurize", "train"})


def read_params(path: Path = PARAMS) -> Params:
    """Read and check the whole file.

    Raises:
        StageError: the file is missing, is not YAML, or has an unknown, missing or mistyped key; every such
            key is named with what was received and what was expected.
    """
    if not path.is_file():
        raise StageError(f"{path} not found in {Path.cwd()}\n  run in the root of the repository")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"{path} is not valid YAML: {error}") from error
    return _check(text, str(path))


def override(changes: Mapping[str, object], path: Path = PARAMS) -> None:
    """Write values into the file as if it had been edited by hand: comments stay. Arguments and errors as `overridden`.

    After an error the file is as it was.
    """
    write_text(path, overridden(changes, path))


def overridden(changes: Mapping[str, object], path: Path = PARAMS) -> str:
    """The file's text with other values, checked.

    Args:
        changes: dotted key to value, `{"train.seed": 3}`.

    Raises:
        StageError: as `read_params`, before or after the change.
    """
    from ruamel.yaml import YAML  # the YAML library that DVC edits with; it keeps comments

    read_params(path)
    editor = YAML()
    editor.width = 1000
    # By default it writes a null as nothing, also on lines that do not change
    editor.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    values = editor.load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise StageError(f"{key}: {path} has no section {'.'.join(sections)!r}; docs/parameters.md lists them all")
        # As PyYAML, which reads the file, spells it: 1.0e-05. The editor would write 1e-05, which is text to PyYAML
        place[name] = editor.load(yaml.safe_dump({name: value}))[name]
    text = io.StringIO()
    editor.dump(values, text)
    _check(text.getvalue(), f"{path} with {', '.join(f'{key}={value!r}' for key, value in changes.items())}")
    return text.getvalue()


def _check(text: str, source: str) -> Params:
    try:
        return Params.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise StageError(f"{source} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise StageError("\n".join([f"{source} is not valid", *map(_explain, error.errors())])) from error


def _explain(problem: dict) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            return f"  {key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"  {key}: missing key; add it (docs/parameters.md lists them all)"
        case _:
            said = problem["msg"].removeprefix("Value error, ")
            return f"  {key}: {said}; received {reprlib.repr(problem['input'])[:200]}"
