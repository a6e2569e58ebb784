"""Intervals against simulated truth, published values and a plain count."""

import numpy as np
import pytest

from busi.evaluation import resampling
from busi.evaluation.metrics import mean_of
from busi.evaluation.records import Metric, Resampling
from busi.evaluation.resampling import resamples, resamples_without_a_class, share, wilson_share


def test_a_resample_draws_whole_groups():
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    drawn = np.concatenate(list(resamples(groups, Resampling(200, 0.95, 3))))
    assert drawn.shape == (200, 6)
    for group in "abc":
        members = drawn[:, groups == group]
        assert (members == members[:, :1]).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()  # as many groups as there are
    assert len({tuple(row) for row in drawn.tolist()}) > 5


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    groups, one = np.arange(40) // 2, Resampling(100, 0.95, 3)
    whole = np.concatenate(list(resamples(groups, one)))
    monkeypatch.setattr(resampling, "_CELLS", 40 * 7)
    assert (np.concatenate(list(resamples(groups, one))) == whole).all()


def test_resamples_without_a_class_are_counted():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    without = resamples_without_a_class(labels, np.arange(21), 3, Resampling(500, 0.95, 0))
    # the one normal image is missed with chance (1 - 1/21)^21
    assert without == pytest.approx(500 * (1 - 1 / 21) ** 21, abs=50)


def test_intervals_cover_the_truth_where_images_come_in_groups():
    """Groups of four that are right or wrong together: 95 % intervals over groups cover, over images they don't."""
    rng = np.random.default_rng(12)
    truth, runs, groups = 0.8, 150, np.repeat(np.arange(60), 4)
    covered = dict.fromkeys(("groups", "images"), 0)
    for run in range(runs):
        right = np.repeat(rng.random(60) < truth, 4)
        for name, units in (("groups", groups), ("images", np.arange(240))):
            found = mean_of(right, units, Resampling(200, 0.95, run))
            covered[name] += found.low <= truth <= found.high
    assert 0.90 <= covered["groups"] / runs <= 0.99
    assert covered["images"] / runs < 0.80


def test_a_share_of_no_image_is_0_of_0():
    none = np.zeros(5, bool)
    assert share(none, none, np.arange(5), Resampling(100, 0.95, 0)) == Metric(0, 0, 0, 0)
    assert wilson_share(0, 0, 0.95) == Metric(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Stat. Med. 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(successes, n, low, high):
    found, mirrored = wilson_share(successes, n, 0.95), wilson_share(n - successes, n, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - high, 1 - low), abs=5e-5)
    assert (found.value, found.n) == (round(successes / n, 6), n)
