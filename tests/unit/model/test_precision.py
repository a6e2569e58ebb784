"""The precision of the prefix is what the parameter says."""

import numpy as np
import pytest

from busi.model.freezing import cut
from busi.model.inference import predict
from busi.model.precision import for_inference

pytestmark = pytest.mark.usefixtures("small_backbone")


def predicted(model, batch):
    return np.asarray(model(batch.astype(np.float32), training=False))


def test_the_prefix_in_bfloat16_gives_what_the_plain_one_gives_but_for_its_rounding(whole, pixels):
    prefix, _ = cut(whole, "pool4_pool")
    fast, plain = for_inference(prefix, "bfloat16"), predicted(prefix, pixels)
    found = next(iter(predict(fast, [pixels])))
    assert found.dtype == np.float32
    # 8 bits of mantissa are 0.2 % a product; 88 layers of them came to 0.4 % of real images' features
    assert 0 < np.sqrt(((found - plain) ** 2).mean()) <= 0.02 * np.sqrt((plain**2).mean())
    kernel = fast.get_layer("conv1_conv").kernel
    assert kernel.dtype == "float32" and kernel is not prefix.get_layer("conv1_conv").kernel


def test_in_float32_the_prefix_is_used_as_it_is_and_other_precisions_are_refused(whole):
    prefix, _ = cut(whole, "pool2_pool")
    assert for_inference(prefix, "float32") is prefix
    with pytest.raises(ValueError, match="float16"):
        for_inference(prefix, "float16")
