"""The precision that the frozen prefix computes in: a parameter, never chosen by looking at the processor."""

from typing import Literal

from busi.backend import keras, layers, tf

Precision = Literal["float32", "bfloat16"]


def for_inference(prefix: keras.Model, precision: Precision) -> keras.Model:
    """A prefix of `freezing.cut` as it is, or `in_bfloat16`.

    Raises:
        ValueError: another precision.
    """
    match precision:
        case "float32":
            return prefix
        case "bfloat16":
            return in_bfloat16(prefix)
    raise ValueError(f"precision {precision!r}; expected 'float32' or 'bfloat16'")


def in_bfloat16(prefix: keras.Model) -> keras.Model:
    """A copy of a prefix that multiplies in bfloat16; it can't be trained.

    Convolutions multiply in bfloat16, which has 8 bits of mantissa, and sum in float32; preprocessing and statistics of
    feature maps stay in float32. Batch normalisation and the activation after it become one pass over memory.

    On a processor with AVX512-BF16 or AMX-BF16 it takes half the time of float32, on others more time.
    """

    def copied(layer: keras.Operation) -> keras.Operation:
        on_maps = isinstance(layer, keras.Layer) and len(layer.output.shape) == 4
        if isinstance(layer, layers.InputLayer | layers.Normalization) or not on_maps:
            return layer
        kind = _FusedNormalization if isinstance(layer, layers.BatchNormalization) else type(layer)
        return kind.from_config(layer.get_config() | {"dtype": "mixed_bfloat16"})

    fast = keras.models.clone_model(prefix, clone_function=copied)
    fast.set_weights(prefix.get_weights())
    return fast


class _FusedNormalization(layers.BatchNormalization):
    """Batch normalisation in inference mode as the one operation that oneDNN also fuses with the activation."""

    def call(self, inputs, training=None, mask=None):
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            is_training=False,
        )
        return outputs[0]
