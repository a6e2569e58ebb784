"""Keras and TensorFlow, imported in one place: `from busi.backend import keras, layers, ops, tf`.

With another Keras backend, which pretraining may run on, there is no `tf`.

TensorFlow's C++ part writes to the terminal at import, before its own log levels take effect; that is kept off here.
And Keras imports scikit-learn and Matplotlib for wrappers and galleries that nothing here uses, where it finds them:
a third of the seconds that its import takes, so it does not find them.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Let an import of these fail in the block; whoever has them already, or imports them later, is not affected."""
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
