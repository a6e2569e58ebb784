"""The frozen-prefix cache: row for row what the prefix gives for that view; each view has its own seed."""

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi.data.images import prepare, read_image
from busi.model.augmentation import AugmentationConfig, augment, view_generator
from busi.model.features import feature_rows, read_features, select_features, write_features

SIZE = 16
AUGMENTATION = AugmentationConfig(
    max_rotation=8.0, max_zoom=0.15, max_shift=0.06, max_gain=20.0, max_contrast=0.2, max_depth_gain=25.0
)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(70):  # more than two batches
        Image.fromarray(rng.integers(0, 256, (24, 30), dtype=np.uint8)).save(tmp_path / f"{index:02}.png")
    return tmp_path


@pytest.fixture
def rows():
    parts = ["train"] * 40 + ["val"] * 15 + ["test"] * 15
    split = pd.DataFrame({"path": [f"{i:02}.png" for i in range(70)], "label": "benign", "part": parts})
    return feature_rows(split, views=2)


def prefix(scale=1.0):
    pixels = keras.Input((SIZE, SIZE, 3))
    return keras.Model(pixels, keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(scale)(pixels)))


def test_each_row_is_the_prefix_of_its_view(folder, rows, tmp_path):
    path = tmp_path / "features.npy"
    write_features(prefix(), folder, rows, AUGMENTATION, 7, path)
    features = read_features(path, rows)
    assert features.dtype == features[np.array([3, 1])].dtype == np.float16
    assert features[np.array([3, 1])].base is None  # a copy, so that nothing keeps the file's pages
    assert features.shape == (40 * 3 + 30, 4, 4, 3)
    for row in rows.sample(25, random_state=1).itertuples():
        pixels = prepare(read_image(folder / row.path), SIZE)
        if row.view:
            pixels = augment(pixels, view_generator(7, row.path, row.view), AUGMENTATION)
        expected = pixels.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(features[row.row], expected, rtol=2e-3)


def test_written_twice_the_bytes_are_equal(folder, rows, tmp_path):
    for name in ("a.npy", "b.npy"):
        write_features(prefix(), folder, rows, AUGMENTATION, 7, tmp_path / name)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_views_depend_on_image_view_and_seed_and_on_nothing_else():
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8).repeat(3, axis=2)
    views = [
        augment(pixels, view_generator(*case), AUGMENTATION)
        for case in [(7, "a.png", 1), (7, "a.png", 1), (7, "a.png", 2), (7, "b.png", 1), (8, "a.png", 1)]
    ]
    np.testing.assert_array_equal(views[0], views[1])
    for other in views[2:]:
        assert not np.array_equal(views[0], other)


def test_with_ranges_of_zero_there_are_two_views_the_image_and_its_mirror():
    pixels = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8).repeat(3, axis=2)
    generator, still = np.random.default_rng(2), AugmentationConfig(0, 0, 0, 0, 0, 0)
    views = {augment(pixels, generator, still).tobytes() for _ in range(20)}
    assert len(views) == 2 and pixels.tobytes() in views


def test_augmentation_keeps_form_black_and_up():
    generator = np.random.default_rng(2)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 180  # bright near the probe
    for _ in range(50):
        view = augment(pixels, generator, AUGMENTATION)
        assert view.shape == pixels.shape
        assert view.dtype == np.uint8
        np.testing.assert_array_equal(view[..., 0], view[..., 2])
        assert view[16:26, 24:40].mean() > 100  # never upside down
        assert view[50:].max() == 0  # no echo where there was none


def test_features_too_large_for_float16_are_refused(folder, rows, tmp_path):
    with pytest.raises(ValueError, match="more than float16 holds"):
        write_features(prefix(1e4), folder, rows, AUGMENTATION, 7, tmp_path / "features.npy")


def test_an_array_of_other_rows_is_refused(folder, rows, tmp_path):
    write_features(prefix(), folder, rows, AUGMENTATION, 7, tmp_path / "features.npy")
    with pytest.raises(ValueError, match="150 rows, its table 149"):
        read_features(tmp_path / "features.npy", rows[:-1])


def test_selected_from_two_parts_the_bytes_are_those_of_a_run_of_its_own(folder, rows, tmp_path):
    images = [f"{i:02}.png" for i in range(70)]
    parts = []
    for number, some in enumerate((images[:33], images[33:])):
        every_view = feature_rows(pd.DataFrame({"path": some, "label": "benign", "part": "train"}), views=2)
        write_features(prefix(), folder, every_view, AUGMENTATION, 7, tmp_path / f"{number}.npy")
        parts.append((read_features(tmp_path / f"{number}.npy", every_view), every_view))
    write_features(prefix(), folder, rows, AUGMENTATION, 7, tmp_path / "alone.npy")
    select_features(parts, rows, tmp_path / "selected.npy")
    assert (tmp_path / "selected.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()
    with pytest.raises(ValueError, match=r"lack 26 views.*view 0 of 33\.png"):
        select_features(parts[:1], rows[rows.path < "45.png"], tmp_path / "selected.npy")
