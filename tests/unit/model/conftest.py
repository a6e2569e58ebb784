"""A backbone of one layer a block: builds in a second, and has the layer names that all code reads."""

import numpy as np
import pytest

from busi.model import backbone

SEED = 3
SIZE = 32  # the smallest the network takes; what is tested does not depend on it


@pytest.fixture(scope="module")
def small_backbone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "BLOCKS", (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def whole(small_backbone):
    """The whole network on that backbone, with random weights of `SEED`; takes pixels (n, SIZE, SIZE, 3)."""
    from busi.model.network import build_model, seed_everything  # here, because importing TensorFlow takes seconds

    seed_everything(SEED)
    return build_model(SIZE, dropout=0.5, weights=None)


@pytest.fixture(scope="module")
def pixels():
    """Five images of noise, uint8 (5, SIZE, SIZE, 3)."""
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)
