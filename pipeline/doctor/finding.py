"""What a check yields, and the few words that all checks share."""

from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"


class Finding(NamedTuple):
    level: str  # OK, NOTE or PROBLEM; a problem stops the pipeline
    what: str
    remedy: str = ""  # empty where nothing is to be done


def first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)
