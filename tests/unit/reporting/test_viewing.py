"""What a person sees of an image: the crop to the scan, the heat map over it, the track record of a probability."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont

from busi.data.layout import CLASSES
from busi.evaluation.resampling import wilson_share
from busi.phantom.scan import render
from busi.reporting import viewing


@pytest.fixture(scope="module")
def scan():
    """A phantom without margins of its own."""
    image = render(np.random.default_rng(9002), "normal").image
    assert image[0].any() and image[-1].any() and image[:, 0].any() and image[:, -1].any()
    return image


def on_screen(scan, left=70, top=60, right=90, bottom=50):
    """The scan on a black screen with text beside it, and noise as JPEG leaves it."""
    screen = np.pad(scan, ((top, bottom), (left, right)))
    noise = np.random.default_rng(1).integers(0, 4, screen.shape, dtype=np.uint8)
    canvas = Image.fromarray(np.maximum(screen, noise))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default_imagefont()
    for corner, text in [((5, 10), "HOSPITAL"), ((5, 30), "12:30"), ((canvas.width - 60, 100), "MI 0.9")]:
        draw.text(corner, text, fill=220, font=font)
    return np.asarray(canvas)


def test_the_scan_is_found_on_a_screen_with_text(scan):
    height, width = scan.shape
    expected = np.array((70, 60, 70 + width, 60 + height))
    assert np.abs(np.array(viewing.scan_box(on_screen(scan))) - expected).max() <= 2


def test_nothing_is_cropped_where_there_is_no_margin(scan):
    assert viewing.scan_box(scan) == viewing.whole(scan)
    narrow = np.pad(scan, ((0, 0), (scan.shape[1] // 100, 0)))
    assert viewing.scan_box(narrow) == viewing.whole(narrow)


@pytest.mark.parametrize(
    "gray", [np.zeros((40, 60), np.uint8), np.full((40, 60), 255, np.uint8), np.eye(1, dtype=np.uint8)]
)
def test_a_picture_without_anything_in_it_is_kept_whole(gray):
    assert viewing.scan_box(gray) == viewing.whole(gray)


def test_a_dot_on_black_is_not_taken_for_a_scan():
    gray = np.zeros((200, 200), np.uint8)
    gray[90:110, 90:110] = 200
    assert viewing.scan_box(gray) == (0, 0, 200, 200)


def test_opacity_goes_from_the_image_to_the_colours():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    heat = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert (viewing.blend(gray, heat, 0) == gray[:, :, None]).all()
    covered = viewing.blend(gray, heat, 1)
    assert tuple(covered[-1, -1]) == viewing.RAMP[-1] and (covered[0, 0] == gray[0, 0]).all()
    assert covered.dtype == np.uint8 and covered.shape == (3, 4, 3)


def test_the_colours_grow_lighter_with_the_heat():
    """As gray levels too, so that neither colour blindness nor a black-and-white print takes the order away."""
    levels = viewing.blend(np.zeros((1, 64), np.uint8), np.linspace(0, 1, 64)[None], 1) @ [0.299, 0.587, 0.114]
    assert (np.diff(levels[0]) > 0).all()


def test_a_picture_is_sent_as_it_is_unless_it_is_too_large(scan):
    assert (viewing.shrink(scan, 10_000) == scan).all()
    assert max(viewing.shrink(scan, 100).shape) == 100
    assert (np.asarray(Image.open(io.BytesIO(viewing.png(scan)))) == scan).all()


def test_the_outline_keeps_what_is_inside_and_dims_what_is_outside():
    gray = np.full((100, 200), 90, np.uint8)
    shown = viewing.outlined(gray, (50, 20, 150, 80), 200)
    assert (shown[20:80, 50:150] == 90).all() and (shown[:10] == 30).all()
    assert tuple(shown[19, 100]) == viewing.RAMP[-1]
    assert (viewing.outlined(gray, (50, 20, 150, 80), 100)[10:40, 25:75] == 90).all()


def test_the_track_record_counts_test_images_that_were_as_sure():
    largest = [0.95, 0.91, 0.99, 0.85, 0.5, 0.9]
    table = pd.DataFrame({"label": ["benign"] * 6, "predicted": ["benign", "benign", "malignant", *["benign"] * 3]})
    table[list(CLASSES)] = [(p, (1 - p) / 2, (1 - p) / 2) for p in largest]
    found = viewing.track_record(table, 0.93)
    assert found == (0.9, 1.0, 2, 3, *wilson_share(2, 3, 0.95)[1:3])
    assert viewing.track_record(table, 1.0)[2:4] == viewing.track_record(table, 0.9001)[2:4] == (2, 3)
    assert viewing.track_record(table, 0.9)[:4] == (0.8, 0.9, 2, 2)  # an edge belongs to the band below, as there
    assert viewing.track_record(table, 0.34)[:4] == (0.0, 0.6, 1, 1)
    assert viewing.track_record(table, 0.7) == (0.6, 0.8, 0, 0, 0.0, 1.0)
