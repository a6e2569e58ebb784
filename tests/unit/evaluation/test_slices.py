"""Slices of the test images: by label, annotation and tertile of size."""

import numpy as np
import pandas as pd

from busi.evaluation.slices import TERTILES, ranges_of, slices_of


def manifest(n=30, **columns):
    rng = np.random.default_rng(1)
    given = {
        "label": np.resize(["benign", "malignant", "normal"], n),
        "width": rng.integers(300, 800, n),
        "height": rng.integers(300, 800, n),
        "lesion_fraction": rng.random(n) / 2,
        "annotated": rng.random(n) < 0.4,
    }
    return pd.DataFrame(given | columns)


def test_every_image_is_in_its_slice_of_each_slicing():
    images = manifest()
    slices = slices_of(images)
    assert set(slices) == {"label", "annotation", "native_size", "lesion_size"}
    assert (slices["label"] == images["label"]).all()
    assert ((slices["annotation"] == "annotated") == images["annotated"]).all()
    for slicing, values in (
        ("native_size", images["width"] * images["height"]),
        ("lesion_size", images["lesion_fraction"]),
    ):
        parts = [values[slices[slicing] == name] for name in TERTILES]
        assert [len(part) for part in parts] == [10, 10, 10]
        assert parts[0].max() < parts[1].min() < parts[1].max() < parts[2].min()


def test_images_without_a_lesion_are_in_no_slice_of_lesion_size():
    images = manifest()
    images.loc[images["label"] == "normal", "lesion_fraction"] = 0.0
    images.loc[0, "lesion_fraction"] = np.nan
    names = slices_of(images)["lesion_size"]
    assert ((names == "") == ((images["label"] == "normal") | (images.index == 0))).all()


def test_what_would_be_one_slice_is_left_out():
    slices = slices_of(manifest(width=256, height=256, lesion_fraction=np.nan, annotated=False))
    assert set(slices) == {"label"}


def test_ranges_are_those_of_the_slices_by_tertile():
    images = manifest()
    names, ranges = slices_of(images), ranges_of(images)
    assert list(ranges) == ["native_size", "lesion_size"]
    for tertile in TERTILES:
        shares = images["lesion_fraction"][names["lesion_size"] == tertile]
        assert ranges["lesion_size"][tertile] == (shares.min(), shares.max())
    assert ranges["native_size"]["small"][0] == (images["width"] * images["height"]).min()
    assert ranges_of(manifest(width=256, height=256, lesion_fraction=np.nan)) == {}
