"""DenseNet121's names and numbers, as keras.applications has them. Importing this module does not import TensorFlow."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

# Layers in each of the four dense blocks; these are DenseNet121's. Everything that builds or loads the backbone reads
# them here, so that a test may shorten it. Names of layers outside the blocks don't depend on them.
BLOCKS = (6, 12, 24, 16)

# Statistics of ImageNet's training images in 0-1, as keras.applications' "torch" mode applies them to DenseNet
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Published with keras.applications; fetched by `busi weights`
IMAGENET_FILE = "densenet121_imagenet_notop.h5"
IMAGENET_MD5 = "30ee3e1110167f948a6b9946edeeb738"

# The layers whose feature maps the head reads; the last is the backbone's own output
FEATURE_MAPS = ("pool2_pool", "pool3_pool", "pool4_pool", "relu")

# Names of the other layers that code asks for. Stored models have them, so they stay: `level_relu` holds the statistics
# of feature map `relu`, `levels` those of all feature maps; names of the head's layers begin with `head`.
STATISTICS_PREFIX = "level_"
ALL_STATISTICS = "levels"
HEAD = "head"
HEAD_DROPOUT = "head_dropout"

# The usual layers to freeze until, first to last; `cut` accepts any other at which the backbone narrows to one tensor
FREEZE_LAYERS = ("input", "pool1", "pool2_pool", "pool3_pool", "pool4_pool", ALL_STATISTICS)


def build_backbone(**arguments) -> "keras.Model":
    """A DenseNet of `BLOCKS` without classifier and with random weights, from scaled pixels to its last feature map.

    With DenseNet121's blocks it has the layers, names and weights of `keras.applications.DenseNet121`.

    Args:
        arguments: `input_tensor` or `input_shape`, as keras.applications' networks take them.
    """
    from busi.backend import DenseNet

    return DenseNet(BLOCKS, include_top=False, weights=None, name="densenet121", **arguments)
