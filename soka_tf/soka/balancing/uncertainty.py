"""Weights from learned uncertainty (Kendall, Gal and Cipolla, CVPR 2018).

The error of task i has a scale b_i = exp(s_i). The negative log likelihood of a Laplace
distribution, whose error is the absolute one of `soft_loss = 'l1'`, is L_i / b_i +
log b_i, up to a constant. The published regression form, of a Gaussian and s_i the log
of its variance, is half of the same expression with the squared error as L_i; neither
Adam nor `encoder_shares` respond to the factor 1 / 2, so that one form serves both
losses. Its minimum over s_i is at b_i = L_i.
"""

import math
from typing import List

import tensorflow as tf

from soka_tf.soka.balancing.rule import Observation, Rule, replicated_variable

# Of |s_i|: weights stay between 1 / 22026 and 22026 where a loss is 0 for long.
LARGEST_LOG_SCALE = 10.0


class Uncertainty(Rule):
    """Task weights exp(-s_i), of any sum; s_i minimises exp(-s_i) L_i + s_i.

    Attributes:
      log_scales: s, float32 [n]; log n each at first, so that the weights begin at
        1 / n.
    """

    shares_encoder = True
    loss_name = "loss/weighting"

    def __init__(self, tasks: int):
        """Creates the state of `tasks` tasks."""
        super().__init__()
        self.log_scales = replicated_variable([math.log(tasks)] * tasks, "log_scales")

    @property
    def task_weights(self) -> tf.Tensor:
        """The weights omega = exp(-s), float32 [n]."""
        return tf.exp(-self.log_scales)

    @property
    def optimized(self) -> List[tf.Variable]:
        """The log scales."""
        return [self.log_scales]

    def encoder_shares(self, seen: Observation) -> tf.Tensor:
        """The task weights scaled to mean 1.

        Their ratios are learnt; the balance of soft targets and L_A stays alpha's, for
        it was chosen for weights of mean 1, and exp(-s_i) may be a hundred.
        """
        log_scales = tf.convert_to_tensor(self.log_scales)
        return float(log_scales.shape[0]) * tf.nn.softmax(-log_scales)

    def step(
        self,
        seen: Observation,
        optimizer: tf.keras.optimizers.Optimizer,
        replicas: int = 1,
    ) -> tf.Tensor:
        """Moves s one step down sum_i exp(-s_i) L_i + s_i."""
        log_scales = tf.convert_to_tensor(self.log_scales)
        weighted = tf.exp(-log_scales) * seen.losses
        optimizer.apply_gradients([((1.0 - weighted) / replicas, self.log_scales)])
        self.log_scales.assign(
            tf.clip_by_value(self.log_scales, -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
        )
        return tf.reduce_sum(weighted + log_scales)
