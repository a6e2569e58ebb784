"""Which part of a file is classified and shown, and the controls that choose it."""

from typing import NamedTuple

import numpy as np
import streamlit as st

from busi.data import images
from busi.reporting import viewing
from busi.serving import read_upload
from pipeline.serving.app.style import pieces

SCAN, WHOLE, BY_HAND = "Scan only", "Whole image", "By hand"
LEAST_SIDE = 16  # pixels that a crop keeps
OUTLINE_SIDE = 450  # pixels of the small picture with the crop drawn on it, at most


class Crop(NamedTuple):
    """How a file is cropped: one of `SCAN`, `WHOLE` and `BY_HAND`, and the box that was set by hand."""

    how: str
    box: viewing.Box | None = None


def box_of(preview, crop: Crop | None) -> viewing.Box | None:
    """The part of a file that is classified; None for all of it.

    Args:
        preview: the `state.Preview` of the file.
        crop: what the user chose; None for the proposed box of the scan.
    """
    if preview.size is None:
        return None
    box = {SCAN: preview.proposal, WHOLE: None, BY_HAND: crop.box if crop else None}[crop.how if crop else SCAN]
    return None if box == (0, 0, *preview.size) else box


def cropped(file, box: viewing.Box | None) -> bytes:
    """The encoded image to classify: the file as it came, or a PNG of its gray levels within the box.

    Gray levels are enough, because the network sees nothing else.
    """
    if box is None:
        return file.content
    left, top, right, bottom = box
    return viewing.png(images.to_gray(read_upload(file.content))[top:bottom, left:right])


def choose_crop(file, preview, gray: np.ndarray, crops: dict[str, Crop]) -> None:
    """Show the controls of the crop. A choice is in `crops`, by the file's key, before the page runs again.

    Args:
        file: the `state.File`, and `preview` its `state.Preview`.
        gray: its gray levels, uint8 (height, width).
        crops: the choices so far.
    """
    width, height = preview.size
    offered = [WHOLE, BY_HAND] if preview.proposal == (0, 0, width, height) else [SCAN, WHOLE, BY_HAND]
    now = crops.get(file.key, Crop(offered[0]))
    left, top, right, bottom = now.box or preview.proposal
    how, across, down = (f"{part}-{file.key}" for part in ("crop", "across", "down"))

    def choose() -> None:
        state = st.session_state
        chosen = state.get(across, (left, right)), state.get(down, (top, bottom))
        crops[file.key] = Crop(state[how], _at_least(*chosen, width, height) if state[how] == BY_HAND else None)

    with st.expander("Crop to the scan", expanded=now.how == BY_HAND):
        label = "Part to classify"
        st.segmented_control(label, offered, default=now.how, required=True, key=how, on_change=choose)
        if now.how == BY_HAND:
            st.slider("From left to right", 0, width, (left, right), key=across, on_change=choose)
            st.slider("From top to bottom", 0, height, (top, bottom), key=down, on_change=choose)
        box = box_of(preview, now)
        if box is not None:
            st.image(viewing.outlined(gray, box, OUTLINE_SIDE), width="stretch", output_format="PNG")
        st.html(pieces().about_crop())


def _at_least(across: tuple[int, int], down: tuple[int, int], width: int, height: int) -> viewing.Box:
    """The box of two ranges, widened to `LEAST_SIDE` where the image is that large."""

    def widened(start: int, end: int, side: int) -> tuple[int, int]:
        start = max(0, min(start, side - LEAST_SIDE))
        return start, min(side, max(end, start + LEAST_SIDE))

    (left, right), (top, bottom) = widened(*across, width), widened(*down, height)
    return left, top, right, bottom
