"""The pointing game on maps whose peak is known, and a map's correlation with itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from busi.evaluation.localization import is_centred, points_at, rank_correlation

sides = st.integers(1, 7)


@given(sides, sides, st.data())
def test_a_map_points_at_the_pixel_in_the_middle_of_its_strongest_cell_and_at_no_other(rows, columns, data):
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    if rows * columns == 1:
        return  # a flat map
    heat = data.draw(arrays.arrays(np.float32, (rows, columns), elements=st.floats(-3, 0, width=32)))
    heat[row, column] = 1
    lesion = np.zeros((21 * rows, 35 * columns), dtype=bool)  # odd, so that a cell has one middle pixel
    lesion[21 * row + 10, 35 * column + 17] = True
    assert points_at(heat, lesion)
    assert not points_at(heat, ~lesion)


def test_what_speaks_against_the_class_everywhere_still_has_a_peak_and_a_flat_map_has_none():
    lesion = np.zeros((40, 40), dtype=bool)
    lesion[20:, :20] = True
    assert points_at(np.array([[-3.0, -2.0], [-1.0, -2.0]]), lesion)
    assert not points_at(np.zeros((2, 2)), np.ones((40, 40), dtype=bool))


def test_the_centre_is_in_a_lesion_that_covers_it():
    lesion = np.zeros((51, 31), dtype=bool)
    lesion[25, 15] = True
    assert is_centred(lesion)
    assert not is_centred(~lesion)
    assert is_centred(np.ones((1, 1), dtype=bool))


@given(st.integers(0, 2**32))
def test_maps_correlate_by_rank(seed):
    heat, other = np.random.default_rng(seed).normal(size=(2, 4, 4))
    assert rank_correlation(heat, heat) == pytest.approx(1)
    assert rank_correlation(heat, -heat) == pytest.approx(-1)
    assert rank_correlation(heat, other) == pytest.approx(rank_correlation(np.exp(heat), 5 * other - 3))
    assert -1 <= rank_correlation(heat, other) <= 1
    assert np.isnan(rank_correlation(heat, np.full((4, 4), 0.3)))
