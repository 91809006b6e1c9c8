"""The interface of a teacher: all that the rest of the package needs of one."""

from typing import Dict, Mapping, Optional, Sequence

import tensorflow as tf

from soka_tf.networks.backbone import FeatureLayer
from soka_tf.tasks import Task


class Teacher:
    """A frozen network of one task. Subclass it for networks of your own.

    A plain object on purpose, as is the `TeacherPool` that holds it: what hangs on a
    Keras model is saved, counted and optimised with it.

    Attributes:
      task: a row of `soka_tf.tasks`, which defines a prediction's channels.
      layers: name -> channels and stride of each activation that can be amalgamated; a
        plain pair will do.
      has_prediction: False for a teacher that can be an auxiliary only.
      fingerprint: a text that changes with whatever changes the outputs, weights first;
        outputs kept on disk are found by it.
      image_size: side in pixels of the images it was trained on, None if unknown.
    """

    task: Task
    layers: Mapping[str, FeatureLayer]
    fingerprint: str
    has_prediction: bool = True
    image_size: Optional[int] = None

    def __call__(
        self, images: tf.Tensor, layers: Optional[Sequence[str]] = None
    ) -> Dict[str, tf.Tensor]:
        """Runs the teacher, moving nothing in it; traced by tf.function.

        Args:
          images: float32 [B, H, W, 3] in [-1, 1].
          layers: names of the activations wanted, None for all.

        Returns:
          Each of them, float [B, h, w, c], by name, others are passed over; and, where
          there is one, "prediction", float [B, H, W, C], which `in_student_range`
          brings into the range of the task's encoding.
        """
        raise NotImplementedError

    def in_student_range(self, prediction: tf.Tensor) -> tf.Tensor:
        """Brings a prediction into the range of the task's encoding.

        Args:
          prediction: float [B, H, W, C] as the teacher gives it.

        Returns:
          The same shape, in the network range of `soka_tf.data.encodings`: by default
          the argument, for teachers that answer in it.
        """
        return prediction

    def count_parameters(self) -> int:
        """Scalars that were trained once: all but moving statistics."""
        raise NotImplementedError

    def folded(self, precision: str) -> "Teacher":
        """Returns its replacement where `load_pool.precision` is bound.

        Args:
          precision: see `soka_tf.networks.folding.fold`; by default in vain.
        """
        return self
