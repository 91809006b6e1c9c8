"""Soft targets: the student imitates the teachers' predictions (Eqs. 5 and 6)."""

from typing import Dict, Mapping, Optional, Union

import tensorflow as tf

from soka_tf.networks.replicas import mean_over_replicas
from soka_tf.task_rows import LOSSES

KINDS = ("l2", "l1")  # of the paper and of Taskonomy: of any task
REDUCTIONS = ("mean", "sum")
_LEAST = 1e-7  # of probabilities, before their logarithm
_SHORTEST = 1e-6  # of squared lengths


def soft_target_loss(
    prediction: tf.Tensor,
    soft_target: tf.Tensor,
    kind: str = "l2",
    weights: Optional[tf.Tensor] = None,
    reduction: str = "mean",
) -> tf.Tensor:
    """L_soft of one task (Eq. 5), the mean over batch, pixels and channels.

    All losses are 0, their least, where the student agrees with its teacher.

    Args:
      prediction: the student's, [B, H, W, C], network range.
      soft_target: the teacher's, same shape and range; taken as a constant.
      kind: "l2" (Eq. 5) or "l1" (the metric of Taskonomy's teachers); "bce", the
        binary cross-entropy of probabilities less that of the teacher with itself;
        and, a value a pixel, "kl", the Kullback-Leibler divergence of the student's
        probabilities of the channels from the teacher's, in nats, or "cosine", 1 less
        the cosine of the angle between both vectors.
      weights: of the errors, of a shape that broadcasts to theirs; None for 1. As in
        Taskonomy's code the mean is over the elements whose weight is not 0, which
        is 0 if there are none; the weights themselves are not summed. Replicas
        divide by the mean of their counts, so that their mean is the whole batch's.
      reduction: "mean", or "sum": over the pixels and channels of an image, as Eq. 5
        is printed, and the mean over the images.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: if the kind or the reduction is none of these.
    """
    if kind not in _ERRORS:
        raise ValueError(f"kind must be one of {LOSSES}. Received: {kind!r}.")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction must be one of {REDUCTIONS}. Received: {reduction!r}."
        )
    predicted = tf.cast(prediction, tf.float32)
    wanted = tf.stop_gradient(tf.cast(soft_target, tf.float32))
    error = _ERRORS[kind](predicted, wanted)
    if reduction == "sum":
        weighted = error if weights is None else error * tf.cast(weights, tf.float32)
        return tf.reduce_mean(tf.reduce_sum(weighted, axis=[1, 2, 3]))
    if weights is None:
        return tf.reduce_mean(error)
    weights = tf.broadcast_to(tf.cast(weights, tf.float32), tf.shape(error))
    counted = mean_over_replicas(tf.cast(tf.math.count_nonzero(weights), tf.float32))
    return tf.math.divide_no_nan(tf.reduce_sum(weights * error), counted)


def _binary_divergence(predicted: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    return _divergence(predicted, wanted) + _divergence(1.0 - predicted, 1.0 - wanted)


def _divergence(predicted: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    return wanted * (tf.math.log(wanted + _LEAST) - tf.math.log(predicted + _LEAST))


def _kl(predicted: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(_divergence(predicted, wanted), -1, keepdims=True)


def _cosine(predicted: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    first, second = (
        tf.math.l2_normalize(v, -1, _SHORTEST) for v in (predicted, wanted)
    )
    # Half the squared distance of unit vectors: exact where they are nearly the same.
    return 0.5 * tf.reduce_sum(tf.square(first - second), -1, keepdims=True)


_ERRORS = {
    "l1": lambda predicted, wanted: tf.abs(predicted - wanted),
    "l2": lambda predicted, wanted: tf.square(predicted - wanted),
    "bce": _binary_divergence,
    "kl": _kl,
    "cosine": _cosine,
}


def soft_target_losses(
    predictions: Mapping[str, tf.Tensor],
    soft_targets: Mapping[str, tf.Tensor],
    kinds: Union[str, Mapping[str, str]] = "l2",
    weights: Optional[Mapping[str, tf.Tensor]] = None,
    reduction: str = "mean",
) -> Dict[str, tf.Tensor]:
    """L_soft of every task, in the order of `predictions`; `weights` where known.

    Args:
      predictions: task -> the student's.
      soft_targets: task -> the teacher's.
      kinds: of `soft_target_loss`: one of all tasks, or task -> its own.
      weights: task -> weights.
      reduction: of `soft_target_loss`.
    """
    weights = weights or {}
    return {
        task: soft_target_loss(
            prediction,
            soft_targets[task],
            kinds if isinstance(kinds, str) else kinds[task],
            weights.get(task),
            reduction,
        )
        for task, prediction in predictions.items()
    }
