"""A backbone of one layer a block: builds in a second, and has the layer names that all code reads."""

import pytest

from busi.model import backbone


@pytest.fixture(scope="module")
def small_backbone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "BLOCKS", (1, 1, 1, 1))
        yield
