"""Measures the student beside its training, and keeps the best one."""

from typing import Any, Callable, Mapping, Optional

from absl import logging

from soka_tf.errors import UserError, reason
from soka_tf.evaluation.soft_errors import MEAN
from soka_tf.runs.callbacks.not_finite import NotFinite
from soka_tf.runs.callbacks.step import FAILURES, Every, StepCallback
from soka_tf.runs.checkpoints import BestStudent
from soka_tf.runs.strategy import raise_if_worker_lost


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
