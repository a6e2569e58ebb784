"""Draws the heat map over the picture. The colours are those of `busi.reporting.viewing`."""

import numpy as np
import streamlit as st

from busi.data.layout import CLASSES
from busi.reporting import viewing
from pipeline.serving.app.crop import cropped
from pipeline.serving.app.state import File
from pipeline.serving.app.style import pieces


@st.fragment
def show_heat_map(served, file: File, box: viewing.Box | None, shown: np.ndarray, label: str) -> None:
    """The picture under its heat map, with its opacity and class to choose. Changing these runs this function only.

    Args:
        served: the `Production` version.
        file: the image, and `box` the part of it that is classified, None for all of it.
        shown: that part as it is shown, uint8 (height, width).
        label: the class that was found, whose heat map comes first.
    """
    picture = st.empty()
    st.html(pieces().legend(viewing.RAMP))
    opacity = st.slider("Opacity of the heat map", 0, 100, 50, 5, format="%d%%", key="opacity")
    explained = st.segmented_control(
        "Heat map of", CLASSES, default=label, required=True, key=f"explained-{file.key}-{label}"
    )
    heat = heat_map(served, file, box, shown.shape, explained)
    picture.image(viewing.blend(shown, heat, opacity / 100), width="stretch", output_format="PNG")
    st.html(pieces().about_heat_map(explained))


def heat_map(served, file: File, box: viewing.Box | None, shape: tuple[int, int], label: str) -> np.ndarray:
    """The heat map of a class, float32 of `shape`, 0 to 1. The session remembers those of one picture."""
    picture = (served.classifier.version, file.key, box)
    if st.session_state.get("heat", [None])[0] != picture:
        st.session_state.heat = (picture, {})
    known = st.session_state.heat[1]
    if label not in known:
        with st.spinner("Computing the heat map"):
            heat = served.classifier.heatmap(cropped(file, box), label)
        sides = zip(heat.shape, shape, strict=True)
        known[label] = heat[np.ix_(*(np.linspace(0, side - 1, count).round().astype(int) for side, count in sides))]
    return known[label]
