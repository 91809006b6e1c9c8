"""Constant task weights, the baseline of every other rule."""

from typing import Annotated, Optional, Sequence

import tensorflow as tf

from soka_tf.kinds import list_of, number
from soka_tf.soka.balancing.rule import Rule, checked_weights

_WEIGHTS = list_of(number(0.0, 1.0), "a list of non-negative numbers of sum 1")


class Fixed(Rule):
    """Task weights that stay as they are given."""

    def __init__(
        self, tasks: int, weights: Annotated[Optional[Sequence[float]], _WEIGHTS] = None
    ):
        """Takes the weights.

        Args:
          tasks: the number n of tasks.
          weights: in the tasks' order, of sum 1; None for 1 / n each.
        """
        super().__init__()
        self._weights = tuple(checked_weights(weights, tasks, "weights"))

    @property
    def task_weights(self) -> tf.Tensor:
        """The weights, float32 [n]."""
        return tf.constant(self._weights, tf.float32)
