"""Fixed statistics of the teachers' features, to bring them to one scale.

Networks of different architectures have features of different size. They are centred
by channel and divided by one number a layer, the root of the mean variance of its
channels: a number for each channel would make much of channels that hardly ever
respond, and change how the channels of a layer weigh against each other (PHI-S,
Ranzinger et al., arXiv 2410.01680, standardises by one number, too).
"""

from typing import Dict, Iterable, List, NamedTuple

import numpy as np
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.teachers.pool import TeacherPool, Wanted


class Moments(NamedTuple):
    """Of one layer of a teacher, over images and positions.

    Attributes:
      mean: float64 [c], of each channel.
      deviation: root of the channels' mean variance, above 0.
    """

    mean: np.ndarray
    deviation: float


Statistics = Dict[str, List[Moments]]


def measure_features(
    teachers: TeacherPool, layers: Wanted, images: Iterable[tf.Tensor]
) -> Statistics:
    """Runs the teachers on images, once.

    Args:
      teachers: the teachers of a run.
      layers: the activations wanted, as a pool takes them.
      images: batches, float32 [B, H, W, 3] in [-1, 1].

    Returns:
      Layer -> moments of each teacher that has it, in the pool's order.

    Raises:
      UserError: if a layer's values are all the same, or not finite.
    """
    # What comes after the layers is pruned from the graph.
    features = tf.function(lambda x: teachers(x, layers).features, autograph=False)
    features = features.get_concrete_function(tf.TensorSpec([None, None, None, 3]))
    sums: Dict[str, List[np.ndarray]] = {}
    for batch in images:
        for layer, activations in features(batch).items():
            found = [_sums(activation.numpy()) for activation in activations]
            before = sums.get(layer, [0.0] * len(found))
            sums[layer] = [one + other for one, other in zip(found, before)]
    owners = {
        layer: [name for name, own in lent.items() if layer in own]
        for lent in [teachers.layers_of_each(layers)]
        for layer in layers
    }
    return {
        layer: [_moments(s, layer, name) for s, name in zip(found, owners[layer])]
        for layer, found in sums.items()
    }


def _sums(activation: np.ndarray) -> np.ndarray:
    """Number, sum and sum of squares, float64 [3, c], of [..., c]."""
    values = activation.reshape(-1, activation.shape[-1]).astype(np.float64)
    count = np.full(values.shape[-1], len(values), np.float64)
    return np.stack([count, values.sum(axis=0), np.square(values).sum(axis=0)])


def _moments(sums: np.ndarray, layer: str, name: str) -> Moments:
    count, total, squares = sums
    mean = total / count
    deviation = float(np.sqrt(np.mean(np.maximum(squares / count - mean**2, 0.0))))
    if not np.isfinite(deviation) or deviation <= 1e-6 * np.abs(mean).max():
        raise UserError(
            f"The features of the teacher of {name!r} for the layer {layer!r} do not "
            f"vary or are not finite, deviation {deviation:g}: they cannot be "
            "standardised. Look at the teacher, or take another layer."
        )
    return Moments(mean, deviation)
