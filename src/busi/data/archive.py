"""Reading a data set that somebody else packed: zips and folders in BUSI's layout, copied into a fresh folder.

A source is untrusted. It may hold `benign/ malignant/ normal/` directly or below folders that hold nothing else
(`Dataset_BUSI_with_GT/`), images with or without masks, and the `dataset.json` of an exported set. Only names,
kinds and sizes are judged here (`members`, `arrangement`); stage `validate` checks whether an image decodes.

Files are copied one by one to names that were taken apart and checked; no path of the source is ever written to.
"""

import io
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from busi.data.arrangement import arrange
from busi.data.companions import MAGIC_BYTES, content_kind, packed_as
from busi.data.description import read_description
from busi.data.layout import CLASSES
from busi.data.members import (
    LIMITS,
    BoundedFile,
    DamagedMember,
    Limits,
    Member,
    list_folder,
    list_zip,
    open_zip,
    read_member,
    total_faults,
)

PROBLEMS_SHOWN = 20
_LONGEST_DESCRIPTION = 4 << 20
_ZIP = b"PK\x03\x04"


class Collected(NamedTuple):
    """What `collect` copied: images a class, masks, bytes, junk left behind, the source's own `dataset.json`."""

    counts: dict[str, int]
    masks: int
    size: int
    ignored: tuple[str, ...]
    description: dict | None


def collect(source: Path, folder: Path, limits: Limits = LIMITS) -> Collected:
    """Check a zip or folder in BUSI's layout and copy its images and masks to `folder/<class>/<name>`.

    Args:
        source: a zip file or a folder; it is only read.
        folder: a path that does not exist yet. After an error it may hold a part; the caller removes it.
        limits: what the source may cost.

    Raises:
        ValueError: the source is not a zip, is damaged or malformed, or is not in BUSI's layout. All problems that
            can be seen together are listed, up to `PROBLEMS_SHOWN`, each with the member's name and the reason.
        OSError: `source` is missing or `folder` cannot be written.
    """
    with ExitStack() as stack:
        if source.is_dir():
            members, folders, problems = list_folder(source, limits)
        else:
            _refuse_other_kinds(source)
            file = stack.enter_context(BoundedFile(io.FileIO(source), limits.members))
            archive = stack.enter_context(open_zip(file, source.name))
            members, folders, problems = list_zip(archive, limits)
        problems += total_faults(members, source, limits)
        arranged = arrange([member.path for member in members] + folders)
        _refuse(source, [*problems, *arranged.problems])

        by_path = {member.path: member for member in members}
        description = None
        if arranged.description is not None:
            small = limits._replace(file_bytes=min(limits.file_bytes, _LONGEST_DESCRIPTION))
            try:
                description = read_description(b"".join(read_member(by_path[arranged.description], small)))
            except ValueError as error:
                raise ValueError(f"{source.name!r} can't be taken: {error}") from error
        folder.mkdir()
        for label in CLASSES:
            (folder / label).mkdir()
        files = {target: by_path[path] for target, path in arranged.files.items()}
        size = copy_members(source, files, folder, limits)
    return Collected(arranged.counts, arranged.masks, size, arranged.ignored, description)


def copy_members(source: Path, files: dict[str, Member], folder: Path, limits: Limits) -> int:
    """Copy each member to its target and give the number of bytes; damaged members are listed together."""
    total = 0
    problems: list[str] = []
    for target, member in tqdm(files.items(), desc="copying", unit="file", delay=3, leave=False):
        with (folder / target).open("xb") as writer:
            try:
                for chunk in read_member(member, limits):
                    total += len(chunk)
                    if total > limits.total_bytes:
                        _refuse(source, [f"its files come to more than {limits.total_bytes:,} bytes"])
                    writer.write(chunk)
            except DamagedMember as damage:
                problems.append(str(damage))
    _refuse(source, problems)
    return total


def _refuse_other_kinds(source: Path) -> None:
    """Refuse a file that its first bytes show to be something else than a zip, whatever its suffix says."""
    with source.open("rb") as file:
        head = file.read(MAGIC_BYTES)
    if packed_as(head) is not None:
        way_on = "unpack it and give the folder"
    elif not head.startswith(_ZIP) and content_kind(head) is not None:
        way_on = "give the zip or the folder with the images"
    else:
        return
    raise ValueError(
        f"{source.name!r} can't be taken: it is {content_kind(head)}; expected a zip or a folder\n  {way_on}"
    )


def _refuse(source: Path, problems: list[str]) -> None:
    if not problems:
        return
    shown = _grouped(problems)
    if len(shown) > PROBLEMS_SHOWN:
        shown = [*shown[:PROBLEMS_SHOWN], f"... and {len(shown) - PROBLEMS_SHOWN} more kinds or files"]
    raise ValueError(
        "\n  ".join(
            [
                f"{source.name!r} can't be taken: {len(problems)} problem{'s' * (len(problems) > 1)}",
                *shown,
                f"expected {', '.join(f'{label}/' for label in CLASSES)} with images and, optionally, their masks",
            ]
        )
    )


def _grouped(problems: list[str]) -> list[str]:
    """The problems in order; those of one reason as one line that counts them, once they are more than three."""
    by_reason: dict[str, list[str]] = {}
    for problem in problems:
        by_reason.setdefault(problem.rpartition("': ")[2], []).append(problem)
    lines = []
    for reason, same in by_reason.items():
        if len(same) <= 3:
            lines += same
        else:
            names = ", ".join(problem.removesuffix(f": {reason}") for problem in same[:3])
            lines.append(f"{len(same)} files: {reason} ({names}, ...)")
    return lines
