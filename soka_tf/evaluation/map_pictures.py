"""A task's map as a picture: its colours, the scale that reads them, its size."""

from typing import Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from soka_tf.evaluation import image_grid
from soka_tf.tasks import Task

# Where there is no reading: a colour that no colour map here contains.
MISSING_COLOUR = (96, 125, 139)

_PREDICTION_PX = 256
_LONGEST_PX = 1024


def display_range(task: Task, reference: np.ndarray) -> Tuple[float, float]:
    """Returns the physical values at the ends of a task's colour scale.

    Args:
      task: the task.
      reference: physical values; ends that the table of tasks leaves open are their 1st
        and 99th percentile.
    """
    low, high = task.display_range
    finite = reference[np.isfinite(reference)]
    if low is None:
        low = float(np.percentile(finite, 1)) if finite.size else 0.0
    if high is None:
        high = float(np.percentile(finite, 99)) if finite.size else 1.0
    return low, high if high > low else low + 1.0


def colorize(task: Task, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns the colours of a map.

    Args:
      task: the task, for its colour map, or the colours of its classes, of which the
        likeliest is shown. Three channels without a colour map are red, green and blue;
        two channels are red and green.
      values: float [H, W, C] in the task's unit; pixels with a value that is not finite
        get `MISSING_COLOUR`.
      low: value at the lower end of the scale; values beyond the ends are clipped.
      high: value at the upper end of the scale.

    Returns:
      uint8 [H, W, 3].
    """
    values = np.asarray(values, np.float64)
    missing = ~np.isfinite(values).all(axis=-1)
    if task.has_classes:
        colours = np.array(task.class_colours, np.uint8)[values.argmax(-1)]
        colours[missing] = MISSING_COLOUR
        return colours
    shares = np.clip((np.where(missing[..., None], low, values) - low), 0, high - low)
    shares = shares / (high - low)
    if shares.shape[-1] == 1:
        colours = image_grid.apply_colormap(shares[..., 0], task.colormap or "gray")
    else:
        if shares.shape[-1] == 2:
            shares = np.pad(shares, ((0, 0), (0, 0), (0, 1)), constant_values=0.5)
        colours = np.rint(shares * 255).astype(np.uint8)
    colours[missing] = MISSING_COLOUR
    return colours


def map_scale(task: Task, low: float, high: float) -> image_grid.Scale:
    """Returns the colour bar, or the legend, that belongs to `colorize`."""
    if task.has_classes:
        names = tuple(zip(task.classes, task.class_colours))
        return image_grid.Scale(None, names=names)
    if task.channels == 1:
        return image_grid.Scale(task.colormap or "gray", low, high, task.unit)
    if task.is_direction:
        return image_grid.Scale(None, label="x, y, z as red, green, blue")
    return image_grid.Scale(None, label="channels as red, green, blue")


def draw_map(
    task: Task, values: np.ndarray, ends: Tuple[float, float], size: Tuple[int, int]
) -> np.ndarray:
    """Draws one map at the size of a picture.

    Args:
      task: the task.
      values: float [S, S, C] in the task's unit.
      ends: values at the ends of its scale, of `display_range`.
      size: width and height of the result in pixels.

    Returns:
      uint8 [height, width, 3].
    """
    colours = colorize(task, values, *ends)
    # Between the colours of two classes is none, or a third one's.
    return resize_picture(colours, size, smooth=not task.has_classes)


def resize_picture(
    image: np.ndarray, size: Tuple[int, int], smooth: bool = True
) -> np.ndarray:
    """Resizes uint8 [height, width, 3] to (width, height)."""
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size, how))


def draw_prediction(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    tasks: Sequence[Task],
    ranges: Optional[Mapping[str, Tuple[float, float]]] = None,
) -> np.ndarray:
    """Draws one image beside its predicted maps, at the image's aspect ratio.

    Args:
      image: uint8 [height, width, 3].
      maps: task name -> float [S, S, C] in the task's unit.
      tasks: the tasks to draw, from left to right.
      ranges: task name -> values at the ends of its scale; None for each map's own.

    Returns:
      uint8 [height, width, 3].
    """
    size = _shown_size(*image.shape[:2])
    shown = image_grid.Column("", [resize_picture(image, size)])
    groups = [image_grid.Group("rgb", [shown])]
    for task in tasks:
        values = maps[task.name]
        ends = ranges[task.name] if ranges else display_range(task, values)
        colours = draw_map(task, values, ends, size)
        column = image_grid.Column("", [colours], map_scale(task, *ends))
        groups.append(image_grid.Group(task.title, [column]))
    return image_grid.compose(groups)


def _shown_size(height: int, width: int) -> Tuple[int, int]:
    """Returns (width, height): short side 256 unless the long one gets too long."""
    factor = min(_PREDICTION_PX / min(height, width), _LONGEST_PX / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))
