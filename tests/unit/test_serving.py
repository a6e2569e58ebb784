"""What a registered model answers to the bytes of files."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER, serving
from busi.data.layout import CLASSES
from busi.model.inference import compile_ood_features
from busi.model.ood_detection import fit_detector
from busi.serving import COLUMNS, ImageClassifier


def png(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def model():
    """A small network with the layers that serving looks at, by DenseNet121's names."""
    from busi.backend import keras, layers

    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    found = layers.Conv2D(6, 5, strides=2, activation="relu", name="conv1_relu")(layers.Rescaling(1 / 255)(pixels))
    found = layers.AveragePooling2D(2, name="pool2_pool")(found)
    found = layers.Conv2D(8, 3, activation="relu", name="relu")(found)
    pooled = layers.GlobalAveragePooling2D()(found)
    return keras.Model(pixels, layers.Dense(3, activation="softmax", name="head")(pooled))


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(2).integers(0, 256, (60, 40, 50), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier(model, noise):
    from busi.data.images import prepare

    ood_features = compile_ood_features(model)(np.stack([prepare(Image.fromarray(pixels), 32) for pixels in noise]))
    return ImageClassifier(model, fit_detector(ood_features[:40], ood_features[40:], 1.0), "name/7")


def test_each_file_is_a_row_and_a_bad_one_disturbs_no_other(classifier, noise):
    files = [png(noise[0]), b"not an image", png(np.zeros((40, 50), np.uint8)), b"", png(noise[1], "BMP")]
    table = classifier.predict(pd.DataFrame({"image": files}, index=[5, 4, 3, 2, 1]))
    assert tuple(table) == COLUMNS and list(table.index) == [5, 4, 3, 2, 1]
    assert list(table["accepted"]) == [True, False, False, False, True]
    assert list(table["reason"] == "") == [True, False, False, False, True]
    assert [label is None for label in table["label"]] == [False, True, True, True, False]
    assert [said is None for said in table["probabilities"]] == [False, True, False, True, False]
    assert table["reason"][4].startswith("image: not an image") and "empty" in table["reason"][2]
    assert table["reason"][3].startswith("unknown input")
    assert set(table["model_version"]) == {"name/7"} and set(table["disclaimer"]) == {DISCLAIMER}
    alone = classifier.predict([files[4]])
    assert alone["probabilities"][0] == pytest.approx(table["probabilities"][1], abs=1e-6)


def test_probabilities_are_the_networks_and_the_label_is_the_largest(classifier, model, noise):
    from busi.data.images import prepare

    table = classifier.predict([png(pixels) for pixels in noise[:40]])
    pixels = np.stack([prepare(Image.fromarray(pixels), 32) for pixels in noise[:40]]).astype(np.float32)
    expected = model.predict(pixels, verbose=0)
    found = np.array([[said[label] for label in CLASSES] for said in table["probabilities"]])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    accepted = table["accepted"].to_numpy()
    labels = np.array(CLASSES)[expected.argmax(axis=1)]
    assert list(table["label"][accepted]) == list(labels[accepted])


def test_a_file_that_is_too_large_is_refused_before_it_is_decoded(classifier, monkeypatch):
    monkeypatch.setattr(serving, "MAX_BYTES", 100)
    monkeypatch.setattr(serving.images, "read_image", lambda *_: pytest.fail("decoded"))
    [row] = classifier.predict([b"x" * 101]).to_dict(orient="records")
    assert row["reason"] == "image: 101 bytes; expected at most 100"


def test_a_version_from_before_the_check_takes_every_image(model):
    [row] = ImageClassifier(model, None, "v").predict([png(np.zeros((40, 50), np.uint8))]).to_dict(orient="records")
    assert row["accepted"] and row["label"] in CLASSES


@pytest.mark.parametrize("rows", [["text"], [None], [3]])
def test_rows_that_are_no_bytes_are_an_error(classifier, rows):
    with pytest.raises(ValueError, match=r"row 0: received [A-Za-z]+; expected the bytes"):
        classifier.predict(pd.DataFrame({"image": rows}))


def test_a_table_without_images_is_an_error(classifier):
    with pytest.raises(ValueError, match=r"received columns \['picture'\]"):
        classifier.predict(pd.DataFrame({"picture": [b""]}))
    with pytest.raises(ValueError, match="expected a list"):
        classifier.predict(b"one file")


def test_a_heatmap_has_the_images_size_and_is_of_the_class_that_was_asked_for(classifier, noise):
    maps = [classifier.heatmap(png(noise[0]), label) for label in CLASSES]
    assert {heat.shape for heat in maps} == {(40, 50)} and {heat.dtype for heat in maps} == {np.dtype("float32")}
    assert all(heat.min() >= 0 and heat.max() <= 1 for heat in maps)
    with pytest.raises(ValueError, match="class 'cyst'"):
        classifier.heatmap(png(noise[0]), "cyst")
    with pytest.raises(ValueError, match="not an image"):
        classifier.heatmap(b"?", "benign")
