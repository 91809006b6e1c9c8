"""Weights and inputs of the reference data in ../shared/golden, by its written rules.

The rules are the library's (`soka_tf.teachers.taskonomy.parity`); here they fill
networks.
"""

import functools
import pathlib
from typing import Dict

import numpy as np
import tensorflow as tf

from soka_tf.networks.named_variables import assign_variables, named_variables
from soka_tf.teachers.taskonomy import parity
from soka_tf.teachers.taskonomy.taskbank import tf1_name

draw = functools.cache(parity.draw)


def golden_values(network: tf.keras.Model, scope: str) -> Dict[str, np.ndarray]:
    """Path -> value of all variables of a network."""
    return {
        path: draw(tf1_name(scope, path), tuple(variable.shape))
        for path, variable in named_variables(network).items()
    }


def fill(network: tf.keras.Model, scope: str) -> tf.keras.Model:
    """Sets all variables of a network to their golden values and returns it."""
    assign_variables(network, golden_values(network, scope))
    return network


def images(golden: pathlib.Path) -> np.ndarray:
    """The two input images, float32 [2, 256, 256, 3] in [-1, 1]."""
    return parity.reference_images(golden)


def targets(golden: pathlib.Path, channels: int) -> np.ndarray:
    """The target maps, float32 [2, 256, 256, channels]."""
    return images(golden)[:, ::-1, :, :channels]


def mask() -> np.ndarray:
    """The valid mask, float32 [2, 256, 256, 1] of zeros and ones."""
    return (np.random.RandomState(7).uniform(size=(2, 256, 256, 1)) > 0.3).astype(
        np.float32
    )
