"""Maps at the size of their image, band by band: photographs are large."""

from typing import Tuple

import numpy as np
import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.tasks import Task

# Values of a map that are resized at a time; in float64, 32 MiB.
_BAND_VALUES = 1 << 22


def pixels_at(task: Task, values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels of a map's file at the size of its image.

    Maps are resized in the physical unit (depth in metres, classes as probabilities, of
    which the likeliest is taken then), see `resized`.

    Args:
      task: the task.
      values: float32 [h, w, C] in the task's unit, of the whole image.
      height: of the image in pixels.
      width: of the image in pixels.

    Returns:
      uint8 or uint16 [height, width, 1 or 3], see `encodings.store`.
    """
    rows = max(1, _BAND_VALUES // (width * values.shape[-1]))
    bands = [
        encodings.store(
            task, resized(task, values, height, width, (at, min(at + rows, height)))
        )
        for at in range(0, height, rows)
    ]
    return np.concatenate(bands)


def resized(
    task: Task,
    values: np.ndarray,
    height: int,
    width: int,
    rows: Tuple[int, int],
) -> np.ndarray:
    """Rows of a map, resized bilinearly at half-pixel centres; the rim is repeated.

    Where the map shrinks the filter is as wide as the reduction.

    Args:
      task: the task; directions become unit vectors again.
      values: float32 [h, w, C] in the task's unit, of the whole image.
      height: of the whole result in pixels.
      width: of the whole result in pixels.
      rows: first row wanted, and the one after the last.

    Returns:
      float32 [rows, width, C] in the task's unit.
    """
    first, end = rows
    if values.shape[:2] == (height, width):
        return values[first:end]
    scale = (height / values.shape[0], width / values.shape[1])
    with tf.device("CPU:0"):  # the only one with this operation
        band = tf.raw_ops.ScaleAndTranslate(
            images=values[None],
            size=[end - first, width],
            scale=scale,
            translation=[-float(first), 0.0],
            kernel_type="triangle",
            antialias=True,
        )
    found = band.numpy()[0]
    return encodings.decode(task, found) if task.is_direction else found
