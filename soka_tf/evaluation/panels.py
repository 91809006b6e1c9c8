"""Pictures of fixed samples: rgb | teacher | student | truth | error of every task."""

import dataclasses
import math
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.evaluation import image_grid
from soka_tf.evaluation.evaluator import read_truth, to_units
from soka_tf.evaluation.map_pictures import (
    MISSING_COLOUR,
    colorize,
    display_range,
    map_scale,
)
from soka_tf.evaluation.metrics import angle_deg
from soka_tf.tasks import Task

_CELL_PX = 192
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
    without a reading have `map_pictures.MISSING_COLOUR`.

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
