"""What a student learns from a batch of images, wherever it comes from."""

from typing import Callable, Dict, List, Mapping, NamedTuple, Sequence

import tensorflow as tf

from soka_tf.data.sample_readers import MASK, VALID, LabelReader
from soka_tf.data.samples import Sample
from soka_tf.tasks import Task

_KEPT_BYTES = 2**30  # labels of small runs are read once, those of large ones anew


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


def label_reader(
    samples: Sequence[Sample], tasks: Sequence[Task], image_size: int
) -> Callable[[tf.Tensor], Targets]:
    """Returns what `image_dataset` takes for `targets`, of labels.

    They are encoded as the networks predict. A label that is not there or cannot be
    read (named in one warning) does not count, nor do pixels without a depth reading
    of a task that is masked, or without a value in a label with gaps. All are kept in
    memory if they take little.

    Args:
      samples: the samples that the numbers count, as given to `image_dataset`.
      tasks: which labels; none but targets.
      image_size: side of the labels in pixels.

    Returns:
      A function from an int64 scalar to `Targets` without the batch: maps and weights
      of image_size, no features.
    """
    channels = 1 + sum(task.channels for task in tasks)
    small = 4 * channels * image_size**2 * len(samples) <= _KEPT_BYTES
    reader = LabelReader(samples, tasks, image_size, small, with_images=False)

    def labels(number: tf.Tensor) -> Targets:
        found = reader.read_in_graph(number)
        weights = {}
        for task in tasks:
            there = tf.cast(found[VALID + task.name], tf.float32)
            readings = found[MASK] if task.masked else tf.ones_like(found[MASK])
            weights[task.name] = there * readings
            if task.encoding is not None and task.encoding.gaps:
                known = tf.math.is_finite(found[task.name])
                found[task.name] = tf.where(known, found[task.name], 0.0)
                known = tf.reduce_all(known, -1, keepdims=True)
                weights[task.name] *= tf.cast(known, tf.float32)
        return Targets({task.name: found[task.name] for task in tasks}, {}, weights)

    return labels
