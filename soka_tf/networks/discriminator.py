"""The discriminator of the released Taskonomy networks: is this map a label?

Layer names are those of the released checkpoints without the network's scope:

    conv1 (with bias), conv1/LeakyRelu            5x5
    conv2, conv3                                  5x5, with /BatchNorm, /LeakyRelu
    conv4                                         4x4, with /BatchNorm, /LeakyRelu
    conv5 (with bias)                             4x4 to one channel
    logits                                        the output, in float32
"""

from typing import Annotated, Sequence

import tensorflow as tf

from soka_tf.kinds import Flag, Width, list_of, whole
from soka_tf.networks.batch_norm import BatchNorm, synchronize
from soka_tf.networks.building import (
    Rebuildable,
    as_float32,
    check_declared,
    check_positive,
    scaled_filters,
)

_IMAGE_CHANNELS = 3
_STRIDES = list_of(whole(1, 4), "3 integers between 1 and 4", 3)


@tf.keras.utils.register_keras_serializable(package="soka_tf")
class Discriminator(Rebuildable):
    """An image together with a map to a small map of logits, one per patch.

    Called on float32 [B, H, W, 3 + channels], image and map concatenated in this
    order, it returns float32 [B, h, w, 1] logits, not probabilities; h = H / 64
    (rounded up) with the strides of the original.

    Args:
      channels: channels of the map.
      width: multiplies the filters of all layers but the output.
      strides: of conv1, conv2 and conv3, each 1 to 4; smaller images want less.
      synchronized: whether batch normalisation is by the batch of all replicas.
      name: name of the model.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        channels: int,
        width: Width = 1.0,
        strides: Annotated[Sequence[int], _STRIDES] = (4, 4, 4),
        synchronized: Flag = False,
        name: str = "discriminator",
    ):
        check_positive("Discriminator", channels=channels)
        check_declared(Discriminator, width=width, strides=strides)
        strides = tuple(map(int, strides))
        pairs = tf.keras.Input((None, None, _IMAGE_CHANNELS + channels), name="pairs")
        x = pairs
        for layer_name, filters, size, stride in (
            ("conv1", 64, 5, strides[0]),
            ("conv2", 128, 5, strides[1]),
            ("conv3", 256, 5, strides[2]),
            ("conv4", 512, 4, 1),
        ):
            first = layer_name == "conv1"  # never normalised, hence the bias
            x = tf.keras.layers.Conv2D(
                scaled_filters(filters, width),
                size,
                strides=stride,
                padding="same",
                use_bias=first,
                name=layer_name,
            )(x)
            if not first:
                x = BatchNorm(name=f"{layer_name}/BatchNorm")(x)
            x = tf.keras.layers.LeakyReLU(0.2, name=f"{layer_name}/LeakyRelu")(x)
        x = tf.keras.layers.Conv2D(1, 4, padding="same", name="conv5")(x)
        super().__init__(pairs, as_float32(x, "logits"), name=name)
        synchronize(self, synchronized)
        self.keep_arguments(
            {
                "channels": int(channels),
                "width": float(width),
                "strides": strides,
                "synchronized": synchronized,
                "name": name,
            }
        )

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.get_config()["channels"]
