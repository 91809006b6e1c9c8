"""What the replicas of a distribution strategy exchange in a step.

Everywhere but inside a step of several replicas there is one, and nothing is done.
"""

from typing import Any, Union

import tensorflow as tf


def replica_count() -> int:
    """The number of replicas that compute this together."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_index() -> Union[int, tf.Tensor]:
    """Which of the replicas this is, an int32 scalar."""
    if replica_count() == 1:
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def mean_over_replicas(values: Any) -> Any:
    """The mean of tensors over all replicas; gradients flow through it.

    Args:
      values: a tensor, or a nest of them, of the same shapes everywhere.
    """
    if replica_count() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce("MEAN", values)


def gather_replicas(value: tf.Tensor) -> tf.Tensor:
    """The global batch, [R * B, ...], of what every replica has of it, [B, ...]."""
    if replica_count() == 1:
        return value
    return tf.distribute.get_replica_context().all_gather(value, axis=0)
