"""The gallery shows the images that its titles promise, and draws map and outline where they belong."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from busi.data.layout import CLASSES
from busi.reporting import gallery


def predictions(n: int = 60, right: float = 0.7) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    labels = np.resize([0, 1, 2], n)
    favoured = np.where(rng.random(n) < right, labels, (labels + 1) % 3)
    scores = np.exp(rng.normal(size=(n, 3)) / 3 + 2 * np.eye(3)[favoured])
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    table = pd.DataFrame({"path": [f"{i:03d}.png" for i in range(n)], "label": np.take(CLASSES, labels)})
    table["predicted"] = np.take(CLASSES, probabilities.argmax(axis=1))
    return table.assign(**dict(zip(CLASSES, probabilities.T, strict=True)))


def test_each_kind_holds_what_its_title_says_and_no_image_twice():
    table = predictions()
    chosen = gallery.choose(table)
    places = [place for kind in chosen.values() for place in kind]
    assert len(places) == len(set(places)) == 3 + gallery.WRONG + gallery.UNCERTAIN
    sure = table[list(CLASSES)].max(axis=1)
    is_right = table["label"] == table["predicted"]
    assert [table["label"][place] for place in chosen["right"]] == list(CLASSES)
    for place in chosen["right"]:
        assert sure[place] == sure[is_right & (table["label"] == table["label"][place])].max()
    assert list(sure[chosen["wrong"]]) == sorted(sure[~is_right], reverse=True)[: gallery.WRONG]
    gap = table[list(CLASSES)].apply(lambda row: row.nlargest(2).iloc[0] - row.nlargest(2).iloc[1], axis=1)
    assert list(gap[chosen["uncertain"]]) == sorted(gap.drop([*chosen["right"], *chosen["wrong"]]))[: gallery.UNCERTAIN]


def test_the_order_of_the_rows_does_not_matter():
    table = predictions()
    shuffled = table.sample(frac=1, random_state=1)
    for kind, places in gallery.choose(shuffled).items():
        assert list(shuffled["path"].iloc[places]) == list(table["path"].iloc[gallery.choose(table)[kind]])


def test_without_mistakes_or_with_few_images_there_is_less_to_show():
    assert gallery.choose(predictions(right=1.0))["wrong"] == []
    assert {kind: len(places) for kind, places in gallery.choose(predictions(3, right=0.0)).items()} == {
        "right": 0, "wrong": 3, "uncertain": 0,
    }  # fmt: skip


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
