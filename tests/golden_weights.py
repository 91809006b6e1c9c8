"""Weights and inputs of the reference data in ../shared/golden, by its written rules.

Every variable is drawn from its own name in the original (TF 1) code, so any part of
a network can be filled without the rest.
"""

import functools
import pathlib
import zlib
from typing import Dict, Tuple

import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf.networks.weights import assign_variables, named_variables

_LEAVES = {"kernel": "weights", "bias": "biases"}


def tf1_name(scope: str, path: str) -> str:
    """The original's name of a variable.

    Args:
      scope: "encoder", "decoder" or "discriminator".
      path: as of `named_variables`.
    """
    layer, leaf = path.rsplit("/", 1)
    name = f"{layer}/{_LEAVES.get(leaf, leaf)}"
    # compress1 stands beside the encoder in the original, not inside it.
    return name if name.startswith("compress1/") else f"{scope}/{name}"


@functools.cache
def draw(name: str, shape: Tuple[int, ...]) -> np.ndarray:
    """The float32 value of the variable of that TF 1 name."""
    random = np.random.RandomState(zlib.crc32(name.encode("utf-8")) & 0xFFFFFFFF)
    *parents, layer, leaf = name.split("/")
    if leaf in ("gamma", "moving_variance"):
        value = random.uniform(0.5, 1.5, shape)
    elif leaf == "weights":
        fan_in = np.prod(shape[:-1])
        if layer.startswith("deconv"):
            fan_in = shape[0] * shape[1] * shape[3]
        gain = 1.0
        if "bottleneck_v1" in parents:
            gain = {"conv3": 0.25, "shortcut": 0.7}.get(layer, 1.0)
        value = random.standard_normal(shape) * (gain * np.sqrt(2 / fan_in))
    else:
        value = random.standard_normal(shape) * 0.1
    return value.astype(np.float32)


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
    pixels = np.asarray(Image.open(golden / "photo_test_256.png"))
    photo = np.float32(pixels / 255.0)
    photo *= 2
    photo += -1
    noise = np.random.RandomState(20240501).uniform(-1, 1, (256, 256, 3))
    return np.stack([photo, noise.astype(np.float32)])


def targets(golden: pathlib.Path, channels: int) -> np.ndarray:
    """The target maps, float32 [2, 256, 256, channels]."""
    return images(golden)[:, ::-1, :, :channels]


def mask() -> np.ndarray:
    """The valid mask, float32 [2, 256, 256, 1] of zeros and ones."""
    return (np.random.RandomState(7).uniform(size=(2, 256, 256, 1)) > 0.3).astype(
        np.float32
    )
