"""Files that come along with a data set: skipped and counted, or refused by name; never part of the data."""

import io
import random
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from busi.data import archive
from busi.data.images import read_image
from busi.data.layout import CLASSES
from busi.data.listing import list_images

JUNK = (
    "__MACOSX/x.png", "._benign (1).png", ".DS_Store", "Thumbs.db", "Thumbs.db:encryptable", "ehthumbs.db",
    "desktop.ini", "x.png:Zone.Identifier", "x.pngZone.Identifier", "@eaDir/x.png", "$RECYCLE.BIN/x.png",
    "System Volume Information/a", ".fseventsd/a", ".Spotlight-V100/a", ".Trashes/x.png", ".TemporaryItems/a",
    ".ipynb_checkpoints/benign (1).png", ".git/HEAD", ".dvc/config", ".gitignore", ".gitkeep", ".nfs0001", ".~lock.a#",
    "~$a.xlsx", "lost+found/a", ".directory", ".idea/a", "__pycache__/a.pyc", "paper.pdf", "README", "README.md",
    "labels.csv", "labels.xlsx", "meta.json", "Icon\r", "papers/paper.pdf",
)  # fmt: skip


def _good() -> dict[str, bytes]:
    files = {}
    for number, label in enumerate(CLASSES):
        buffer = io.BytesIO()
        Image.new("L", (8, 8), number * 60).save(buffer, "PNG")
        files[f"{label}/{label} (1).png"] = files[f"{label}/{label} (1)_mask.png"] = buffer.getvalue()
    return files


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def _taken(source: Path, out: Path) -> dict[str, bytes]:
    archive.collect(source, out)
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wrapping", ["", "Dataset_BUSI_with_GT/", "archive/Dataset_BUSI_with_GT/"])
def test_junk_anywhere_changes_no_byte(tmp_path, seed, wrapping):
    rng = random.Random(seed)
    places = ["", wrapping, *(f"{wrapping}{label}/" for label in CLASSES)]
    files = {wrapping + name: content for name, content in _good().items()}
    files |= {rng.choice(places) + name: b"junk" for name in JUNK}
    assert _taken(_folder(tmp_path / "s", files), tmp_path / "a") == _good()
    assert _taken(_zip(tmp_path / "s.zip", files), tmp_path / "b") == _good()


def test_what_is_skipped_is_told(tmp_path):
    taken = archive.collect(_folder(tmp_path / "s", _good() | {"Thumbs.db": b"", "benign/a.pdf": b""}), tmp_path / "o")
    assert taken.ignored == ("Thumbs.db", "benign/a.pdf")


@pytest.mark.parametrize("name", ["benign/a.png.part", "benign/a.crdownload", "more.zip", "benign/more.rar"])
def test_what_may_hold_images_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        archive.collect(_folder(tmp_path / "s", _good() | {name: b"x"}), tmp_path / "o")


def test_links_to_files_are_copied_as_files(tmp_path):
    _folder(tmp_path / "cache", _good())
    for name in _good():
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).symlink_to(tmp_path / "cache" / name)
    assert _taken(tmp_path / "s", tmp_path / "o") == _good()
    assert not any(file.is_symlink() for file in (tmp_path / "o").rglob("*"))


@pytest.mark.parametrize("target", ["nowhere", "loop.png", ".", "/dev/zero"])
def test_other_links_are_refused(tmp_path, target):
    source = _folder(tmp_path / "s", _good())
    (source / "benign/loop.png").symlink_to(target)
    with pytest.raises(ValueError, match=r"benign/loop\.png.*symbolic link"):
        archive.collect(source, tmp_path / "o")


def test_backslashes_of_a_zip_are_separators(tmp_path):
    source = _zip(tmp_path / "s.zip", {f"a\\{name}".replace("/", "\\"): content for name, content in _good().items()})
    assert _taken(source, tmp_path / "o") == _good()


@pytest.mark.parametrize("name", ["..\\..\\x.png", "C:\\x.png", "\\x.png"])
def test_backslashes_lead_nowhere_else(tmp_path, name):
    with pytest.raises(ValueError, match=r"leads out|drive letter|absolute"):
        archive.collect(_zip(tmp_path / "s.zip", _good() | {name: b"x"}), tmp_path / "o")


@pytest.mark.parametrize(
    ("head", "kind"),
    [(b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07\x00", "RAR"), (b"\x1f\x8b\x08", "gzip"), (b"BZh9", "bzip2"),
     (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (bytes(257) + b"ustar", "tar")],
)  # fmt: skip
def test_other_packing_is_named_whatever_the_suffix(tmp_path, head, kind):
    (tmp_path / "s.zip").write_bytes(head + bytes(100))
    with pytest.raises(ValueError, match=kind):
        archive.collect(tmp_path / "s.zip", tmp_path / "o")


def test_many_problems_of_a_kind_take_one_line(tmp_path):
    source = _folder(tmp_path / "s", _good() | {f"benign/{number}.xyz": b"" for number in range(60)})
    with pytest.raises(ValueError, match=r"60 files: ") as refused:
        archive.collect(source, tmp_path / "o")
    assert len(str(refused.value).splitlines()) < 20


@pytest.mark.parametrize("name", ["readme/x.png", "more.json/x.png", "benign/notes.csv/x.png"])
def test_a_folder_named_like_a_document_is_not_skipped(tmp_path, name):
    for source in (_folder(tmp_path / "s", _good() | {name: b"x"}), _zip(tmp_path / "s.zip", _good() | {name: b"x"})):
        with pytest.raises(ValueError, match=name.rpartition("/")[0]):
            archive.collect(source, tmp_path / "o")


def test_a_description_in_a_tools_folder_is_skipped(tmp_path):
    assert _taken(_zip(tmp_path / "s.zip", _good() | {"__MACOSX/dataset.json": b"x"}), tmp_path / "o") == _good()


def test_a_packed_set_is_one_problem(tmp_path):
    with pytest.raises(ValueError, match="1 problem\n"):
        archive.collect(_folder(tmp_path / "s", {"inner.zip": b"x"}), tmp_path / "o")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"RIFF\0\0\0\0WEBPVP8 ", "WebP"), (b"GIF89a", "GIF"), (b"\0\0\0\x18ftypheic", "HEIC"), (b"%PDF-1.7", "PDF"),
     (bytes(128) + b"DICM", "DICOM"), (b"PK\x03\x04", "zip"), (b"7z\xbc\xaf\x27\x1c", "7z"),
     (b"<!DOCTYPE html>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS")],
)  # fmt: skip
def test_what_is_named_like_an_image_and_is_none_is_said(content, kind):
    with pytest.raises(ValueError, match=kind):
        read_image(content + bytes(300), "x.png")


def test_a_web_page_in_place_of_a_zip_is_named(tmp_path):
    (tmp_path / "s.zip").write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(ValueError, match="web page"):
        archive.collect(tmp_path / "s.zip", tmp_path / "o")


def test_a_set_that_is_not_sorted_by_class_is_one_problem(tmp_path):
    source = _folder(tmp_path / "s", {"images/a.png": b"x", "masks/a.png": b"x", "LICENSE.txt": b"x"})
    with pytest.raises(ValueError, match=r"1 problem\n.*'images', 'masks'"):
        archive.collect(source, tmp_path / "o")


def test_what_tools_leave_in_the_data_later_is_no_folder_of_images(tmp_path):
    left = {"benign/.ipynb_checkpoints/a.png": b"x", "@eaDir/a.png": b"x", "benign/._benign (1).png": b"x"}
    images, problems = list_images(_folder(tmp_path / "data", _good() | left))
    assert [image.name for image in images] == ["benign (1).png", "malignant (1).png", "normal (1).png"]
    assert {problem.path for problem in problems} == {
        "benign/.ipynb_checkpoints/",
        "@eaDir/",
        "benign/._benign (1).png",
    }
    assert {problem.kind for problem in problems} == {"other_file"}


def test_what_systems_leave_in_the_data_is_no_change_to_dvc():
    from pathspec import PathSpec

    lines = (Path(__file__).resolve().parents[2] / ".dvcignore").read_text().splitlines()
    ignored = PathSpec.from_lines("gitwildmatch", lines)
    left = (
        ".DS_Store",
        "benign/.DS_Store",
        "benign/._x.png",
        "Thumbs.db",
        "normal/.ipynb_checkpoints/x.png",
        "@eaDir/x",
    )
    assert all(ignored.match_file(f"data/{name}") for name in left)
    assert not any(ignored.match_file(f"data/{name}") for name in [*_good(), "dataset.json"])
