"""What a student learns from a batch of images, wherever it comes from."""

from typing import Dict, List, Mapping, NamedTuple

import tensorflow as tf


class Targets(NamedTuple):
    """The teachers' outputs of a batch, or the ground truth in their place.

    Attributes:
      maps: task -> soft target [B, H, W, C], network range (F_T of Eq. 5).
      features: layer -> the activations A_T [B, h_i, w_i, c_i] of every teacher,
        targets first, then auxiliaries (Eq. 1).
      weights: task -> which pixels count, [B, H, W, 1]; all, where a task has none.
    """

    maps: Dict[str, tf.Tensor]
    features: Dict[str, List[tf.Tensor]]
    weights: Mapping[str, tf.Tensor] = {}
