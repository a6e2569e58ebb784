"""What a session remembers: the files on the page, and what the model said of each.

Everything here is kept by the sha256 of a file's bytes, so that the same file is read and classified once.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import streamlit as st

from busi.data import images
from busi.reporting import viewing
from busi.serving import read_upload
from pipeline.serving.app.crop import Crop, box_of, cropped

AT_ONCE = 8  # files between two steps of the progress bar
THUMBNAIL_SIDE = 72  # pixels, at most


class File(NamedTuple):
    """One file as it came: `name` fit for one line of text, and `key`, the sha256 of its bytes."""

    name: str
    content: bytes
    key: str


class Preview(NamedTuple):
    """What is known of a file before it is classified. All fields are None where it can't be read.

    `size` is (width, height) in pixels, `proposal` the box of its scan, `thumbnail` a small picture as a data URL.
    """

    size: tuple[int, int] | None = None
    proposal: viewing.Box | None = None
    thumbnail: str | None = None


def file_of(name: str, content: bytes) -> File:
    return File(images.printable(name), content, hashlib.sha256(content).hexdigest())


def preview_of(file: File) -> Preview:
    try:
        gray = images.to_gray(read_upload(file.content))
    except ValueError:
        return Preview()  # the classifier says why
    small = viewing.png(viewing.shrink(gray, THUMBNAIL_SIDE))
    thumbnail = f"data:image/png;base64,{base64.b64encode(small).decode()}"
    return Preview((gray.shape[1], gray.shape[0]), viewing.scan_box(gray), thumbnail)


def remembered(name: str, files: list[File]) -> dict:
    """The session's dictionary of that name, by a file's key, without the files that left the page."""
    keys = {file.key for file in files}
    known = st.session_state.get(name, {})
    st.session_state[name] = {key: value for key, value in known.items() if key in keys}
    return st.session_state[name]


def classify(served, files: list[File], previews: dict[str, Preview], crops: Mapping[str, Crop]) -> list[dict]:
    """A row of `ImageClassifier.predict` for each file as it is cropped, from memory where it is known.

    Args:
        served: the `Production` version.
        previews: by a file's key; those that are missing are added.
        crops: by a file's key.
    """
    version, known = served.classifier.version, st.session_state.get("answers", {})
    for file in files:
        if file.key not in previews:
            previews[file.key] = preview_of(file)
    wanted = {file.key: (version, file.key, box_of(previews[file.key], crops.get(file.key))) for file in files}
    known = st.session_state.answers = {key: known[key] for key in wanted.values() if key in known}
    missing = [file for file in {file.key: file for file in files}.values() if wanted[file.key] not in known]
    with st.spinner("Classifying"), st.empty():
        for start in range(0, len(missing), AT_ONCE):
            if len(missing) > AT_ONCE:
                st.progress(start / len(missing), f"{start} of {len(missing)} files")
            part = missing[start : start + AT_ONCE]
            answers = served.classifier.predict([cropped(file, wanted[file.key][2]) for file in part])
            known |= zip([wanted[file.key] for file in part], answers.to_dict(orient="records"), strict=True)
    return [known[wanted[file.key]] for file in files]
