"""Untrusted zips and folders: what `busi.data.archive` takes, what it refuses, and that it names member and reason."""

import io
import json
import os
import re
import stat
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busi.data import archive, members
from busi.data.archive import collect
from busi.data.arrangement import arrange
from busi.data.description import read_description
from busi.data.members import LIMITS, Limits, Member
from tests.folders import spread, tree

GOOD = {
    "benign/benign (1).png": b"b1",
    "benign/benign (1)_mask.png": b"m1",
    "benign/benign (1)_mask_1.png": b"m2",
    "malignant/malignant (1).png": b"a1",
    "normal/normal (1).png": b"n1",
}


def pack(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip whose names go in as they are, with no help from zipfile."""
    with zipfile.ZipFile(path, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members.items():
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = compression
            file.writestr(info, content)
    return path


def refused(source: Path, folder: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(ValueError) as caught:
        collect(source, folder, limits)
    return str(caught.value)


def problems(*extra: str, drop: str = "") -> str:
    return "\n".join(arrange([name for name in GOOD if name != drop] + list(extra)).problems)


@pytest.mark.parametrize("wrapper", ["", "Dataset_BUSI_with_GT/", "any name/Dataset_BUSI_with_GT/"])
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_takes_the_set_with_and_without_wrapping_folders(tmp_path, wrapper, form):
    members = {wrapper + name: content for name, content in GOOD.items()}
    source = pack(tmp_path / "s.zip", members) if form == "zip" else spread(tmp_path / "s", members)
    taken = collect(source, tmp_path / "out")
    assert tree(tmp_path / "out") == GOOD
    assert taken == archive.Collected({"benign": 1, "malignant": 1, "normal": 1}, 2, 10, (), None)


def test_takes_a_set_without_masks_and_with_folder_entries(tmp_path):
    members = {name: content for name, content in GOOD.items() if "mask" not in name}
    source = pack(tmp_path / "s.zip", {"set/": b"", "set/benign/": b""} | {f"./set/{n}": c for n, c in members.items()})
    assert collect(source, tmp_path / "out").masks == 0
    assert tree(tmp_path / "out") == members


@pytest.mark.parametrize("name", ["benign/Zyste links ä ö ü ß.png", 'benign/a\'b, "c".JPG', "benign/超音波 (1).tiff"])
def test_takes_any_printable_name(tmp_path, name):
    collect(pack(tmp_path / "s.zip", GOOD | {name: b"x"}), tmp_path / "out")
    assert tree(tmp_path / "out") == GOOD | {name: b"x"}


def test_reads_utf8_names_that_macos_writes_without_saying_so(tmp_path):
    source = pack(tmp_path / "s.zip", GOOD | {"benign/qq.png": b"x"})
    source.write_bytes(source.read_bytes().replace(b"qq.png", "ü.png".encode()))
    collect(source, tmp_path / "out")
    assert (tmp_path / "out/benign/ü.png").read_bytes() == b"x"


def test_well_known_junk_is_left_behind_and_reported(tmp_path):
    junk = [
        "__MACOSX/set/._benign",
        "set/.DS_Store",
        "set/benign/Thumbs.db",
        "set/benign/._benign (1).png",
        "desktop.ini",
        "set/benign/notes.TXT",
        "set/README.md",
    ]
    members = {f"set/{name}": content for name, content in GOOD.items()} | dict.fromkeys(junk, b"")
    for source in (pack(tmp_path / "s.zip", members), spread(tmp_path / "s", members)):
        taken = collect(source, tmp_path / f"out-{source.name}")
        assert tree(tmp_path / f"out-{source.name}") == GOOD
        assert {path for path in taken.ignored if not path.endswith("/")} >= set(junk) - {junk[0]}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["cancer/x.png"], "'cancer': unknown class folder"),
        (["cancer/"], "'cancer': unknown class folder"),
        (["Benign/x.png"], "'Benign': unknown class folder"),
        (["benign/deep/x.png"], "'benign/deep': a folder inside a class folder"),
        (["benign/deep/"], "'benign/deep': a folder inside a class folder"),
        (["README.xyz"], "'README.xyz': lies outside the class folders"),
        (["benign/notes.xyz"], "'benign/notes.xyz': not an image"),
        (["benign/.png"], "'benign/.png': not an image"),
        (["benign/benign (9)_mask.png"], "'benign/benign (9)_mask.png': a mask without its image 'benign (9)'"),
        (["malignant/benign (1)_mask.png"], "a mask without its image"),
        (["benign/benign (1)_mask_0.png"], "looks like a mask"),
        (["benign/benign (1)_Mask.png"], "looks like a mask"),
        (["benign/benign (1).jpg"], "'benign/benign (1).png': has the same stem as 'benign/benign (1).jpg'"),
        (["benign/BENIGN (1).png"], "a name that differs only by case"),
        (["benign/ä.png", "benign/a\u0308.png"], "the same stem"),
        (["malignant/benign (3).png"], "'malignant/benign (3).png': named benign but lies in malignant/"),
        (["benign/a\nb.png"], r"'benign/a\nb.png': a control character"),
        (["benign/a\0b.png"], r"'benign/a\x00b.png': a control character"),
        (["benign/a\u202eb.png"], r"'benign/a\u202eb.png': a control character"),
        (["benign/a\udcffb.png"], r"'benign/a\udcffb.png': its name is not valid UTF-8"),
        (["benign/" + "ü" * 128 + ".png"], "260 bytes; at most 255"),
        (["../evil.png"], "'../evil.png': its path leads out"),
        (["benign/../../evil.png"], "leads out"),
        (["/etc/evil.png"], "'/etc/evil.png': an absolute path"),
        (["C:/evil.png"], "'C:/evil.png': a drive letter"),
        (["c:evil.png"], "a drive letter"),
        (["benign\\evil.png"], r"'benign\\evil.png': a backslash"),
        (["\\\\server\\evil.png"], "a backslash"),
        (["benign//evil.png"], "an empty name"),
        ([""], "'': an empty name"),
        (["benign/benign (1).png"], "'benign/benign (1).png': appears twice"),
        (["./benign/benign (1).png"], "appears twice"),
        (["benign/benign (1).png/"], "appears twice"),
    ],
)
def test_each_fault_of_a_name_is_named(extra, expected):
    assert problems() == ""
    assert expected in problems(*extra)


@pytest.mark.parametrize("label", ["malignant", "normal"])
def test_an_empty_class_is_named(label):
    assert problems(drop=f"{label}/{label} (1).png") == f"'{label}': no image of this class"
    assert problems(f"{label}/", drop=f"{label}/{label} (1).png") == f"'{label}': no image of this class"


def test_problems_of_one_reason_are_counted(tmp_path):
    message = refused(spread(tmp_path / "s", GOOD | {f"benign/{n:02}.xyz": b"" for n in range(30)}), tmp_path / "out")
    assert "30 problems" in message
    assert "30 files: not an image" in message
    assert [f"benign/{n:02}.xyz" in message for n in range(30)] == [True] * 3 + [False] * 27
    assert not (tmp_path / "out").exists()


# Zips


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (stat.S_IFLNK | 0o777, "a symbolic link"),
        (stat.S_IFIFO | 0o644, "neither a file nor a folder"),
        (stat.S_IFCHR | 0o644, "neither a file nor a folder"),
        (stat.S_IFSOCK | 0o644, "neither a file nor a folder"),
        (stat.S_IFDIR | 0o755, "neither a file nor a folder"),
    ],
)
def test_links_and_special_members_of_a_zip_are_refused(tmp_path, mode, expected):
    source = pack(tmp_path / "s.zip", GOOD)
    with zipfile.ZipFile(source, "a") as file:
        info = zipfile.ZipInfo("benign/benign (2).png")
        info.external_attr = mode << 16
        file.writestr(info, "/etc/passwd")
    assert f"'benign/benign (2).png': {expected}" in refused(source, tmp_path / "out")


def central(content: bytes, name: bytes) -> int:
    """Offset of a member's record in the directory of a zip."""
    at = content.rindex(name) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    return at


def patched(source: Path, name: bytes, field: int, value: bytes) -> Path:
    content = bytearray(source.read_bytes())
    at = central(bytes(content), name) + field
    content[at : at + len(value)] = value
    source.write_bytes(bytes(content))
    return source


def test_encrypted_members_are_refused(tmp_path):
    source = patched(pack(tmp_path / "s.zip", GOOD), b"normal/normal (1).png", 8, b"\x01")
    assert "'normal/normal (1).png': encrypted" in refused(source, tmp_path / "out")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compression_is_refused(tmp_path, compression):
    message = refused(pack(tmp_path / "s.zip", GOOD, compression), tmp_path / "out")
    assert f"compression method {compression}" in message


def test_duplicate_members_are_refused(tmp_path):
    source = pack(tmp_path / "s.zip", GOOD)
    with zipfile.ZipFile(source, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("normal/normal (1).png", b"other")
    assert "'normal/normal (1).png': appears twice" in refused(source, tmp_path / "out")


def test_corrupt_members_are_named_together(tmp_path):
    source = pack(tmp_path / "s.zip", GOOD, zipfile.ZIP_STORED)
    content = source.read_bytes()
    for old, new in ((b"a1", b"zz"), (b"n1", b"zz")):
        content = content.replace(old, new)
    source.write_bytes(content)
    message = refused(source, tmp_path / "out")
    assert "2 problems" in message
    assert "'malignant/malignant (1).png': Bad CRC-32" in message
    assert "'normal/normal (1).png': Bad CRC-32" in message


def test_a_header_that_lies_about_the_size_is_caught(tmp_path):
    source = pack(tmp_path / "s.zip", GOOD | {"benign/big.png": bytes(3 << 20)})
    source = patched(source, b"benign/big.png", 24, struct.pack("<L", 100))
    assert "'benign/big.png': Bad CRC-32" in refused(source, tmp_path / "out")
    assert (tmp_path / "out/benign/big.png").stat().st_size <= 100


def test_bombs_are_refused_before_anything_is_written(tmp_path):
    source = pack(tmp_path / "s.zip", GOOD | {"benign/bomb.png": bytes(8 << 20)})
    assert "'benign/bomb.png'" in (message := refused(source, tmp_path / "out"))
    assert "zip bomb" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_limits_hold_for_zips_and_folders(tmp_path, form):
    members = GOOD | {"benign/big.png": os.urandom(5000)}
    source = pack(tmp_path / "s.zip", members) if form == "zip" else spread(tmp_path / "s", members)
    roomy = Limits(total_bytes=6000, file_bytes=5000, members=20)
    collect(source, tmp_path / "fits", roomy)
    assert "'benign/big.png': 5,000 bytes; at most 4,999" in refused(
        source, tmp_path / "a", roomy._replace(file_bytes=4999)
    )
    assert "5,010 bytes; at most 5,009" in refused(source, tmp_path / "b", roomy._replace(total_bytes=5009))
    assert re.search("(more than|at most) 5 ", refused(source, tmp_path / "c", roomy._replace(members=5)))
    assert not list(tmp_path.glob("[abc]"))


def test_a_directory_that_would_fill_the_memory_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "_LONGEST_READ", 200)
    assert "its directory takes" in refused(pack(tmp_path / "s.zip", GOOD), tmp_path / "out")


@pytest.mark.parametrize(("packed", "expected"), [(None, "at most 4,000"), (20, "zip bomb")])
def test_the_bytes_that_come_out_count_not_the_declared_ones(packed, expected):
    limits = Limits(file_bytes=4000, ratio=10, expanded_bytes=100)
    member = Member("m", 10, packed, lambda: io.BytesIO(bytes(5000)))
    limits = limits if packed is None else limits._replace(file_bytes=10_000)
    with pytest.raises(ValueError, match=expected):
        list(members.read_member(member, limits))


def test_the_bytes_of_all_members_count_too(tmp_path):
    (tmp_path / "benign").mkdir()
    member = Member("m", 10, None, lambda: io.BytesIO(bytes(600)))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        archive.copy_members(tmp_path, {"benign/a": member, "benign/b": member}, tmp_path, Limits(total_bytes=1000))


def test_a_name_that_goes_on_after_a_nul_is_refused(tmp_path):
    source = pack(tmp_path / "s.zip", GOOD | {"benign/x.png\0.exe": b"x"})
    assert r"'benign/x.png\x00.exe': a control character" in refused(source, tmp_path / "out")


def test_an_undecodable_member_name_is_refused(tmp_path):
    source = pack(tmp_path / "s.zip", GOOD | {"benign/ü.png": b"x"})
    source.write_bytes(source.read_bytes().replace("ü".encode(), b"\xff\xfe"))
    assert r"b'benign/\xff\xfe.png'" in refused(source, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(50), b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_not_a_zip_is_refused(tmp_path, content):
    (tmp_path / "s.zip").write_bytes(content)
    assert "'s.zip' can't be taken: not a zip, or a damaged one" in refused(tmp_path / "s.zip", tmp_path / "out")


def test_an_empty_zip_and_an_empty_folder_lack_every_class(tmp_path):
    (tmp_path / "s").mkdir()
    for source in (pack(tmp_path / "s.zip", {}), tmp_path / "s"):
        message = refused(source, tmp_path / "out")
        assert all(f"'{label}': no image" in message for label in ("benign", "malignant", "normal"))


def test_a_missing_source_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        collect(tmp_path / "nothing.zip", tmp_path / "out")


NAMES = st.one_of(
    st.sampled_from([*GOOD, "../e.png", "/e.png", "benign/../../e.png", "C:\\e.png", "benign/./e.png", "..", "/", "."]),
    st.text(st.sampled_from("./\\:\0\n ab_mask1").map(str), max_size=24),
    st.builds("{}/{}".format, st.sampled_from(["benign", "normal"]), st.text(st.characters(exclude_categories=["Cs"]))),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=4), max_size=4))
def test_no_name_ever_writes_outside_the_folder(extra):
    with tempfile.TemporaryDirectory() as place:
        inner = Path(place) / "a/b/c"
        inner.mkdir(parents=True)
        source = pack(inner / "s.zip", GOOD | extra)
        try:
            collect(source, inner / "out")
        except ValueError:
            pass
        else:
            assert set(tree(inner / "out")) >= set(GOOD)
        written = set(tree(Path(place))) - {"a/b/c/s.zip"}
        assert all(re.fullmatch(r"a/b/c/out/(benign|malignant|normal)/[^/]+", name) for name in written), written


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_zip_gives_a_value_error_or_the_true_files(data):
    with tempfile.TemporaryDirectory() as place:
        source = pack(Path(place) / "s.zip", GOOD)
        content = bytearray(source.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        source.write_bytes(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
        try:
            collect(source, Path(place) / "out")
        except ValueError:
            return
        # A name may have changed into another allowed one; the bytes are held by their CRC
        assert set(tree(Path(place) / "out").values()) <= set(GOOD.values()) | {b""}


# Folders


def test_links_and_special_files_of_a_folder_are_refused(tmp_path):
    source = spread(tmp_path / "s", GOOD)
    (source / "benign/link.png").symlink_to(tmp_path / "missing.png")
    (source / "other").symlink_to(tmp_path)
    os.mkfifo(source / "normal/pipe.png")
    message = refused(source, tmp_path / "out")
    assert "'benign/link.png': a symbolic link" in message
    assert "'other': a symbolic link" in message
    assert "'normal/pipe.png': neither a file nor a folder" in message


def test_undecodable_file_names_of_a_folder_are_refused(tmp_path):
    source = spread(tmp_path / "s", GOOD)
    (source / os.fsdecode(b"benign/\xff.png")).write_bytes(b"x")
    (source / "benign/a\nb.png").write_bytes(b"x")
    message = refused(source, tmp_path / "out")
    assert r"'benign/\udcff.png': its name is not valid UTF-8" in message
    assert r"'benign/a\nb.png': a control character" in message


def test_the_source_is_only_read(tmp_path):
    source = spread(tmp_path / "s", GOOD)
    collect(source, tmp_path / "out")
    (tmp_path / "out/benign/benign (1).png").write_bytes(b"changed")
    assert tree(source) == GOOD


# dataset.json of an exported set

DESCRIPTION = {"name": "mine", "synthetic": True, "source": "here", "licence": "CC0", "planted": {"twins": 3}}


def test_the_description_of_an_exported_set_is_kept_but_not_its_counts(tmp_path):
    content = json.dumps(DESCRIPTION | {"counts": {"benign": 99}, "masks": 99}).encode()
    taken = collect(pack(tmp_path / "s.zip", GOOD | {"dataset.json": content}), tmp_path / "out")
    assert taken.description == DESCRIPTION
    assert taken.counts["benign"] == 1
    assert tree(tmp_path / "out") == GOOD


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"synthetic": "false"}, "synthetic: received 'false', expected bool"),
        ({"synthetic": 0}, "synthetic: received 0, expected bool"),
        ({"synthetic": None}, "synthetic: received None"),
        ({"synthetic": False}, "lists planted defects"),
        ({"name": 3}, "name: received 3, expected str"),
        ({"name": ""}, "name: an empty name"),
        ({"name": "a\nb"}, "name: a control character"),
        ({"planted": []}, "planted: received"),
        ({"verdict": "fine"}, "'verdict': unknown key"),
    ],
)
def test_a_description_that_cannot_be_trusted_is_refused(change, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_description(json.dumps(DESCRIPTION | change).encode())


def test_a_phantom_cannot_call_itself_real():
    real = {"name": "phantom", "synthetic": False, "source": "x", "licence": "x"}
    with pytest.raises(ValueError, match="expected true"):
        read_description(json.dumps(real).encode())
    assert read_description(json.dumps(real | {"name": "hospital"}).encode())["synthetic"] is False


@pytest.mark.parametrize("key", ["name", "synthetic", "source", "licence"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ValueError, match=f"{key}: missing"):
        read_description(json.dumps({k: v for k, v in DESCRIPTION.items() if k != key}).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"name": NaN}', b"[]", b"3"])
def test_what_is_not_a_description_is_refused(content):
    with pytest.raises(ValueError, match=r"dataset\.json of the source"):
        read_description(content)
