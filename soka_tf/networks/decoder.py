"""The decoders of the released Taskonomy networks: a representation to a map.

Layer names are those of the released checkpoints without the network's scope. Of the
layout "map", which all tasks with an image have but colorization:

    conv2, conv3, conv4, conv5, conv6, conv7     3x3 at the representation's size
    deconv8, conv9, deconv10, conv11, deconv12, conv13, deconv14
                                                 3x3; each deconv doubles the size
    decoder_output, decoder_output/Tanh          3x3 with bias; the output, in float32

where a task of one's own may have /Sigmoid or /Softmax in place of /Tanh. Of the
layout "colours", colorization's, whose 313 channels are logits:

    conv2, conv3, conv4, conv5, conv6, conv_extra, conv7, conv8, conv9
                                                 3x3 at the representation's size
    deconv10, conv11, deconv12                   3x3; each deconv doubles the size
    decoder_output, decoder_output/Linear        1x1 with bias; the output, in float32

All but the output have /BatchNorm and /LeakyRelu.
"""

import dataclasses
from typing import Annotated, Optional, Tuple

import tensorflow as tf

from soka_tf.kinds import Width, checked, whole
from soka_tf.networks.batch_norm import BatchNorm, synchronize
from soka_tf.networks.building import (
    Rebuildable,
    check_declared,
    check_positive,
    scaled_filters,
)

_Layers = Tuple[Tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """One of the two architectures, layers written as (name, filters).

    Attributes:
      trunk: layers at the representation's size.
      stages: each begins with the layer that doubles the size.
      output_kernel_size: of the last convolution.
      activation: of the output, by its Keras name.
    """

    trunk: _Layers
    stages: Tuple[_Layers, ...]
    output_kernel_size: int
    activation: str


_LAYOUTS = {
    "map": _Layout(
        trunk=(
            ("conv2", 1024),
            ("conv3", 1024),
            ("conv4", 512),
            ("conv5", 256),
            ("conv6", 256),
            ("conv7", 128),
        ),
        stages=(
            (("deconv8", 64), ("conv9", 64)),
            (("deconv10", 32), ("conv11", 32)),
            (("deconv12", 16), ("conv13", 32)),
            (("deconv14", 16),),
        ),
        output_kernel_size=3,
        activation="tanh",
    ),
    "colours": _Layout(
        trunk=(
            ("conv2", 1024),
            ("conv3", 1024),
            ("conv4", 512),
            ("conv5", 512),
            ("conv6", 512),
            ("conv_extra", 512),
            ("conv7", 256),
            ("conv8", 256),
            ("conv9", 256),
        ),
        stages=(
            (("deconv10", 256), ("conv11", 256)),
            (("deconv12", 256),),
        ),
        output_kernel_size=1,
        activation="linear",
    ),
}
LAYOUTS = tuple(_LAYOUTS)
ACTIVATIONS = ("tanh", "sigmoid", "softmax", "linear")
# Of encoders to which a decoder of the layout "map" belongs; upsamplings by index.
OUTPUT_STRIDES = tuple(2**n for n in range(len(_LAYOUTS["map"].stages) + 1))


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


@tf.keras.utils.register_keras_serializable(package="soka_tf")
class Decoder(Rebuildable):
    """A representation to a map in the network's range, by "15 layers".

    Called on float32 [B, h, w, representation_channels] of any size, it returns
    float32 [B, h * 2**upsamplings, w * 2**upsamplings, channels]: in [-1, 1] (tanh)
    with the layout "map", logits without bounds with "colours", or as `activation`
    says. Source: the released Taskonomy networks.

    Args:
      channels: channels of the map.
      width: multiplies the filters of all layers but the output.
      upsamplings: how often the size doubles, at most 4 ("map") or 2 ("colours");
        None for as often as the original does. With fewer, the first stages are
        left out; the remaining layers keep their names.
      min_filters: fewest filters of any layer but the output, for small widths.
      representation_channels: channels of the input.
      layout: "map", or "colours" for the original's colorization.
      synchronized: whether batch normalisation is by the batch of all replicas.
      name: name of the model.
      activation: of the output, one of `ACTIVATIONS`; None for the layout's own.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        channels: int,
        width: Width = 1.0,
        upsamplings: Optional[int] = None,
        min_filters: Annotated[int, whole(1, 65536)] = 1,
        representation_channels: int = 8,
        layout: str = "map",
        synchronized: bool = False,
        name: str = "decoder",
        activation: Optional[str] = None,
    ):
        check_declared(Decoder, width=width, min_filters=min_filters)
        check_positive(
            "Decoder",
            channels=channels,
            representation_channels=representation_channels,
        )
        if layout not in LAYOUTS:
            raise ValueError(
                f"Decoder: layout must be one of {LAYOUTS}. Received: {layout!r}."
            )
        parts = _LAYOUTS[layout]
        activation = activation or parts.activation
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"Decoder: activation must be one of {ACTIVATIONS}. Received: "
                f"{activation!r}."
            )
        most = len(parts.stages)
        if upsamplings is None:
            upsamplings = most
        range_of_layout = Annotated[int, whole(0, most)]
        upsamplings = checked("Decoder: upsamplings", range_of_layout, upsamplings)
        representation = tf.keras.Input(
            (None, None, representation_channels), name="representation"
        )
        x = representation
        for stage in (parts.trunk, *parts.stages[most - upsamplings :]):
            for layer_name, filters in stage:
                x = _layer(x, scaled_filters(filters, width, min_filters), layer_name)
        x = tf.keras.layers.Conv2D(
            channels, parts.output_kernel_size, padding="same", name="decoder_output"
        )(x)
        # In float32 whatever the policy: losses and metrics need it.
        prediction = tf.keras.layers.Activation(
            activation,
            dtype="float32",
            name=f"decoder_output/{activation.capitalize()}",
        )(x)
        super().__init__(representation, prediction, name=name)
        synchronize(self, synchronized)
        self.keep_arguments(
            {
                "channels": int(channels),
                "width": float(width),
                "upsamplings": upsamplings,
                "min_filters": int(min_filters),
                "representation_channels": int(representation_channels),
                "layout": layout,
                "synchronized": synchronized,
                "name": name,
                "activation": activation,
            }
        )

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.get_config()["channels"]

    @property
    def layout(self) -> str:
        """Which of the two architectures it is: "map" or "colours"."""
        return self.get_config()["layout"]

    @property
    def activation(self) -> str:
        """Of the output, by its Keras name."""
        return self.get_config()["activation"]

    @property
    def upsamplings(self) -> int:
        """How often the size doubles."""
        return self.get_config()["upsamplings"]
