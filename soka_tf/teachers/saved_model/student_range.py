"""From the range that a manifest names to the one that a student learns.

    prediction.range    the task's encoding            network range
    [lo, hi]            "range", "continuous"          [-1, 1]
                        "direction"                    [-1, 1]
                        "probability", "classes"       [0, 1]
                        "standardize"                  0 to full scale, standardised
    any, in metres      "log_depth"                    [0, 1]

All but depth is linear: lo stands for the lowest value that the task knows, hi for the
highest, so that a network that says 0 to 255 of what the task counts from 0 to 1 needs
no code.
"""

from typing import Sequence

import numpy as np
import tensorflow as tf

from soka_tf.data.encodings import to_network_range
from soka_tf.tasks import Task


def into_student_range(
    task: Task, prediction: tf.Tensor, ends: Sequence[float]
) -> tf.Tensor:
    """Turns what a teacher predicts into what a student's decoder says of the task.

    Args:
      task: the task, with an encoding.
      prediction: float32 [..., task.channels] in [lo, hi]; of "log_depth" metres.
      ends: [lo, hi].

    Returns:
      The same shape, in the network range of `soka_tf.data.encodings`.
    """
    encoding = task.encoding
    if encoding.kind == "log_depth":
        return to_network_range(task, tf.maximum(prediction, 0.0))
    low, high = ends
    fractions = (prediction - low) / (high - low)
    if encoding.kind in ("probability", "classes"):
        return fractions
    if encoding.kind == "standardize":
        full_scale = 2.0**encoding.bits - 1.0
        return (fractions * full_scale - encoding.mean) / np.float32(encoding.std)
    return fractions * 2.0 - 1.0
