"""What a check yields, and the few words and calls that all checks share."""

import os
import subprocess
from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"
SECONDS = 5  # for a program to answer


class Finding(NamedTuple):
    level: str  # OK, NOTE or PROBLEM; a problem stops the pipeline
    what: str
    remedy: str = ""  # empty where nothing is to be done


def output(*command: str) -> subprocess.CompletedProcess:
    plain = os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=plain, check=False
    )


def first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)
