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

from typing import Annotated, Sequence

import tensorflow as tf

from soka_tf.kinds import Width, list_of, whole
from soka_tf.networks.backbone import Backbone
from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.networks.building import check_declared, check_positive, scaled_filters

ENCODER_50 = (3, 4, 6, 3)
ENCODER_26 = (2, 3, 1, 2)

_UNITS = list_of(whole(1, 99), "4 integers between 1 and 99", 4)
_STRIDES = list_of(whole(1, 2), "4 integers between 1 and 2", 4)
_BLOCK_FILTERS = (256, 512, 1024, 2048)
_BOTTLENECK = 4


def convolution(
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
        shortcut = convolution(x, filters, 1, stride, f"{name}/shortcut", relu=False)
    elif stride > 1:
        shortcut = tf.keras.layers.MaxPool2D(1, stride, name=f"{name}/shortcut")(x)
    else:
        shortcut = x
    x = convolution(x, bottleneck_filters, 1, 1, f"{name}/conv1")
    x = convolution(x, bottleneck_filters, 3, stride, f"{name}/conv2")
    x = convolution(x, filters, 1, 1, f"{name}/conv3", relu=False)
    x = tf.keras.layers.Add(name=f"{name}/Add")([shortcut, x])
    return tf.keras.layers.ReLU(name=f"{name}/Relu")(x)


@tf.keras.utils.register_keras_serializable(package="soka_tf")
class Encoder(Backbone):
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
      image_channels: channels of the images; one for the original's colorization.
      synchronized: whether batch normalisation is by the batch of all replicas.
      name: name of the model.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        units: Annotated[Sequence[int], _UNITS] = ENCODER_50,
        width: Width = 1.0,
        strides: Annotated[Sequence[int], _STRIDES] = (2, 2, 2, 2),
        representation_channels: int = 8,
        image_channels: int = 3,
        synchronized: bool = False,
        name: str = "encoder",
    ):
        check_declared(Encoder, units=units, width=width, strides=strides)
        units, strides = (tuple(map(int, each)) for each in (units, strides))
        check_positive(
            "Encoder",
            representation_channels=representation_channels,
            image_channels=image_channels,
        )
        conv1_stride, pool1_stride, *block_strides = (*strides, 1, 1)

        images = tf.keras.Input((None, None, image_channels), name="images")
        x = convolution(images, scaled_filters(64, width), 7, conv1_stride, "conv1")
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
            features[f"block{block + 1}"] = x
        super().__init__(
            images,
            features,
            shared_layer="block4",
            head=lambda x: convolution(x, representation_channels, 3, 1, "compress1"),
            config={
                "units": units,
                "width": float(width),
                "strides": strides,
                "representation_channels": int(representation_channels),
                "image_channels": int(image_channels),
                "synchronized": synchronized,
                "name": name,
            },
            synchronized=synchronized,
            name=name,
        )
