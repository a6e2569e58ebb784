"""What `dvc.yaml` says of the stages, in its order."""

from pathlib import Path

import yaml

from pipeline.paths import DVC_FILE


def read_stages(root: Path = Path()) -> dict[str, dict]:
    """Name to body of each stage in the `dvc.yaml` of the folder `root`, by default the working directory."""
    return yaml.safe_load((root / DVC_FILE).read_text(encoding="utf-8"))["stages"]


def outputs_of(body: dict) -> list[str]:
    """The paths that a stage declares as its outputs, metrics and plots."""
    listed = [*body.get("outs", []), *body.get("metrics", []), *body.get("plots", [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]
