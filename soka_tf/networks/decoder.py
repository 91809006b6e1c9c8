"""The decoder of the released Taskonomy networks: a representation to a map.

Layer names are those of the released checkpoints without the network's scope:

    conv2, conv3, conv4, conv5, conv6, conv7     3x3 at the representation's size
    deconv8, conv9, deconv10, conv11, deconv12, conv13, deconv14
                                                 3x3; each deconv doubles the size
    decoder_output, decoder_output/Tanh          3x3 with bias; the output, in float32

All but the output have /BatchNorm and /LeakyRelu.
"""

import dataclasses
from typing import Any, Dict

import tensorflow as tf

from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.networks.building import check_integers, check_positive, scaled_filters

_TRUNK = (
    ("conv2", 1024),
    ("conv3", 1024),
    ("conv4", 512),
    ("conv5", 256),
    ("conv6", 256),
    ("conv7", 128),
)
_STAGES = (
    (("deconv8", 64), ("conv9", 64)),
    (("deconv10", 32), ("conv11", 32)),
    (("deconv12", 16), ("conv13", 32)),
    (("deconv14", 16),),
)


def _layer(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    """(Transposed) convolution without bias, batch normalisation, leaky ReLU."""
    arguments = dict(
        filters=filters, kernel_size=3, padding="same", use_bias=False, name=name
    )
    if name.startswith("deconv"):
        x = tf.keras.layers.Conv2DTranspose(strides=2, **arguments)(x)
    else:
        x = tf.keras.layers.Conv2D(**arguments)(x)
    x = BatchNorm(name=f"{name}/BatchNorm")(x)
    return tf.keras.layers.LeakyReLU(0.2, name=f"{name}/LeakyRelu")(x)


@dataclasses.dataclass(frozen=True)
class _Parts:
    config: Dict[str, Any]


@tf.keras.utils.register_keras_serializable(package="soka_tf")
class Decoder(tf.keras.Model):
    """A representation to a map in the network's range, by "15 layers".

    Called on float32 [B, h, w, representation_channels] of any size, it returns
    float32 [B, h * 2**upsamplings, w * 2**upsamplings, channels] in [-1, 1] (tanh).
    Source: the released Taskonomy networks (four upsamplings).

    Args:
      channels: channels of the map.
      width: multiplies the filters of all layers but the output.
      upsamplings: how often the size doubles, 0 to 4. With fewer than four, the
        first stages are left out; the remaining layers keep their names.
      min_filters: fewest filters of any layer but the output, for small widths.
      representation_channels: channels of the input.
      name: name of the model.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        channels: int,
        width: float = 1.0,
        upsamplings: int = 4,
        min_filters: int = 1,
        representation_channels: int = 8,
        name: str = "decoder",
    ):
        check_positive(
            "Decoder",
            channels=channels,
            width=width,
            min_filters=min_filters,
            representation_channels=representation_channels,
        )
        (upsamplings,) = check_integers(
            "Decoder", "upsamplings", (upsamplings,), 1, range(len(_STAGES) + 1)
        )
        representation = tf.keras.Input(
            (None, None, representation_channels), name="representation"
        )
        x = representation
        for stage in (_TRUNK, *_STAGES[len(_STAGES) - upsamplings :]):
            for layer_name, filters in stage:
                x = _layer(x, scaled_filters(filters, width, min_filters), layer_name)
        x = tf.keras.layers.Conv2D(channels, 3, padding="same", name="decoder_output")(
            x
        )
        # In float32 whatever the policy: losses and metrics need it.
        prediction = tf.keras.layers.Activation(
            "tanh", dtype="float32", name="decoder_output/Tanh"
        )(x)
        super().__init__(representation, prediction, name=name)
        # A plain object, because Keras would track a bare dictionary.
        self._parts = _Parts(
            {
                "channels": int(channels),
                "width": float(width),
                "upsamplings": upsamplings,
                "min_filters": int(min_filters),
                "representation_channels": int(representation_channels),
                "name": name,
            }
        )

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self._parts.config["channels"]

    @property
    def upsamplings(self) -> int:
        """How often the size doubles."""
        return self._parts.config["upsamplings"]

    def get_config(self) -> Dict[str, Any]:
        """Returns the constructor's arguments."""
        return dict(self._parts.config)

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects=None) -> "Decoder":
        """Returns a new decoder with the constructor's arguments."""
        return cls(**config)
