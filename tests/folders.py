"""Folders as tests compare them: relative path to content."""

from collections.abc import Mapping
from pathlib import Path


def spread(root: Path, members: Mapping[str, bytes]) -> Path:
    """Write the files below `root`; returns `root`."""
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, searched recursively."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
