"""Networks of tf.keras.applications as backbones.

Layers have Keras' names. The features are the ends of the stages,

    C2, C3, C4                                   strides 4, 8, 16, in float32

and those beyond the output stride are left out. The representation is made of the last:

    compress1, compress1/BatchNorm, compress1/Relu       3x3 to the representation

What differs from Keras' networks: BatchNorm is ours, with their epsilon and our
momentum; there is no Dropout (EfficientNetV2's stochastic depth), since a step passes
an image through the encoder more than once; "preprocessing" brings images from [-1, 1]
to what the published weights expect. ResNet50's are of BGR images: `read_weights` turns
its first kernel round instead.
"""

from typing import Annotated, Any, Callable, Dict, NamedTuple, Tuple

import tensorflow as tf

from soka_tf.errors import UserError, reason
from soka_tf.kinds import Kind, Width
from soka_tf.networks.backbone import Backbone
from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.networks.building import check_declared, check_positive, scaled_filters
from soka_tf.networks.encoder import convolution


class _Architecture(NamedTuple):
    """A network of tf.keras.applications.

    Attributes:
      make: builds it.
      stages: the last layers of strides 4, 8 and 16.
      mean: of red, green, blue in [0, 255], which its preprocessing subtracts.
      deviation: by which that divides.
      bgr: whether its published weights expect blue first.
      scales: whether it has a width (`alpha`) of its own.
    """

    make: Callable[..., tf.keras.Model]
    stages: Tuple[str, str, str]
    mean: Tuple[float, float, float] = (127.5, 127.5, 127.5)
    deviation: Tuple[float, float, float] = (127.5, 127.5, 127.5)
    bgr: bool = False
    scales: bool = False


_ARCHITECTURES = {
    "MobileNetV2": _Architecture(
        tf.keras.applications.MobileNetV2,
        ("block_2_add", "block_5_add", "block_12_add"),
        scales=True,
    ),
    "EfficientNetV2B0": _Architecture(
        lambda **arguments: tf.keras.applications.EfficientNetV2B0(
            include_preprocessing=False, **arguments
        ),
        ("block2b_add", "block3b_add", "block5e_add"),
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        deviation=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
    "ResNet50": _Architecture(
        tf.keras.applications.ResNet50,
        ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
        mean=(123.68, 116.779, 103.939),
        deviation=(1.0, 1.0, 1.0),
        bgr=True,
    ),
}
APPLICATIONS = tuple(_ARCHITECTURES)
STRIDES = (4, 8, 16)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_STRIDE = Kind("4, 8 or 16", lambda value: value in STRIDES)


@tf.keras.utils.register_keras_serializable(package="soka_tf")
class Application(Backbone):
    """A network of tf.keras.applications, to a stage of its own, and a representation.

    Called on float32 [B, H, W, 3] in [-1, 1] of any size that is a multiple of the
    output stride, it returns float32 "C2" .. and "representation" ([B, H /
    output_stride, W / output_stride, representation_channels], never negative).

    Args:
      architecture: one of `APPLICATIONS`.
      width: multiplies the filters of all layers but the representation; of MobileNetV2
        it is `alpha`, and makes multiples of 8.
      output_stride: 4, 8 or 16; the stages after it are left out.
      representation_channels: channels of the representation.
      synchronized: whether batch normalisation is by the batch of all replicas.
      name: name of the model.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        architecture: str,
        width: Width = 1.0,
        output_stride: Annotated[int, _STRIDE] = 16,
        representation_channels: int = 8,
        synchronized: bool = False,
        name: str = "encoder",
    ):
        if architecture not in APPLICATIONS:
            raise ValueError(
                f"Application: architecture must be one of {APPLICATIONS}. Received: "
                f"{architecture!r}."
            )
        check_declared(Application, width=width, output_stride=output_stride)
        check_positive("Application", representation_channels=representation_channels)
        row = _ARCHITECTURES[architecture]
        images = tf.keras.Input((None, None, 3), name="images")
        theirs = _keras_network(architecture, width, _preprocessed(images, row))
        ends = row.stages[: STRIDES.index(output_stride) + 1]
        theirs = tf.keras.Model(
            theirs.input, [theirs.get_layer(end).output for end in ends]
        )
        filters = 1.0 if row.scales else width
        ours = tf.keras.models.clone_model(
            theirs, clone_function=lambda layer: _our_layer(layer, filters)
        )
        layers = [f"C{i + 2}" for i in range(len(ends))]
        super().__init__(
            ours.input,
            dict(zip(layers, ours.outputs)),
            shared_layer=layers[-1],
            head=lambda x: convolution(x, representation_channels, 3, 1, "compress1"),
            config={
                "architecture": architecture,
                "width": float(width),
                "output_stride": int(output_stride),
                "representation_channels": int(representation_channels),
                "synchronized": synchronized,
                "name": name,
            },
            synchronized=synchronized,
            name=name,
        )

    def read_weights(self, path: str) -> None:
        """Takes the weights of a file that Keras publishes for the architecture.

        Args:
          path: a local HDF5 file of the whole network without its top, as
            `tf.keras.applications` keeps them ("..._no_top.h5") or as `save_weights`
            of such a network writes. Those of the last stages are passed over; the
            representation's are in no such file and stay.

        Raises:
          UserError: if the file holds anything else; nothing is changed then.
        """
        config = self.get_config()
        architecture = config["architecture"]
        row = _ARCHITECTURES[architecture]
        if not row.scales and config["width"] != 1.0:
            raise UserError(
                f"{path}: weights of {architecture} are of width 1. Received: "
                f"Application.width = {config['width']}."
            )
        theirs = _keras_network(architecture, config["width"])
        try:
            _check_hdf5(path)
            theirs.load_weights(path)
        except (OSError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise UserError(
                f"{path}: not the weights of tf.keras.applications.{architecture} of "
                f"width {config['width']:g} without its top, as the _no_top.h5 files "
                f"that Keras publishes: {reason(error)}"
            ) from error
        names = {layer.name for layer in theirs.layers}
        for layer in self.layers:
            if layer.weights and layer.name in names:
                layer.set_weights(theirs.get_layer(layer.name).get_weights())
        if row.bgr:
            first = next(
                x for x in self.layers if isinstance(x, tf.keras.layers.Conv2D)
            )
            first.kernel.assign(first.kernel[:, :, ::-1])


def _check_hdf5(path: str) -> None:
    # Whatever is not HDF5, Keras takes for a checkpoint of TensorFlow's.
    with open(path, "rb") as file:
        if file.read(len(_HDF5)) != _HDF5:
            raise ValueError("it is no HDF5 file")


def _keras_network(architecture: str, width: float, images=None) -> tf.keras.Model:
    row = _ARCHITECTURES[architecture]
    return row.make(
        include_top=False,
        weights=None,
        input_shape=(None, None, 3),
        input_tensor=images,
        **({"alpha": width} if row.scales else {}),
    )


def _preprocessed(images: tf.Tensor, row: _Architecture) -> tf.Tensor:
    scale = [127.5 / deviation for deviation in row.deviation]
    offset = [(127.5 - m) / d for m, d in zip(row.mean, row.deviation)]
    if {*scale} == {1.0} and {*offset} == {0.0}:
        return images
    return tf.keras.layers.Rescaling(scale, offset, name="preprocessing")(images)


def _our_layer(layer: tf.keras.layers.Layer, width: float) -> tf.keras.layers.Layer:
    """A layer of Keras' network as this package's networks have it."""
    config: Dict[str, Any] = layer.get_config()
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        del config["momentum"]
        return BatchNorm.from_config(config)
    if isinstance(layer, tf.keras.layers.Dropout):
        return tf.keras.layers.Activation("linear", name=layer.name)
    if "filters" in config:
        config["filters"] = scaled_filters(config["filters"], width)
    if isinstance(layer, tf.keras.layers.Reshape):  # of squeeze and excitation
        *ones, filters = config["target_shape"]
        config["target_shape"] = (*ones, scaled_filters(filters, width))
    return type(layer).from_config(config)
