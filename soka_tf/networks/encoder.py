"""The encoder of the released Taskonomy networks: a ResNet v1 that stays at 1/16.

Layer names are those of the released checkpoints without the network's scope:

    conv1, conv1/BatchNorm, conv1/Relu                   7x7
    pool1                                                3x3 max-pool
    block{1..4}/unit_{n}/bottleneck_v1/{conv1,conv2,conv3,shortcut}
                                 each with /BatchNorm; conv1, conv2 with /Relu
    block{1..4}/unit_{n}/bottleneck_v1/{Add,Relu}        the end of a unit
    compress1, compress1/BatchNorm, compress1/Relu       3x3 to the representation
    block1 .. block4, representation                     the outputs, in float32

A strided convolution of more than one pixel has a layer NAME/Pad before it.
"""

import dataclasses
import math
from typing import Any, Dict, Sequence

import tensorflow as tf

from soka_tf.networks.batch_norm import BatchNorm, synchronize
from soka_tf.networks.building import (
    as_float32,
    check_integers,
    check_positive,
    scaled_filters,
)

ENCODER_50 = (3, 4, 6, 3)
ENCODER_26 = (2, 3, 1, 2)

_BLOCK_FILTERS = (256, 512, 1024, 2048)
_BOTTLENECK = 4


def _conv(
    x: tf.Tensor, filters: int, size: int, stride: int, name: str, relu: bool = True
) -> tf.Tensor:
    """Convolution without bias, batch normalisation and, mostly, ReLU."""
    padding = "same"
    if stride > 1 and size > 1:
        # The original pads strided convolutions alike on all sides; SAME would pad
        # even sizes on the bottom and right only.
        x = tf.keras.layers.ZeroPadding2D((size - 1) // 2, name=f"{name}/Pad")(x)
        padding = "valid"
    x = tf.keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=tf.keras.initializers.VarianceScaling(
            scale=2.0, mode="fan_in", distribution="truncated_normal"
        ),
        name=name,
    )(x)
    x = BatchNorm(name=f"{name}/BatchNorm")(x)
    return tf.keras.layers.ReLU(name=f"{name}/Relu")(x) if relu else x


def _unit(
    x: tf.Tensor, filters: int, bottleneck_filters: int, stride: int, name: str
) -> tf.Tensor:
    """A bottleneck unit: 1x1, 3x3 (strided), 1x1, added to the shortcut."""
    if x.shape[-1] != filters:
        # In a strided block of one unit, the first unit is also the last: there the
        # projection itself takes the stride.
        shortcut = _conv(x, filters, 1, stride, f"{name}/shortcut", relu=False)
    elif stride > 1:
        shortcut = tf.keras.layers.MaxPool2D(1, stride, name=f"{name}/shortcut")(x)
    else:
        shortcut = x
    x = _conv(x, bottleneck_filters, 1, 1, f"{name}/conv1")
    x = _conv(x, bottleneck_filters, 3, stride, f"{name}/conv2")
    x = _conv(x, filters, 1, 1, f"{name}/conv3", relu=False)
    x = tf.keras.layers.Add(name=f"{name}/Add")([shortcut, x])
    return tf.keras.layers.ReLU(name=f"{name}/Relu")(x)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Keeps sub-models out of Keras' tracking: their layers are counted once."""

    config: Dict[str, Any]
    trunk: tf.keras.Model
    compress: tf.keras.Model


@tf.keras.utils.register_keras_serializable(package="soka_tf")
class Encoder(tf.keras.Model):
    """Images to the features of four blocks and a thin representation.

    Called on float32 [B, H, W, image_channels] in [-1, 1] of any size, it returns
    float32 "block1" .. "block4" and "representation" ([B, h, w,
    representation_channels], never negative). With the strides of the original
    h = H / 16, and so for blocks 2, 3 and 4; block 1 is twice as large. Source: the
    released Taskonomy networks (units 3, 4, 6, 3); units 2, 3, 1, 2 make the ResNet-26
    of the paper's supplement.

    Args:
      units: residual units of each of the four blocks.
      width: multiplies the filters of all layers but the representation.
      strides: of conv1, pool1, block 1 and block 2, each 1 or 2. A block's stride
        sits on its last unit; pool1 with stride 1 is left out; blocks 3 and 4
        never stride.
      representation_channels: channels of the representation.
      image_channels: channels of the images; the original's colorization sees one.
      synchronized: whether batch normalisation is by the batch of all replicas.
      name: name of the model.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        units: Sequence[int] = ENCODER_50,
        width: float = 1.0,
        strides: Sequence[int] = (2, 2, 2, 2),
        representation_channels: int = 8,
        image_channels: int = 3,
        synchronized: bool = False,
        name: str = "encoder",
    ):
        units = check_integers("Encoder", "units", units, 4, range(1, 100))
        strides = check_integers("Encoder", "strides", strides, 4, (1, 2))
        check_positive(
            "Encoder",
            width=width,
            representation_channels=representation_channels,
            image_channels=image_channels,
        )
        conv1_stride, pool1_stride, *block_strides = (*strides, 1, 1)

        images = tf.keras.Input((None, None, image_channels), name="images")
        x = _conv(images, scaled_filters(64, width), 7, conv1_stride, "conv1")
        if pool1_stride > 1:
            x = tf.keras.layers.MaxPool2D(
                3, pool1_stride, padding="same", name="pool1"
            )(x)
        features = {}
        for block in range(4):
            filters = _BLOCK_FILTERS[block]
            for unit in range(1, units[block] + 1):
                x = _unit(
                    x,
                    scaled_filters(filters, width),
                    scaled_filters(filters // _BOTTLENECK, width),
                    stride=block_strides[block] if unit == units[block] else 1,
                    name=f"block{block + 1}/unit_{unit}/bottleneck_v1",
                )
            features[f"block{block + 1}"] = as_float32(x, f"block{block + 1}")
        representation = _conv(
            features["block4"], representation_channels, 3, 1, "compress1"
        )
        representation = as_float32(representation, "representation")

        super().__init__(
            images, {**features, "representation": representation}, name=name
        )
        synchronize(self, synchronized)
        self._parts = _Parts(
            config={
                "units": units,
                "width": float(width),
                "strides": strides,
                "representation_channels": int(representation_channels),
                "image_channels": int(image_channels),
                "synchronized": synchronized,
                "name": name,
            },
            trunk=tf.keras.Model(images, features, name=f"{name}_trunk"),
            compress=tf.keras.Model(
                features["block4"], representation, name=f"{name}_compress"
            ),
        )

    @property
    def trunk(self) -> tf.keras.Model:
        """Images -> features of the blocks; the same layers as in the whole."""
        return self._parts.trunk

    @property
    def compress(self) -> tf.keras.Model:
        """Block 4 -> representation; the same layers as in the whole."""
        return self._parts.compress

    @property
    def representation_channels(self) -> int:
        """Channels of the representation."""
        return self._parts.config["representation_channels"]

    @property
    def image_channels(self) -> int:
        """Channels of the images."""
        return self._parts.config["image_channels"]

    @property
    def block3_channels(self) -> int:
        """Channels of block 3, the deeper of the two amalgamated layers."""
        return self.trunk.output["block3"].shape[-1]

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the representation, along one axis."""
        return math.prod(self._parts.config["strides"])

    @property
    def last_shared_kernel(self) -> tf.Variable:
        """The kernel of compress1: the last one that all tasks share (GradNorm)."""
        return self.get_layer("compress1").kernel

    def get_config(self) -> Dict[str, Any]:
        """Returns the constructor's arguments."""
        return dict(self._parts.config)

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects=None) -> "Encoder":
        """Returns a new encoder with the constructor's arguments."""
        return cls(**config)
