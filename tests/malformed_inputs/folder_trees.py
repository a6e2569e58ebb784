"""Malformed folders as a source of data."""

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from busi.data.layout import CLASSES
from tests.malformed_inputs.good_files import good_set, write_set
from tests.malformed_inputs.image_files import images


def folders(seed: int, count: int) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Malformed folders: what is wrong, and a function that writes the folder. Needs a system with links and pipes."""
    for number in range(count):
        rng = random.Random(f"folder {seed} {number}")
        mutate = rng.choice(_FOLDER_MUTATIONS)
        yield mutate.__name__.strip("_"), functools.partial(mutate, rng)


def _links(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    place = rng.choice(("benign", ".", "normal"))
    leads = rng.choice(("/", "/etc/passwd", "..", "../..", "benign (1).png", "nowhere", "/dev/zero", "/proc/self/mem"))
    (folder / place / rng.choice(("link.png", "link", "link_mask.png"))).symlink_to(leads)


def _class_that_is_a_link(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    (folder / rng.choice(("other", "Benign"))).symlink_to(rng.choice(("/", "benign", "..")))


def _pipe(rng: random.Random, folder: Path) -> None:
    import os

    write_set(folder)
    os.mkfifo(folder / "benign" / rng.choice(("pipe.png", "pipe", "benign (1)_mask_1.png")))


def _names_on_disk(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    name = rng.choice(
        (
            b"\xff.png",
            b"a\nb.png",
            b"\x1b[2J.png",
            b"BENIGN (1).PNG",
            b"x" * 251 + b".png",
            b"benign (1).jpg",
            "\u202e.png".encode(),
        )
    )
    (folder / "benign").joinpath(name.decode("utf-8", "surrogateescape")).write_bytes(good_set()[0][1])


def _malformed_images_on_disk(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    for case in images(rng.randrange(1 << 30), 5, heavy=False):
        (folder / rng.choice(CLASSES) / case.name).write_bytes(case.content)


def _folders_in_a_folder(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    deep = folder / "benign" / "/".join("d" * rng.choice((1, 40, 200)))
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(b"x")


_FOLDER_MUTATIONS = (
    _links,
    _class_that_is_a_link,
    _pipe,
    _names_on_disk,
    _malformed_images_on_disk,
    _folders_in_a_folder,
)
