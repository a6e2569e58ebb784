"""The gallery draws map and outline where they belong."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi.reporting import gallery

GRAY = np.full((200, 300), 128, np.uint8)


def predictions() -> pd.DataFrame:
    table = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["benign", "normal"], "predicted": ["benign", "benign"]})
    return table.assign(benign=[0.9, 0.7], malignant=[0.06, 0.2], normal=[0.04, 0.1])


def test_an_entry_is_a_prediction_with_its_pictures():
    lesion = np.zeros((200, 300), dtype=bool)
    lesion[60:140, 100:200] = True
    maps = {"a.png": np.ones((2, 2), np.float32), "b.png": np.zeros((2, 2), np.float32)}
    found = gallery.entries(predictions(), maps, lambda path: GRAY, {"a.png": lesion, "b.png": None}.get)
    [right], [wrong] = found["right"], found["wrong"]
    assert (right["path"], right["outlined"], right["empty"]) == ("a.png", True, False)
    assert (wrong["path"], wrong["outlined"], wrong["empty"]) == ("b.png", False, True)
    assert right["image"] == gallery.picture(GRAY) and right["overlay"] == gallery.overlay(GRAY, maps["a.png"], lesion)
    assert found["uncertain"] == []


def test_a_missing_map_is_named():
    with pytest.raises(ValueError, match=r"b\.png"):
        gallery.entries(predictions(), {"a.png": np.ones((2, 2))}, lambda path: GRAY, lambda path: None)


def pixels(content: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG"
    return np.asarray(image.convert("RGB")).astype(int)


def test_the_overlay_is_the_image_where_nothing_speaks_and_warm_at_the_peak():
    gray = np.full((400, 800), 90, np.uint8)
    heat = np.array([[0, 0, 0, 1]], np.float32)
    drawn = pixels(gallery.overlay(gray, heat, None))
    assert drawn.shape == (160, 320, 3)
    assert np.abs(drawn[:, :100] - pixels(gallery.picture(gray))[:, :100]).max() <= 8
    red, _, blue = drawn[:, 300:].reshape(-1, 3).mean(axis=0)
    assert red > 150 and red > blue + 50
    assert gallery.overlay(gray, heat, None) == gallery.overlay(gray, heat, None)


def test_the_outline_is_drawn_around_the_lesion_and_nowhere_else():
    gray = np.full((200, 300), 128, np.uint8)
    lesion = np.zeros((200, 300), dtype=bool)
    lesion[60:140, 100:200] = True
    drawn = pixels(gallery.overlay(gray, np.zeros((2, 2), np.float32), lesion)).mean(axis=2)
    assert drawn.shape == lesion.shape  # a small image is not blown up
    assert drawn[60, 110:190].min() > 200 and drawn[80:120, 199].min() > 200
    assert np.abs(drawn[80:120, 120:180] - 128).max() <= 6
    assert np.abs(drawn[:40] - 128).max() <= 6


def test_a_lesion_of_one_pixel_at_the_border_and_a_strip_of_an_image_can_be_drawn():
    lesion = np.zeros((1, 2000), dtype=bool)
    lesion[0, 0] = True
    assert pixels(gallery.overlay(np.zeros((1, 2000), np.uint8), np.zeros((3, 3), np.float32), lesion)).shape[0] == 1
