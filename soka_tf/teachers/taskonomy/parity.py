"""Compares a converted teacher with arrays recorded from the original networks.

The released weights may not be passed on, so the reference data was recorded with
weights drawn from the names of the variables: drawn again they are the same
networks. This module has the rules (`draw`, `reference_images`) and the comparison
(`check`). What is compared with what, and why the tolerances are what they are, stands
by the README.md in the folder of reference data.
"""

import pathlib
import zipfile
import zlib
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Tuple

import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf.atomic import PathLike
from soka_tf.data import filesystem
from soka_tf.errors import UserError
from soka_tf.networks.encoder import ENCODER_26
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.variable_matching import Shape

SIDE = 256
# Largest absolute difference of representation and prediction. Between the original's
# TensorFlow 1.5 and ours rounding alone makes 1.5e-5 with moving statistics; the same
# code on this TensorFlow differs by nothing on the same kind of processor.
TOLERANCES = {"tf15": 5e-5, "tf215": 2e-5}
_RANGE = 4.0  # of the representation, which the tolerances are meant for

# What numpy, zipfile and Pillow raise, each in its way, on a damaged file.
_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_NO_IMAGE = (*_DAMAGE, SyntaxError, Image.DecompressionBombError)

_NOISE_SEED = 20240501
# Strides of the recorded subsets: space, channels.
_ENCODER_SUBSETS = {
    "conv1": (8, 8),
    "pool1": (4, 8),
    "block1": (3, 8),
    "block2": (3, 16),
    "block3": (3, 32),
    "block4": (3, 64),
}
_STATISTICS_ONLY = "statistics"
_STATISTICS = (np.mean, np.std, np.min, np.max)
_ENDINGS = ("/Relu", "/LeakyRelu", "/Tanh", "/Linear", "/BatchNorm", "")


class Row(NamedTuple):
    """One comparison.

    Attributes:
      layer: the original's name of the end point.
      array: "all"; "every k, c", one in k pixels along an axis and one in c channels;
        or "statistics", mean, std, min and max of each image.
      runtime: "tf15" or "tf215", what the array was recorded with.
      absolute: the largest absolute difference.
      relative: the same, in parts of the largest recorded value.
      tolerance: the largest absolute difference allowed.
    """

    layer: str
    array: str
    runtime: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; a NaN never is."""
        return self.absolute <= self.tolerance


def draw(name: str, shape: Shape, salt: str = "") -> np.ndarray:
    """Draws the value of a variable from its name in the original code.

    Args:
      name: TensorFlow 1 name without ":0".
      shape: its shape there.
      salt: appended to the name for the seed, for other weights of the same kind.

    Returns:
      float32, the same on every machine.
    """
    random = np.random.RandomState(zlib.crc32((name + salt).encode()) & 0xFFFFFFFF)
    *parents, layer, leaf = name.split("/")
    if leaf in ("gamma", "moving_variance"):
        value = random.uniform(0.5, 1.5, shape)
    elif leaf == "weights":
        fan_in = np.prod(shape[:-1])
        if layer.startswith("deconv"):
            fan_in = shape[0] * shape[1] * shape[3]
        gain = 1.0
        if "bottleneck_v1" in parents:
            # Keeps the residual stream, and with it the tanh, in range.
            gain = {"conv3": 0.25, "shortcut": 0.7}.get(layer, 1.0)
        value = random.standard_normal(shape) * (gain * np.sqrt(2 / fan_in))
    else:
        value = random.standard_normal(shape) * 0.1
    return value.astype(np.float32)


def reference_images(folder: PathLike) -> np.ndarray:
    """The two images of the reference data: its photograph, and noise.

    Returns:
      float32 [2, 256, 256, 3] in [-1, 1].

    Raises:
      UserError: if the folder has no such photograph.
    """
    path = pathlib.Path(folder) / "photo_test_256.png"
    try:
        with filesystem.open_regular(path) as file, Image.open(file) as image:
            pixels = np.asarray(image)
    except _NO_IMAGE as error:
        raise UserError(f"{path}: the reference image cannot be read ({error}).") from (
            error
        )
    if pixels.shape != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
        raise UserError(
            f"{path}: the reference image must be uint8 [256, 256, 3]. Received: "
            f"{pixels.dtype} {list(pixels.shape)}."
        )
    # In float32 and in this order, as the original: it makes the last bit.
    photograph = np.float32(pixels / 255.0)
    photograph *= 2
    photograph += -1
    noise = np.random.RandomState(_NOISE_SEED).uniform(-1, 1, photograph.shape)
    return np.stack([photograph, noise.astype(np.float32)])


def check(teacher: TaskonomyTeacher, folder: PathLike) -> List[Row]:
    """Compares a teacher with the reference data, layer by layer.

    The networks run eagerly: compiled, TensorFlow fuses layers and the last bits
    differ.

    Args:
      teacher: a full-size teacher, made from weights drawn by `draw` without salt.
      folder: the reference data.

    Returns:
      A row for each end point and runtime, in the order of the layers.

    Raises:
      UserError: if the folder lacks what this teacher has to be compared with.
    """
    folder = pathlib.Path(folder)
    activations = _activations(teacher, reference_images(folder))
    order = _depths(list(activations))
    ends = ["encoder_output"] + ["decoder/decoder_output"] * bool(teacher.decoder)
    rows = []
    for runtime, tolerance in TOLERANCES.items():
        found = list(_recorded(teacher, folder / f"network_{runtime}"))
        for record in found:
            _check_record(record, activations, folder)
        for record in sorted(found, key=lambda record: order[record.layer]):
            ours = record.view(activations[record.layer].astype(np.float64))
            absolute = float(np.abs(ours - record.values).max())
            largest = float(np.abs(record.values).max())
            allowed = tolerance
            if record.layer not in ends:
                # Inside the networks values grow beyond the representation's range,
                # and rounding with them.
                allowed *= max(1.0, largest / _RANGE)
            relative = absolute / max(largest, 1e-30)
            rows.append(
                Row(record.layer, record.array, runtime, absolute, relative, allowed)
            )
    compared = {row.layer for row in rows if row.array != _STATISTICS_ONLY}
    lacking = [end for end in ends if end not in compared]
    if lacking:
        raise UserError(
            f"{folder}: has no reference for {' and '.join(lacking)} of this teacher "
            f"of {teacher.task.name!r}. It must hold network_tf15/ or network_tf215/ "
            "with the arrays of its kind of network."
        )
    return rows


class _Record(NamedTuple):
    """A recorded array, and how to get ours in the same form."""

    layer: str
    array: str
    view: Callable[[np.ndarray], np.ndarray]
    values: np.ndarray


def _check_record(
    record: _Record, activations: Mapping[str, np.ndarray], folder: pathlib.Path
) -> None:
    """Refuses an array that is not of the end point it is recorded for."""
    ours = activations.get(record.layer)
    shape = None if ours is None else record.view(ours).shape
    values = record.values
    if values.dtype.kind != "f" or values.shape != shape or not values.size:
        raise UserError(
            f"{folder}: its {record.array} of {record.layer} is {values.dtype} "
            f"{list(values.shape)}, the teacher's is float {list(shape or ())}. Is it "
            "reference data of these networks?"
        )


def _activations(
    teacher: TaskonomyTeacher, images: np.ndarray
) -> Dict[str, np.ndarray]:
    """The original's name of every end point -> our activation, in order."""
    if teacher.encoder.image_channels == 1:
        # So it was recorded: the red channel in place of the lightness.
        images = images[..., :1]
    activations = _end_points(teacher.encoder, "encoder/", images)
    activations["encoder_output"] = activations.pop("encoder/representation")
    if teacher.decoder:
        representation = activations["encoder_output"]
        activations.update(_end_points(teacher.decoder, "decoder/", representation))
    return activations


def _end_points(network: tf.keras.Model, scope: str, inputs) -> Dict[str, np.ndarray]:
    """Every layer after its normalisation and activation, under the layer's name."""
    last = {}  # a layer's name without ending -> the last layer that has it
    for layer in network.layers:
        ending = next(end for end in _ENDINGS if layer.name.endswith(end))
        name = layer.name[: len(layer.name) - len(ending)]
        last.pop(name, None)
        last[name] = layer.output
    model = tf.keras.Model(network.inputs, last)
    return {scope + name: value.numpy() for name, value in model(inputs).items()}


def _depths(layers: List[str]) -> Dict[str, float]:
    """Places the end points in order, a block behind the last of its units."""
    places = {layer: float(place) for place, layer in enumerate(layers)}
    for layer in layers:
        units = [places[other] for other in layers if other.startswith(f"{layer}/unit")]
        if units:
            places[layer] = max(units) + 0.5
    return places


def _recorded(teacher: TaskonomyTeacher, folder: pathlib.Path) -> Iterator[_Record]:
    """Everything in one runtime's folder that this teacher can be compared with."""
    channels = teacher.decoder.channels if teacher.decoder else None
    others = _load(folder / "other_heads_eval.npz")
    if teacher.encoder.image_channels == 1:
        yield from _arrays("encoder_output", others, "colorization/encoder_output")
        sub = "colorization/decoder_output_sub"
        if channels:
            yield from _arrays("decoder/decoder_output", others, sub, 8, 4)
        return
    small = _units(teacher) == ENCODER_26
    encoder = _load(folder / f"encoder{26 if small else 50}_eval.npz")
    yield from _statistics(encoder)
    for layer, (space, thickness) in _ENCODER_SUBSETS.items():
        layer = f"encoder/{layer}"
        yield from _arrays(layer, encoder, f"sub/{layer}", space, thickness)
    yield from _arrays("encoder_output", encoder, "encoder_output")
    if channels is None:
        return
    end = "decoder/decoder_output"
    if small:
        if channels == 3:
            yield from _arrays(end, encoder, "decoder_output_sub", 4)
        return
    decoder = _load(folder / f"decoder_c{channels}_eval.npz")
    yield from _statistics(decoder)
    yield from _arrays(end, decoder, "decoder_output")
    yield from _arrays(end, decoder, "decoder_output@2", 2)
    yield from _arrays(end, others, f"decoder_c{channels}/decoder_output_sub", 16)


def _units(teacher: TaskonomyTeacher) -> Tuple[int, ...]:
    return tuple(teacher.encoder.get_config()["units"])


def _arrays(
    layer: str, file: Mapping[str, np.ndarray], key: str, space: int = 1, thick: int = 1
) -> Iterator[_Record]:
    if key in file:
        kind = "all" if space == thick == 1 else f"every {space}, {thick}"
        yield _Record(layer, kind, lambda x: x[:, ::space, ::space, ::thick], file[key])


def _statistics(file: Mapping[str, np.ndarray]) -> Iterator[_Record]:
    for name, values in zip(file.get("stats_names", ()), file.get("stats", ())):
        # The fifth, the l2 norm, grows with the layer's size; the others cover it.
        yield _Record(
            str(name), _STATISTICS_ONLY, _summary, values[:, : len(_STATISTICS)]
        )


def _summary(activation: np.ndarray) -> np.ndarray:
    flat = activation.reshape(len(activation), -1)
    return np.stack([statistic(flat, axis=1) for statistic in _STATISTICS], axis=1)


def _load(path: pathlib.Path) -> Dict[str, np.ndarray]:
    """The arrays of a file; none where there is no file."""
    if not path.is_file():
        return {}
    try:
        # numpy leaves a damaged file open
        with (
            filesystem.open_regular(path) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            return dict(arrays)
    except _DAMAGE as error:
        raise UserError(f"{path}: the reference data is damaged ({error}).") from error
