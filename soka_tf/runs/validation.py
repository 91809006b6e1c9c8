"""How well the student agrees with its teachers on images it does not train on."""

from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.errors import UserError, reason
from soka_tf.runs.callbacks import FAILURES, Every, NotFinite, StepCallback
from soka_tf.runs.checkpoints import BestStudent
from soka_tf.runs.strategy import raise_if_worker_lost
from soka_tf.soka.student import Student
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
        return student(images, training=False), teachers(images, ()).predictions

    return predict if run_eagerly else tf.function(predict, autograph=False)


def soft_errors(
    predict: Predict, batches: Iterable[Mapping[str, tf.Tensor]]
) -> Dict[str, float]:
    """Measures the student against its teachers, without labels or units.

    Of each task: the mean squared difference of the student's and the teacher's maps,
    divided by the variance of the teacher's, that of each channel around its mean over
    all pixels of all images. 0 is the teacher itself, 1 its mean everywhere.

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
            target = np.asarray(tf.cast(targets[task], tf.float32), np.float64)
            error = np.asarray(tf.cast(prediction, tf.float32), np.float64) - target
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


class Validation(StepCallback):
    """Measures every N steps and at the end, and keeps the best student so far."""

    def __init__(
        self,
        measure: Callable[[], Mapping[str, float]],
        best: BestStudent,
        every: Every,
        not_finite: NotFinite,
    ):
        """Prepares the measurements.

        Args:
          measure: such as `soft_errors`; least "validation/mean" is best.
          best: offered every student that was measured.
          every: when it measures.
          not_finite: checked first, for such a student cannot be the best.
        """
        super().__init__()
        self._measure = measure
        self._best = best
        self._every = every
        self._not_finite = not_finite
        self._values: Mapping[str, float] = {}
        self._measured_step: Optional[int] = None

    def values_at(self, step: int) -> Mapping[str, float]:
        """What was measured after a step, empty if nothing was."""
        return self._values if step == self._measured_step else {}

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Measures where that is due."""
        if not self._every.due(self.step):
            return
        self._not_finite.check(self.step, logs, weights=True)
        try:
            self._values = dict(self._measure())
        except (UserError, *FAILURES) as error:
            raise_if_worker_lost(error)
            logging.warning(
                "The student of step %d was not validated (%s). Training goes on.",
                self.step,
                reason(error),
            )
            return
        self._measured_step = self.step
        self._best.offer(self._values[MEAN], self.step)
