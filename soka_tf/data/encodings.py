"""From file pixels to the network's range, to physical units, and back to files.

    file pixels --encode--> network range --decode--> physical units --store--> file

The arithmetic is the original Taskonomy code's, to 1e-6, its order included: depth
takes the logarithm before it is resized, edges are blurred after they are scaled.
This module needs numpy and scipy only, so that worker processes start quickly.
"""

from typing import Tuple, TypeVar

import numpy as np
from scipy import ndimage

from soka_tf.errors import UserError
from soka_tf.tasks import Task

# Depth files count 1/512 m; 65535 means "no reading" and the original code trusts
# nothing from 64500 (126 m) on.
DEPTH_STEPS_PER_METRE = 512.0
MISSING_DEPTH = 65535
FIRST_INVALID_DEPTH = 64500
_DEPTH_LEVELS = 2.0**16
# Least weight of pixels that count; below, an invalid neighbour has bled into them.
_VALID = 0.99

# Saturated ends of the "low_sat" input, in the network's range.
_LOW_SATURATION_END = 0.8

# A label of a direction that is shorter has none; unit vectors' files are of 8 bits.
_SHORTEST_DIRECTION = 0.1
NO_CLASS = 255  # in files of classes

Values = TypeVar("Values")  # a numpy array or a TensorFlow tensor


def encode(task: Task, pixels: np.ndarray, size: int) -> np.ndarray:
    """Turns a label file's pixels into the range that the network predicts.

    Args:
      task: the task that the label belongs to.
      pixels: uint8 or uint16 [height, width, channels]; a file may hold more channels
        than the task has (curvature: 3 for 2), the first ones are used.
      size: side of the result in pixels.

    Returns:
      float32 [size, size, task.channels]: depth in [0, 1]; "range", "continuous" and
      "direction" in [-1, 1] (far beyond where a "range" is not clipped); "probability"
      in [0, 1]; "classes" 1 at its class, else 0; "standardize" without bounds. NaN
      where the file has no value, of encodings with `gaps`.

    Raises:
      UserError: if the pixels cannot be this task's label.
    """
    encoding = task.encoding
    if encoding is None:
        raise UserError(f"{task.name!r} has no label files.")
    _check_label(task, pixels)
    repeat_rim = task.registered  # Taskonomy's get a darker one, as in the original

    if encoding.kind == "classes":
        return _one_hot(_nearest(pixels[..., 0], size), task.channels)
    if encoding.kind == "log_depth":
        # In this order invalid pixels bleed into their neighbours; `valid_mask`
        # takes those out again.
        logs = np.log1p(pixels[..., :1].astype(np.float64)) / np.log(_DEPTH_LEVELS)
        values = resize(logs, size, repeat_rim=repeat_rim).astype(np.float32)
        if encoding.gaps:
            valid = has_reading(pixels).astype(np.float64)
            values[resize(valid, size, repeat_rim=True) < _VALID] = np.nan
        return values
    if encoding.kind == "standardize":
        values = resize(pixels.astype(np.float64), size)[..., : task.channels]
        return ((values - encoding.mean) / encoding.std).astype(np.float32)

    fractions = pixels[..., : task.channels] / float(np.iinfo(pixels.dtype).max)
    values = resize(fractions, size, repeat_rim=repeat_rim).astype(np.float32)
    if encoding.kind == "probability":
        return values
    if encoding.kind == "direction" and encoding.gaps:
        vectors = values * 2 - 1
        vectors[np.linalg.norm(vectors, axis=-1) < _SHORTEST_DIRECTION] = np.nan
        return vectors
    if encoding.kind == "range":
        values = (values - encoding.low) / (encoding.high - encoding.low)
    values = values * 2 - 1
    if encoding.blur_sigma_px:
        sigma_px = encoding.blur_sigma_px * size / 256
        values = ndimage.gaussian_filter(values, (sigma_px, sigma_px, 0))
    if encoding.clip:
        values = np.clip(values, -1, 1)
    return np.asarray(values, np.float32)


def decode(task: Task, values: Values) -> Values:
    """Turns network values into physical units.

    Written with plain operators only, so that numpy arrays, TensorFlow tensors and
    symbolic tensors of an exported graph all go through the same line.

    Args:
      task: the task that the values belong to.
      values: float32 [..., task.channels], network range.

    Returns:
      The same kind and shape: metres (depth), fraction of the file's full scale
      ("range"), the task's unit ("continuous"), unit vectors ("direction"), pixel
      values ("standardize"), or probabilities ("probability", "classes").
    """
    encoding = task.encoding
    if encoding is None:
        raise UserError(f"{task.name!r} has no physical values.")
    if encoding.kind in ("probability", "classes"):
        return values
    if encoding.kind == "log_depth":
        return (_DEPTH_LEVELS**values - 1.0) / DEPTH_STEPS_PER_METRE
    if encoding.kind == "direction":
        x, y, z = (values[..., i : i + 1] for i in range(3))
        return values / (x * x + y * y + z * z + 1e-12) ** 0.5
    if encoding.kind == "standardize":
        return values * np.float32(encoding.std) + np.float32(encoding.mean)
    return (values + 1.0) * (0.5 * (encoding.high - encoding.low)) + encoding.low


def to_network_range(task: Task, physical: Values) -> Values:
    """Turns physical units into network values: the way back from `decode`.

    For teachers that answer in units; what is beyond the network range stays so.

    Args:
      task: the task that the values belong to, none of Taskonomy's two-channel ones.
      physical: float32 [..., task.channels] in the units of `decode`, a numpy array or
        a TensorFlow tensor.

    Returns:
      The same kind and shape.
    """
    encoding = task.encoding
    if encoding is None or encoding.kind == "standardize":
        raise UserError(f"{task.name!r} has no network range.")
    if encoding.kind == "log_depth":
        # In plain operators there is no logarithm.
        logarithm = np.log
        if not isinstance(physical, np.ndarray):
            import tensorflow as tf

            logarithm = tf.math.log
        steps = physical * DEPTH_STEPS_PER_METRE
        return logarithm(steps + 1.0) / np.float32(np.log(_DEPTH_LEVELS))
    if encoding.kind in ("range", "continuous"):
        return (physical - encoding.low) / (encoding.high - encoding.low) * 2.0 - 1.0
    return physical


def store(task: Task, physical: np.ndarray) -> np.ndarray:
    """Turns physical values into the pixels of a label file.

    Args:
      task: the task that the values belong to.
      physical: float [height, width, task.channels] in the units of `decode`. Values
        that are not finite mean "missing".

    Returns:
      uint8 or uint16 (by the table) [height, width, 1 or 3]; two channels get an empty
      third one, because image files have none with two. Classes become the index of
      the likeliest, `NO_CLASS` where it is missing.
    """
    encoding = task.encoding
    if encoding is None:
        raise UserError(f"{task.name!r} has no label files.")
    finite = np.isfinite(physical)
    physical = np.where(finite, physical, 0.0).astype(np.float64)
    full_scale = 2**encoding.bits - 1
    if encoding.kind == "classes":
        known, likeliest = finite.all(-1, keepdims=True), physical.argmax(-1)
        pixels = np.where(known, likeliest[..., None], NO_CLASS)
    elif encoding.kind == "log_depth":
        steps = np.rint(physical * DEPTH_STEPS_PER_METRE)
        steps = np.clip(steps, 0, FIRST_INVALID_DEPTH - 1)
        pixels = np.where(finite, steps, MISSING_DEPTH)
    elif encoding.kind == "direction":
        pixels = np.rint(
            (physical + 1) / 2 * full_scale
        )  # missing: 128, as in the data
    elif encoding.kind == "standardize":
        pixels = np.rint(physical)
    elif encoding.kind == "continuous":
        share = (physical - encoding.low) / (encoding.high - encoding.low)
        pixels = np.rint(share * full_scale)
    else:
        pixels = np.rint(physical * full_scale)
    pixels = np.clip(pixels, 0, full_scale)
    if pixels.shape[-1] == 2:
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1)))
    return pixels.astype(np.uint8 if encoding.bits == 8 else np.uint16)


def rgb_pixels(rgb: np.ndarray) -> np.ndarray:
    """The networks' input as pixels: float [..., 3] in [-1, 1] as uint8, nearest."""
    return np.clip(np.rint((np.asarray(rgb) + 1) * 127.5), 0, 255).astype(np.uint8)


def low_saturation(rgb: Values) -> Values:
    """Cuts the ends off an encoded image, as the original did outside training.

    The taskbank's demonstration and the representation similarity study showed 14 of
    their networks images clipped to [0.1, 0.9]; training never did.

    Args:
      rgb: float [..., 3] in [-1, 1], numpy array or tensor.

    Returns:
      The same, clipped to [-0.8, 0.8].
    """
    end = _LOW_SATURATION_END
    # A clip made of plain operators, good for arrays and tensors alike.
    return (abs(rgb + end) - abs(rgb - end)) * 0.5


def has_reading(depth_pixels: np.ndarray) -> np.ndarray:
    """Tells which pixels of a depth file the original trusts.

    Args:
      depth_pixels: uint16 [height, width, 1], file pixels of depth_zbuffer.

    Returns:
      bool [height, width, 1].
    """
    return depth_pixels[..., :1] < FIRST_INVALID_DEPTH


def valid_mask(depth_pixels: np.ndarray, size: int, channels: int = 1) -> np.ndarray:
    """Tells which pixels have a depth reading, undisturbed by invalid neighbours.

    Args:
      depth_pixels: uint16 [height, width, 1], file pixels of depth_zbuffer.
      size: side of the result in pixels.
      channels: of the task to be masked. The original resizes the two-channel mask
        (curvature) by another routine, with aligned corners.

    Returns:
      float32 [size, size, 1]: 0, or a weight from 0.99 to 1.
    """
    valid = has_reading(depth_pixels).astype(np.float64)
    if channels == 2:
        height, width = valid.shape[:2]
        mask = ndimage.zoom(valid, (size / height, size / width, 1), order=1)
    else:
        mask = resize(valid, size)
    return np.where(mask < _VALID, 0.0, mask).astype(np.float32)


def resize(
    image: np.ndarray, size: int, antialias: bool = False, repeat_rim: bool = False
) -> np.ndarray:
    """Resizes to a square, bilinearly at half-pixel centres, zeros outside.

    What lies outside counts only when enlarging: zeros give a darker rim, as in the
    original. The result is clipped to the input's range.

    Args:
      image: float64 [height, width, channels].
      size: side of the result in pixels.
      antialias: widens the triangle filter to the reduction's step; repeats the rim.
      repeat_rim: has the image's rim repeated outside, in place of zeros.

    Returns:
      float64 [size, size, channels].
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    if antialias:
        rows, columns = _triangle_weights(height, size), _triangle_weights(width, size)
        resized = np.einsum("yh,hwc,xw->yxc", rows, image, columns, optimize=True)
    else:
        low, high, low_weight, high_weight = _two_taps(height, size, repeat_rim)
        rows = (
            image[low] * low_weight[:, None, None]
            + image[high] * high_weight[:, None, None]
        )
        low, high, low_weight, high_weight = _two_taps(width, size, repeat_rim)
        resized = (
            rows[:, low] * low_weight[:, None] + rows[:, high] * high_weight[:, None]
        )
    return np.clip(resized, image.min(), image.max())


def _nearest(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes [height, width] to a square by the nearest pixels, at their centres."""
    rows, columns = (
        np.minimum((np.arange(size) + 0.5) * length / size, length - 1).astype(np.int64)
        for length in image.shape
    )
    return image[rows[:, None], columns]


def _one_hot(indices: np.ndarray, classes: int) -> np.ndarray:
    """[...] indices as float32 [..., classes]; NaN where there is no such class."""
    values = (indices[..., None] == np.arange(classes)).astype(np.float32)
    values[indices >= classes] = np.nan
    return values


def _two_taps(
    length: int, size: int, repeat_rim: bool
) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Source indices of the two neighbours of every target pixel, and their weights."""
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    low = np.floor(centres).astype(np.int64)
    high = low + 1
    high_weight = centres - low
    low_weight = 1.0 - high_weight
    if not repeat_rim:
        low_weight = np.where(low < 0, 0.0, low_weight)
        high_weight = np.where(high >= length, 0.0, high_weight)
    return np.maximum(low, 0), np.minimum(high, length - 1), low_weight, high_weight


def _triangle_weights(length: int, size: int) -> np.ndarray:
    """The [size, length] matrix of a triangle filter as wide as the reduction."""
    step = length / size
    centres = (np.arange(size) + 0.5) * step
    distances = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(step, 1.0)
    weights = np.maximum(1.0 - distances, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _check_label(task: Task, pixels: np.ndarray) -> None:
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3:
        raise UserError(
            f"A label of {task.name!r} must be uint8 or uint16 pixels [height, width, "
            f"channels]. Received: {pixels.dtype} {list(pixels.shape)}."
        )
    if pixels.shape[-1] < task.file_channels:
        raise UserError(
            f"A label of {task.name!r} needs {task.file_channels} channels. Received: "
            f"{pixels.shape[-1]}."
        )
    if task.encoding.kind == "log_depth" and pixels.dtype != np.uint16:
        raise UserError(
            f"A label of {task.name!r} needs 16 bits per channel (1/512 m). Received: "
            "8 bits."
        )
