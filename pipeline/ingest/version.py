"""The version of `data/` that `data.dvc` names, and how what is in `data/` differs from it."""

import hashlib
import json
from pathlib import Path

import yaml

from pipeline.ingest import dvc_command
from pipeline.paths import DATA_DVC
from pipeline.runtime.atomic_io import write_text
from pipeline.runtime.errors import StageError


def read_version() -> tuple[str, str] | None:
    """(set name, md5) that `data.dvc` names; the name is empty where none was noted; None without `data.dvc`.

    The name was noted together with the md5 it is of: DVC keeps `meta` when it writes another md5 beside it.
    """
    if not DATA_DVC.exists():
        return None
    try:
        value = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))
        md5, meta = value["outs"][0]["md5"], value.get("meta") or {}
        return meta.get("name", "") if meta.get("md5") == md5 else "", md5
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise StageError(
            f"{DATA_DVC} is not a file of DVC ({type(error).__name__}: {error})\n"
            f"  restore it (`git checkout {DATA_DVC}`) or remove it, and repeat"
        ) from error


def note_name(name: str) -> None:
    """Write the set's name into `data.dvc`, where DVC keeps it, so that a clone knows what the md5 stands for."""
    value = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))
    meta = {"name": name, "md5": value["outs"][0]["md5"]}
    if value.get("meta") != meta:
        write_text(DATA_DVC, yaml.safe_dump(value | {"meta": meta}, sort_keys=False, allow_unicode=True))


def difference() -> str:
    """How `data/` differs from `data.dvc` and DVC's cache, in DVC's words (modified, not in cache), or nothing."""
    done = dvc_command.dvc("status", "--json", str(DATA_DVC))
    if done.returncode:
        raise StageError(f"dvc status failed\n  {dvc_command.own_words(done)}")
    changes = json.loads(done.stdout).get(str(DATA_DVC), [])
    return ", ".join(word for change in changes for outs in change.values() for word in outs.values())


def is_cached(folder: Path) -> bool:
    """Whether DVC's cache holds every file of a folder, so that none is lost with it, whatever `data.dvc` names."""
    cache = _cache()
    for file in (path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "md5").hexdigest()
        if not (cache / digest[:2] / digest[2:]).is_file():
            return False
    return True


def is_listed(md5: str) -> bool:
    """Whether DVC's cache holds the list of a version's files, so that DVC needs no remote to know them."""
    return (_cache() / md5[:2] / md5[2:]).is_file()


def has_content(folder: Path) -> bool:
    """Whether a folder is there and not empty. Raises StageError for a file."""
    if folder.exists() and not folder.is_dir():
        raise StageError(f"{folder} is a file; expected a folder or nothing\n  move it away and repeat")
    return folder.is_dir() and any(folder.iterdir())


def _cache() -> Path:
    return Path(dvc_command.dvc("cache", "dir").stdout.strip()) / "files" / "md5"
