"""How well a student agrees with its teachers on images, without labels or units."""

from typing import Any, Callable, Dict, Iterable, Mapping, Tuple

import numpy as np
import tensorflow as tf

from soka_tf.data.encodings import decode
from soka_tf.soka.student import Student
from soka_tf.tasks import TASKS
from soka_tf.teachers.pool import TeacherPool

MEAN = "validation/mean"
_LEAST_VARIANCE = 1e-12

Predict = Callable[[tf.Tensor], Tuple[Mapping[str, tf.Tensor], Mapping[str, tf.Tensor]]]


def both(student: Student, teachers: TeacherPool, run_eagerly: bool = False) -> Predict:
    """Returns a function: images -> the student's maps and its teachers'.

    Args:
      student: called with training=False.
      teachers: of the student's tasks.
      run_eagerly: whether no graph is traced, for tests.
    """

    def predict(images):
        return student(images, training=False), teachers(images, ()).maps

    return predict if run_eagerly else tf.function(predict, autograph=False)


def soft_errors(
    predict: Predict, batches: Iterable[Mapping[str, tf.Tensor]]
) -> Dict[str, float]:
    """Measures the student against its teachers, without labels or units.

    Of each task: the mean squared difference of the student's and the teacher's maps
    (of unit vectors, where the loss is of directions alone), divided by the variance of
    the teacher's, that of each channel around its mean over all pixels of all images. 0
    is the teacher itself, 1 its mean everywhere.

    Args:
      predict: of `both`.
      batches: {"rgb": float32 [B, H, W, 3] in [-1, 1]}.

    Returns:
      "validation/soft/<task>" -> its error, and "validation/mean", their mean.
    """
    sums: Dict[str, Any] = {}
    for batch in batches:
        predictions, targets = predict(batch["rgb"])
        for task, prediction in predictions.items():
            target = _compared(task, targets[task])
            error = _compared(task, prediction) - target
            axes = (0, 1, 2)
            new = np.stack(
                [
                    np.square(error).sum(axes),
                    target.sum(axes),
                    np.square(target).sum(axes),
                    np.full(target.shape[-1], target[..., 0].size, np.float64),
                ]
            )
            sums[task] = sums.get(task, 0.0) + new
    values = {}
    for task, (squared_error, total, total_squares, count) in sums.items():
        variance = total_squares / count - np.square(total / count)
        values[f"validation/soft/{task}"] = float(
            np.mean(squared_error / count) / max(np.mean(variance), _LEAST_VARIANCE)
        )
    values[MEAN] = float(np.mean(list(values.values())))
    return values


def _compared(task: str, values: tf.Tensor) -> np.ndarray:
    """Values as they are compared: float64, network range."""
    values = np.asarray(tf.cast(values, tf.float32), np.float64)
    row = TASKS.get(task)
    # Such a loss leaves the lengths of vectors to chance.
    return decode(row, values) if row and row.loss == "cosine" else values
