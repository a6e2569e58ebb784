"""The temperature: it finds what a model was over- or underconfident by, and changes no prediction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busi.evaluation.metrics import evaluate
from busi.evaluation.records import Resampling
from busi.model.calibration import apply_temperature, fit_temperature


def calibrated(n, seed):
    """Labels drawn from the very probabilities that are given."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.6, 0.6, 0.6], size=n).clip(1e-4)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = (rng.random((n, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=2)
    return labels, probabilities


@settings(max_examples=10, deadline=None)
@given(st.floats(0.4, 2.5), st.integers(0, 2**32 - 1))
def test_a_distortion_of_the_logits_is_found(distortion, seed):
    labels, true = calibrated(20_000, seed)
    assert fit_temperature(labels, apply_temperature(true, distortion)) == pytest.approx(1 / distortion, rel=0.08)


def test_calibration_lowers_the_calibration_error_and_keeps_accuracy():
    labels, true = calibrated(4000, 3)
    overconfident = apply_temperature(true, 0.4)
    mended = apply_temperature(overconfident, fit_temperature(labels, overconfident))
    before, after = (evaluate(labels, p, np.arange(4000), Resampling(100, 0.95, 0)) for p in (overconfident, mended))
    assert after["accuracy"] == before["accuracy"]
    assert before["expected_calibration_error"].value > 0.1
    assert after["expected_calibration_error"].value < 0.03
    assert after["brier_score"].value < before["brier_score"].value


@given(st.integers(0, 2**32 - 1), st.floats(0.25, 4))
def test_tempering_keeps_the_order_and_is_undone_by_the_inverse(seed, temperature):
    _, probabilities = calibrated(50, seed)
    changed = apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(changed.sum(axis=1), 1)
    np.testing.assert_array_equal(changed.argsort(axis=1), probabilities.argsort(axis=1))
    np.testing.assert_allclose(apply_temperature(changed, 1 / temperature), probabilities, atol=1e-6)


@pytest.mark.parametrize("images", [15, 90, 900])
def test_images_that_are_all_right_ask_for_no_more_certainty_than_their_number_gives(images):
    labels = np.resize([0, 1, 2], images)
    right = np.eye(3)[labels] * 0.94 + 0.02
    mended = apply_temperature(right, fit_temperature(labels, right))
    assert mended.max() == pytest.approx((images / 3 + 1) / (images / 3 + 3), abs=1e-3)


def test_images_that_are_all_wrong_ask_for_doubt():
    labels = np.resize([0, 1, 2], 90)
    wrong = np.eye(3)[(labels + 1) % 3] * 0.94 + 0.02
    assert fit_temperature(labels, wrong) > 10


def test_without_images_there_is_nothing_to_fit():
    with pytest.raises(ValueError, match="no validation image"):
        fit_temperature(np.array([], int), np.empty((0, 3)))
