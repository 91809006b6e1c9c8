"""Networks without kinks, for comparisons of two orders of summation.

Different orders put some value on the other side of a (leaky) ReLU's kink sooner or
later, on one processor at one step, on another at another; the gradient then jumps by
1e-4. What replicas and workers share does not depend on the activation.

    smooth.py ARGUMENTS OF TRAIN    runs `soka_tf.train` with such networks
"""

import contextlib
import runpy
import sys
from typing import Iterator
from unittest import mock

import soka_tf  # noqa: F401 (before TensorFlow)

import tensorflow as tf  # isort: skip


@contextlib.contextmanager
def activations() -> Iterator[None]:
    """Networks built meanwhile have ELU, whose slope is continuous."""

    def elu(*_, name):
        return tf.keras.layers.Activation("elu", name=name)

    with mock.patch.multiple(tf.keras.layers, ReLU=elu, LeakyReLU=elu):
        yield


if __name__ == "__main__":
    with activations():
        sys.argv[0] = "soka_tf.train"
        runpy.run_module("soka_tf.train", run_name="__main__")
