"""The file of heat maps: what goes in comes out, and the same maps give the same bytes."""

import numpy as np
import pytest

from busi.evaluation import heat_maps


def test_maps_come_back_by_the_path_of_their_image(tmp_path):
    rng = np.random.default_rng(0)
    maps = {"benign/benign (1).png": rng.random((28, 28)), "normal/ü \\ 2.jpg": rng.random((3, 4)).astype(np.float32)}
    heat_maps.save(maps, tmp_path / "maps.npz")
    found = heat_maps.load(tmp_path / "maps.npz")
    assert set(found) == set(maps)
    for path, heat in found.items():
        assert heat.dtype == np.float32
        np.testing.assert_array_equal(heat, maps[path].astype(np.float32))


def test_equal_maps_give_equal_bytes_in_any_order(tmp_path):
    maps = {f"{i}.png": np.full((2, 2), i, np.float32) for i in range(3)}
    heat_maps.save(maps, tmp_path / "a.npz")
    heat_maps.save(dict(reversed(maps.items())), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "maps.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"maps\.npz"):
        heat_maps.load(tmp_path / "maps.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"array\.npy"):
        heat_maps.load(tmp_path / "array.npy")
