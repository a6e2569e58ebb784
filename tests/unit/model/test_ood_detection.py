"""The detector of unknown input: its threshold, its distances, its file."""

import zipfile

import numpy as np
import pytest

from busi.model.ood_detection import OodDetector, fit_detector


@pytest.fixture
def ood_features():
    """Correlated numbers of very different scales, as channels' means and spreads are."""
    rng = np.random.default_rng(4)
    mixing = rng.normal(size=(12, 12)) * np.logspace(-3, 3, 12)
    return lambda n: rng.normal(size=(n, 12)) @ mixing + 5


def test_the_threshold_accepts_the_share_of_the_validation_images_that_was_asked_for(ood_features):
    training, validation = ood_features(300), ood_features(200)
    for share in (0.5, 0.9, 0.99, 1.0):
        detector = fit_detector(training, validation, share)
        accepted = (detector.distance(validation) <= detector.threshold).mean()
        assert share <= accepted <= share + 1 / 200


def test_images_of_the_same_kind_are_accepted_and_others_are_not(ood_features):
    detector = fit_detector(ood_features(300), ood_features(200), 0.99)
    assert (detector.distance(ood_features(400)) <= detector.threshold).mean() > 0.95
    shuffled = np.random.default_rng(0).permuted(ood_features(400), axis=1)
    assert (detector.distance(shuffled) > detector.threshold).all()


def test_a_change_of_units_changes_no_distance(ood_features):
    training, validation, probes = ood_features(50), ood_features(20), ood_features(30)
    scale = np.logspace(-2, 4, 12)
    plain, scaled = fit_detector(training, validation, 0.9), fit_detector(training * scale, validation * scale, 0.9)
    np.testing.assert_allclose(plain.distance(probes), scaled.distance(probes * scale), rtol=1e-6)


def test_fewer_images_than_numbers_and_dead_numbers_are_no_obstacle(ood_features):
    training, validation = ood_features(5), ood_features(3)
    training[:, 2] = validation[:, 2] = 7
    detector = fit_detector(training, validation, 1.0)
    assert np.isfinite(detector.distance(validation)).all() and np.isfinite(detector.threshold)


@pytest.mark.parametrize(("images", "validated"), [(1, 3), (5, 0)])
def test_too_few_images_are_refused(images, validated, ood_features):
    with pytest.raises(ValueError, match="expected 2 and 1 at least"):
        fit_detector(ood_features(images), ood_features(validated), 0.9)


def test_it_comes_back_from_its_file_the_same_and_the_file_has_no_time_in_it(ood_features, tmp_path):
    detector = fit_detector(ood_features(30), ood_features(20), 0.9)
    detector.save(tmp_path / "one.npz")
    detector.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.npz") as archive:  # later versions and dates are in headers of other bytes
        assert {(one.extract_version, one.date_time) for one in archive.infolist()} == {(20, (1980, 1, 1, 0, 0, 0))}
    loaded = OodDetector.load(tmp_path / "one.npz")
    probes = ood_features(9)
    np.testing.assert_array_equal(loaded.distance(probes), detector.distance(probes))
    assert loaded.threshold == detector.threshold


def test_a_file_of_something_else_is_refused_and_nothing_in_it_is_run(tmp_path):
    np.savez(tmp_path / "other.npz", center=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", center=np.array([print], dtype=object), precision=np.eye(1), threshold=1.0)
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other.npz", "pickled.npz", "text.npz"):
        with pytest.raises(ValueError, match=name.split(".")[0]):
            OodDetector.load(tmp_path / name)
