"""The poly learning rate, and lower from a step on."""

from typing import Any, Dict

import tensorflow as tf


def poly_schedule(
    base_rate: float, steps: int, power: float = 0.9
) -> tf.keras.optimizers.schedules.LearningRateSchedule:
    """The poly policy: base_rate * (1 - step / steps) ** power, down to 0.

    Args:
      base_rate: the rate of step 0 (paper: 0.001).
      steps: the step at which it reaches 0, and stays there.
      power: the exponent (paper: 0.9).
    """
    # Keras ends at 1e-4 by default; the paper's policy ends at 0.
    return tf.keras.optimizers.schedules.PolynomialDecay(
        base_rate, steps, end_learning_rate=0.0, power=power
    )


class Settling(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that is multiplied by a factor from a step on."""

    def __init__(
        self,
        schedule: tf.keras.optimizers.schedules.LearningRateSchedule,
        first_step: int,
        factor: float,
    ):
        """Of a schedule, the first step with the factor, and the factor."""
        self._schedule, self._first_step, self._factor = schedule, first_step, factor

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of a step, a scalar."""
        rate = self._schedule(step)
        before = tf.cast(step, tf.int64) < self._first_step
        return tf.where(before, rate, self._factor * rate)

    def get_config(self) -> Dict[str, Any]:
        """What makes it again, as Keras has it."""
        return {
            "schedule": self._schedule,
            "first_step": self._first_step,
            "factor": self._factor,
        }
