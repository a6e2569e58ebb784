"""Saving and loading of Keras models: equal weights give equal bytes, and a file can't run code."""

import json
import os
import re
import tempfile
import zipfile
from pathlib import Path

from busi.backend import keras


def save_model(model: keras.Model, path: Path) -> None:
    """Save in Keras' native format, so that the same weights give the same bytes.

    Keras writes the date into the archive and its metadata, and memory addresses as ids of shared objects into the
    configuration; dates become constants here, and ids count from one.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.keras"
        model.save(raw)
        with zipfile.ZipFile(raw) as source, zipfile.ZipFile(Path(folder) / "model.keras", "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    metadata = json.loads(content) | {"date_saved": "1980-01-01@00:00:00"}
                    content = json.dumps(metadata, sort_keys=True).encode()
                elif name == "config.json":
                    content = _number_shared_objects(content.decode()).encode()
                target.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)
        os.replace(Path(folder) / "model.keras", path)


def load_model(path: Path) -> keras.Model:
    """Load a model saved by `save_model`, in safe mode: a file that carries code is refused with a ValueError."""
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, int] = {}

    def number(found: re.Match) -> str:
        return f"{found[1]}{numbers.setdefault(found[2], len(numbers) + 1)}"

    return re.sub(r'("shared_object_id": )(\d+)', number, config)
