"""Constant task weights, the baseline of every other rule."""

from typing import Optional, Sequence

import tensorflow as tf

from soka_tf.soka.balancing.rule import Rule, checked_weights


class Fixed(Rule):
    """Task weights that stay as they are given."""

    def __init__(self, tasks: int, weights: Optional[Sequence[float]] = None):
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
