"""The interface of a student's encoder: named activations, a cut, a representation.

The training cycle cuts an encoder in two: `trunk`, images to activations, and
`compress`, the activation of `shared_layer` to the representation. The competition gets
the representation as a constant; the collaboration differentiates both parts; GradNorm
takes its norms at `last_shared_kernel`. `Encoder` is a backbone, those of
`applications.py` are, and so is any other subclass, bound by `build_student.backbone`.
"""

import dataclasses
from typing import Any, Callable, Dict, Mapping, NamedTuple

import tensorflow as tf

from soka_tf.networks.batch_norm import synchronize
from soka_tf.networks.building import Rebuildable, as_float32

# Divisible by every stride up to 8, and by 10, 12, 14, 15, 16, 32 and 64.
_SIDE = 6720


class FeatureLayer(NamedTuple):
    """Size of an activation [B, H / stride, W / stride, channels]."""

    channels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Keeps sub-models out of Keras' tracking: their layers are counted once."""

    shared_layer: str
    trunk: tf.keras.Model
    compress: tf.keras.Model
    feature_layers: Dict[str, FeatureLayer]


class Backbone(Rebuildable):
    """Images to named activations, "representation" among them.

    Called on float32 [B, H, W, image_channels] in [-1, 1] of any size, it returns
    layer -> float32 [B, H / stride, W / stride, channels], as `feature_layers` has
    them. A subclass is made of plain Keras layers without models among them; a
    BatchNorm that is all that reads a convolution is folded into it by an export.
    """

    def __init__(
        self,
        images: tf.Tensor,
        features: Mapping[str, tf.Tensor],
        shared_layer: str,
        head: Callable[[tf.Tensor], tf.Tensor],
        config: Mapping[str, Any],
        synchronized: bool = False,
        name: str = "encoder",
    ):
        """Makes the whole, the trunk and the compression of one graph.

        Args:
          images: a `tf.keras.Input` of shape (None, None, image_channels).
          features: layer -> Keras tensor [B, h, w, channels]; each leads to the shared
            layer.
          shared_layer: the layer of `features` that the representation is made of.
          head: that layer, in float32 -> the representation [B, h, w, channels]; has a
            kernel.
          config: the subclass's constructor arguments.
          synchronized: whether batch normalisation is by the batch of all replicas.
          name: name of the model.

        Raises:
          ValueError: if an argument is out of range, a BatchNormalization is not
            `soka_tf.networks.batch_norm.BatchNorm`, or a layer's stride is not a whole
            number equal along both axes.
        """
        owner = type(self).__name__
        if shared_layer not in features or "representation" in features:
            raise ValueError(
                f"{owner}: features must include the shared layer, {shared_layer!r}, "
                f"and no 'representation'. Received: {list(features)}."
            )
        features = {layer: as_float32(x, layer) for layer, x in features.items()}
        shared = features[shared_layer]
        representation = as_float32(head(shared), "representation")
        outputs = {**features, "representation": representation}
        super().__init__(images, outputs, name=name)
        synchronize(self, synchronized)

        trunk = tf.keras.Model(images, features, name=f"{name}_trunk")
        compress = tf.keras.Model(shared, representation, name=f"{name}_compress")
        aside = {v.name for v in trunk.weights} - {
            v.name for v in tf.keras.Model(images, shared).weights
        }
        if aside:
            raise ValueError(
                f"{owner}: every layer must lead to the shared layer, "
                f"{shared_layer!r}. Received, beside it: {', '.join(sorted(aside))}."
            )
        if not _kernels(compress):
            raise ValueError(f"{owner}: the head must have a kernel. Received: none.")
        self.keep_arguments(config)
        self._parts = _Parts(
            shared_layer, trunk, compress, _feature_layers(self, owner)
        )

    @property
    def trunk(self) -> tf.keras.Model:
        """Images -> `features`; the same layers as in the whole."""
        return self._parts.trunk

    @property
    def compress(self) -> tf.keras.Model:
        """The shared layer -> representation; the same layers as in the whole."""
        return self._parts.compress

    @property
    def shared_layer(self) -> str:
        """The layer of the trunk that the representation is made of."""
        return self._parts.shared_layer

    @property
    def last_shared_kernel(self) -> tf.Variable:
        """The last kernel before the representation: all tasks share it (GradNorm)."""
        return _kernels(self.compress)[-1]

    @property
    def feature_layers(self) -> Dict[str, FeatureLayer]:
        """Layer -> (channels, stride) of all that a call returns."""
        return dict(self._parts.feature_layers)

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the representation, along one axis."""
        return self._parts.feature_layers["representation"].stride

    @property
    def representation_channels(self) -> int:
        """Channels of the representation."""
        return self._parts.feature_layers["representation"].channels

    @property
    def image_channels(self) -> int:
        """Channels of the images."""
        return self.input_shape[-1]


def _kernels(network: tf.keras.Model) -> list:
    return [v for v in network.weights if v.shape.rank > 1]


def _feature_layers(network: tf.keras.Model, owner: str) -> Dict[str, FeatureLayer]:
    shapes = network.compute_output_shape((1, _SIDE, _SIDE, network.input_shape[-1]))
    layers = {}
    for name, (_, height, width, channels) in shapes.items():
        if height != width or _SIDE % height:
            raise ValueError(
                f"{owner}: the stride of {name!r} must be a whole number, equal along "
                f"both axes, as of padded convolutions. Received: {height} x {width} "
                f"pixels of an image of {_SIDE} x {_SIDE}."
            )
        layers[name] = FeatureLayer(channels, _SIDE // height)
    return layers
