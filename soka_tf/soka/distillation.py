"""Soft targets: the student imitates the teachers' predictions (Eqs. 5 and 6)."""

from typing import Dict, Mapping, Optional

import tensorflow as tf

from soka_tf.networks.replicas import mean_over_replicas

KINDS = ("l2", "l1")


def soft_target_loss(
    prediction: tf.Tensor,
    soft_target: tf.Tensor,
    kind: str = "l2",
    weights: Optional[tf.Tensor] = None,
) -> tf.Tensor:
    """L_soft of one task (Eq. 5), the mean over batch, pixels and channels.

    Args:
      prediction: the student's, [B, H, W, C], network range.
      soft_target: the teacher's, same shape and range; taken as a constant.
      kind: "l2" (Eq. 5) or "l1" (the metric of Taskonomy's teachers).
      weights: of the errors, of a shape that broadcasts to theirs; None for 1. As in
        Taskonomy's code the mean is over the elements whose weight is not 0, which
        is 0 if there are none; the weights themselves are not summed. Replicas
        divide by the mean of their counts, so that their mean is the whole batch's.

    Returns:
      A float32 scalar.
    """
    error = tf.cast(prediction, tf.float32) - tf.stop_gradient(
        tf.cast(soft_target, tf.float32)
    )
    if kind == "l2":
        error = tf.square(error)
    elif kind == "l1":
        error = tf.abs(error)
    else:
        raise ValueError(f"kind must be one of {KINDS}. Received: {kind!r}.")
    if weights is None:
        return tf.reduce_mean(error)
    weights = tf.broadcast_to(tf.cast(weights, tf.float32), tf.shape(error))
    counted = mean_over_replicas(tf.cast(tf.math.count_nonzero(weights), tf.float32))
    return tf.math.divide_no_nan(tf.reduce_sum(weights * error), counted)


def soft_target_losses(
    predictions: Mapping[str, tf.Tensor],
    soft_targets: Mapping[str, tf.Tensor],
    kind: str = "l2",
    weights: Optional[Mapping[str, tf.Tensor]] = None,
) -> Dict[str, tf.Tensor]:
    """L_soft of every task, in the order of `predictions`; `weights` where known."""
    weights = weights or {}
    return {
        task: soft_target_loss(prediction, soft_targets[task], kind, weights.get(task))
        for task, prediction in predictions.items()
    }
