"""The student: one shared encoder, one decoder a task."""

from typing import Any, Dict, List, Mapping

import tensorflow as tf

from soka_tf.networks.backbone import Backbone
from soka_tf.networks.decoder import Decoder


class Student(tf.keras.Model):
    """The multi-talent student.

    The paper's names: the encoder is Omega, the moderator; the decoders are Theta_i,
    the competitors.
    """

    def __init__(
        self, encoder: Backbone, decoders: Mapping[str, Decoder], name: str = "student"
    ):
        """Joins the networks.

        Args:
          encoder: the shared encoder.
          decoders: task name -> its decoder, in the order of the tasks.
          name: the Keras name.
        """
        super().__init__(name=name)
        if not decoders:
            raise ValueError("A student needs at least one decoder. Received: none.")
        self.encoder = encoder
        # Keras keeps the dict in its own wrapper, sorted by name in checkpoints; the
        # order of the tasks, which is that of the task weights, is kept apart.
        self.tasks = tuple(decoders)
        self.decoders = dict(decoders)
        self.built = True  # its networks are

    @property
    def ordered_decoders(self) -> List[Decoder]:
        """The decoders in the order of `tasks`."""
        return [self.decoders[task] for task in self.tasks]

    def call(self, images: tf.Tensor, training: Any = None) -> Dict[str, tf.Tensor]:
        """Predicts every task.

        Args:
          images: float32 [B, H, W, 3] in [-1, 1].
          training: whether BatchNorm uses and updates the batch's statistics.

        Returns:
          Task name -> prediction [B, H, W, C] in the network's range.
        """
        representation = self.encoder(images, training=training)["representation"]
        return self.decode(representation, training=training)

    def decode(
        self, representation: tf.Tensor, training: Any = None
    ) -> Dict[str, tf.Tensor]:
        """Predicts every task from a shared representation [B, h, w, 8]."""
        return {
            task: self.decoders[task](representation, training=training)
            for task in self.tasks
        }
