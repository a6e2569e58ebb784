"""Cutting the network at one layer into a frozen prefix and the layers that are trained.

    pixels (n, S, S, 3) in 0-255 -> [prefix: up to the layer `freeze_until`] -> features
    features -> [trainable layers: the rest, with the head] -> probabilities (n, 3)

Both parts share the weights of the model that they were cut from. So training the second part trains the model, and no
step is needed to put the parts together.
"""

import math

import numpy as np

from busi.backend import keras, layers, ops
from busi.model.backbone import ALL_STATISTICS, FEATURE_MAPS, FREEZE_LAYERS, HEAD, STATISTICS_PREFIX


def cut(model: keras.Model, freeze_until: str) -> tuple[keras.Model, keras.Model]:
    """Cut `model` behind the layer named `freeze_until` into (prefix, trainable layers), which share its weights.

    With `input` the prefix is the identity and the trainable layers are the whole model; with `levels` they are the
    head. The head also reads feature maps from before the cut. Their statistics are features too: then a feature is one
    vector, the output of the layer `freeze_until` and these statistics side by side.

    Raises:
        ValueError: no such layer, or the backbone does not narrow to one tensor there (inside a dense block, a
            convolution's output alone does not determine what follows).
    """
    usual = f"usual boundaries are {', '.join(FREEZE_LAYERS)}"
    names = [layer.name for layer in model.layers]
    if freeze_until not in names or freeze_until.startswith((HEAD, STATISTICS_PREFIX)):
        raise ValueError(f"featurize.boundary: no layer {freeze_until!r}; {usual}")
    before = _before(model.get_layer(freeze_until))
    passed = [
        model.get_layer(STATISTICS_PREFIX + name)
        for name in FEATURE_MAPS
        if name in before and freeze_until not in (name, ALL_STATISTICS)
    ]
    frozen = before.union(*map(_before, passed))
    # The cut is clean when only the layer itself, and statistics that are passed on, feed what comes after it
    for operation in model.operations:
        reads = {tensor._keras_history.operation.name for tensor in _inputs(operation)}
        if operation.name not in frozen and reads & (frozen - {freeze_until, *(layer.name for layer in passed)}):
            raise ValueError(
                f"featurize.boundary: {freeze_until!r} lies inside a block (layer {operation.name!r} also reads "
                f"what comes before it); {usual}"
            )
    crossing = [model.get_layer(freeze_until).output, *(layer.output for layer in passed)]
    if not passed:
        return keras.Model(model.input, crossing[0], name="prefix"), keras.Model(
            crossing[0], model.output, name="trainable_layers"
        )
    flat = layers.Concatenate(dtype="float32")([layers.Flatten(dtype="float32")(tensor) for tensor in crossing])
    return keras.Model(model.input, flat, name="prefix"), _of_one_vector(keras.Model(crossing, model.output))


def _inputs(operation) -> list:
    """The tensors that an operation of a functional model reads."""
    if isinstance(operation, layers.InputLayer):
        return []
    return operation.input if isinstance(operation.input, list | tuple) else [operation.input]


def _before(operation) -> set[str]:
    """The names of an operation and of all that it depends on."""
    found, ahead = set(), [operation]
    while ahead:
        operation = ahead.pop()
        if operation.name not in found:
            found.add(operation.name)
            ahead += [tensor._keras_history.operation for tensor in _inputs(operation)]
    return found


def _of_one_vector(model: keras.Model) -> keras.Model:
    """A model of several inputs as one of a single vector, in which they lie side by side; with the same layers."""
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    vector = keras.Input((ends[-1],))
    parts = [
        ops.reshape(vector[:, end - math.prod(shape) : end], (-1, *shape))
        for shape, end in zip(shapes, ends, strict=True)
    ]
    return keras.Model(vector, model.call(parts), name="trainable_layers")
