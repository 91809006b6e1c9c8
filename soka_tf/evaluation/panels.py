"""Pictures of fixed samples: rgb | teacher | student | truth | error of every task."""

import dataclasses
import math
from typing import (
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf.data import encodings
from soka_tf.evaluation import image_grid
from soka_tf.evaluation.evaluator import read_truth, to_units
from soka_tf.evaluation.metrics import accumulator_of, angle_deg, main_error
from soka_tf.tasks import Task

# Where there is no reading: a colour that no colour map here contains.
MISSING_COLOUR = (96, 125, 139)
CONSTANT = "one value everywhere"

_CELL_PX = 192
_PREDICTION_PX = 256
_LONGEST_PX = 1024
_ERROR_COLORMAP = "Reds"
_ERROR_SHARE = 1 / 3
_MOST_ANGLE_DEG = 60.0


@dataclasses.dataclass(frozen=True)
class TaskMaps:
    """The maps of one task, in its physical unit.

    Attributes:
      teacher: float32 [rows, H, W, C].
      student: float32 [rows, H, W, C].
      truth: float32 [rows, H, W, C], NaN where there is no reading; None if no row has
        a label.
    """

    teacher: np.ndarray
    student: np.ndarray
    truth: Optional[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Panel:
    """What a picture shows.

    Attributes:
      images: uint8 [rows, H, W, 3].
      maps: task name -> its maps.
    """

    images: np.ndarray
    maps: Mapping[str, TaskMaps]


class Views(NamedTuple):
    """The maps of one task as pictures.

    Attributes:
      reference: what errors are to, "truth", or "teacher" where no row has a label.
      maps: "teacher", "student" and, where there is one, "truth" -> uint8 [h, w, 3] a
        row; None where the row has no value.
      scale: of the maps.
      errors: the same of the student's error.
      error_scale: of the errors, the same for all rows.
    """

    reference: str
    maps: Mapping[str, Sequence[Optional[np.ndarray]]]
    scale: image_grid.Scale
    errors: Sequence[Optional[np.ndarray]]
    error_scale: image_grid.Scale


def compute_panel(
    student: Callable,
    teachers: Mapping[str, Callable],
    batch: Mapping[str, tf.Tensor],
    tasks: Sequence[Task],
) -> Panel:
    """Runs student and teachers on the fixed samples.

    Args:
      student: images [B, S, S, 3], training=False -> task name -> prediction.
      teachers: task name -> (images -> dict with "prediction").
      batch: one element of `soka_tf.data.pipeline.labelled_dataset`; a row each.
      tasks: the tasks to show.
    """
    images = batch["rgb"]
    predictions = student(images, training=False)
    maps = {}
    for task in tasks:
        truth, valid = read_truth(task, batch)
        maps[task.name] = TaskMaps(
            teacher=np.asarray(
                to_units(task, teachers[task.name](images)["prediction"])
            ),
            student=np.asarray(to_units(task, predictions[task.name])),
            truth=None if truth is None else np.where(valid, truth, np.nan),
        )
    return Panel(encodings.rgb_pixels(images), maps)


def draw_panel(
    panel: Panel,
    tasks: Sequence[Task],
    path: Optional[str] = None,
    heading: str = "",
) -> np.ndarray:
    """Draws a panel: a row a sample, one colour scale a task.

    Errors are absolute, in the task's unit (directions: the angle in degrees; classes:
    1 where they differ), against the truth, or against the teacher where no row has a
    label. Their scale is fixed: a third of the maps' scale, 60 degrees, 1; what is
    beyond has the colour of its end. Truth columns are left out without labels; pixels
    without a reading have `MISSING_COLOUR`. The heading names the tasks that the
    student is no good at, see `no_better_than_constant`.

    Args:
      panel: what `compute_panel` returned.
      tasks: the tasks to draw, from left to right.
      path: a PNG to write or replace, None for none.
      heading: a line above the picture.

    Returns:
      uint8 [height, width, 3].
    """
    images = [image_grid.enlarge(image, _CELL_PX) for image in panel.images]
    groups = [image_grid.Group("", [image_grid.Column("rgb", images)])]
    groups += [_task_group(task, panel.maps[task.name]) for task in tasks]
    remarks = [heading] if heading else []
    untrained = no_better_than_constant(panel, tasks)
    if untrained:
        remarks.append(f"barely trained, {CONSTANT} is as good: {', '.join(untrained)}")
    if any(_has_gaps(panel.maps[task.name].truth) for task in tasks):
        remarks.append("blue-grey: no reading")
    drawn = image_grid.compose(groups, "; ".join(remarks))
    if path is not None:
        image_grid.write_png(path, drawn)
    return drawn


def _has_gaps(truth: Optional[np.ndarray]) -> bool:
    """Whether a labelled row lacks some readings."""
    if truth is None:
        return False
    return any(0 < np.isnan(row).sum() < row.size for row in truth)


def no_better_than_constant(panel: Panel, tasks: Sequence[Task]) -> List[str]:
    """Titles of tasks whose student errs no less than one value everywhere.

    That value is the median of all pixels of the truth, or of the teacher's maps where
    no row has a label; of classes the commonest one.
    """
    titles = []
    for task in tasks:
        maps = panel.maps[task.name]
        reference = maps.teacher if maps.truth is None else maps.truth
        valid = np.isfinite(reference).all(axis=-1)
        seen = reference[valid]
        if not len(seen):
            continue
        if task.has_classes:
            commonest = np.bincount(seen.argmax(-1), minlength=task.channels).argmax()
            value = np.eye(task.channels)[commonest]
        else:
            value = np.median(seen, axis=0)
        errors = []
        for answer in (maps.student, np.broadcast_to(value, reference.shape)):
            measured = accumulator_of(task)
            measured.update(answer, reference, valid)
            errors.append(main_error(measured.result()))
        if errors[0] is None or errors[0] >= errors[1]:
            titles.append(task.title)
    return titles


def task_views(task: Task, maps: TaskMaps) -> Views:
    """Returns the maps and errors of a task as pictures, a pixel a pixel."""
    reference = "teacher" if maps.truth is None else "truth"
    shown: Dict[str, np.ndarray] = {"teacher": maps.teacher, "student": maps.student}
    if maps.truth is not None:
        shown["truth"] = maps.truth
    low, high = display_range(task, shown[reference])
    most, unit = _error_range(task, low, high)
    errors = _errors(task, maps.student, shown[reference])

    def coloured(row: np.ndarray) -> np.ndarray:
        return colorize(task, row, low, high)

    return Views(
        reference,
        {
            title: [_picture(row, coloured) for row in rows]
            for title, rows in shown.items()
        },
        map_scale(task, low, high),
        [_picture(row, lambda r: _colorize_error(r, most)) for row in errors],
        image_grid.Scale(
            _ERROR_COLORMAP, 0.0, most, unit, clipped=not task.has_classes
        ),
    )


def _task_group(task: Task, maps: TaskMaps) -> image_grid.Group:
    views = task_views(task, maps)
    columns = [
        image_grid.Column(title, _cells(pictures), views.scale)
        for title, pictures in views.maps.items()
    ]
    errors = _cells(views.errors)
    title = f"error to {views.reference}"
    columns.append(image_grid.Column(title, errors, views.error_scale))
    return image_grid.Group(task.title, columns)


def _cells(
    pictures: Sequence[Optional[np.ndarray]], cell_px: int = _CELL_PX
) -> List[Optional[np.ndarray]]:
    return [None if p is None else image_grid.enlarge(p, cell_px) for p in pictures]


def map_columns(
    task: Task,
    maps: Mapping[str, np.ndarray],
    low: float,
    high: float,
    cell_px: int = _CELL_PX,
) -> List[image_grid.Column]:
    """Returns columns of a task's maps on one colour scale.

    Args:
      task: the task.
      maps: title -> float [rows, H, W, C] in the task's unit.
      low: value at the lower end of the scale, as `high` of `colorize`.
      high: value at its upper end.
      cell_px: about the side of a cell.
    """
    scale = map_scale(task, low, high)

    def coloured(row: np.ndarray) -> np.ndarray:
        return colorize(task, row, low, high)

    return [
        image_grid.Column(
            title, _cells([_picture(row, coloured) for row in rows], cell_px), scale
        )
        for title, rows in maps.items()
    ]


def _picture(row: np.ndarray, colour: Callable) -> Optional[np.ndarray]:
    """Returns the colours of a map; None if it has no value at all."""
    return None if np.isnan(row).all() else colour(row)


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


def _errors(task: Task, student: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns absolute errors [rows, H, W, 1], NaN where either is missing."""
    if task.is_direction:
        return angle_deg(student, reference)[..., None]
    if task.has_classes:
        missing = np.isnan(student + reference).any(-1)
        wrong = (student.argmax(-1) != reference.argmax(-1)).astype(np.float32)
        return np.where(missing, np.nan, wrong)[..., None]
    return np.abs(student - reference).mean(axis=-1, keepdims=True)


def _error_range(task: Task, low: float, high: float) -> Tuple[float, str]:
    if task.is_direction:
        return _MOST_ANGLE_DEG, "degrees"
    if task.has_classes:
        return 1.0, "wrong class"
    # A round number, so that the bar reads well.
    most = (high - low) * _ERROR_SHARE
    unit = 10.0 ** math.floor(math.log10(most))
    return math.ceil(most / unit) * unit, task.unit


def _colorize_error(error: np.ndarray, most: float) -> np.ndarray:
    missing = ~np.isfinite(error[..., 0])
    share = np.where(missing, 0, error[..., 0]) / most
    colours = image_grid.apply_colormap(share, _ERROR_COLORMAP)
    colours[missing] = MISSING_COLOUR
    return colours


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


def _shown_size(height: int, width: int) -> Tuple[int, int]:
    """Returns (width, height): short side 256 unless the long one gets too long."""
    factor = min(_PREDICTION_PX / min(height, width), _LONGEST_PX / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def resize_picture(
    image: np.ndarray, size: Tuple[int, int], smooth: bool = True
) -> np.ndarray:
    """Resizes uint8 [height, width, 3] to (width, height)."""
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size, how))
