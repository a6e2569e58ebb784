"""Keras and TensorFlow, imported in one place: `from busi.backend import keras, layers, ops, tf`.

With another Keras backend, which pretraining may run on, there is no `tf`.

TensorFlow's C++ part writes to the terminal while it is imported, before its log level takes effect. This module
discards that output. Keras imports scikit-learn and Matplotlib if they are installed, for parts that nothing here uses.
That takes a third of its import time, so this module hides the two packages from it.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Make imports of these packages fail within the block, unless they are imported already."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _quiet(), _without("matplotlib", "sklearn"):
    import keras
    from keras import layers, ops
    from keras.src.applications.densenet import DenseNet  # any depth; the public interface has three fixed ones

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

__all__ = ["DenseNet", "keras", "layers", "ops", "tf"]
