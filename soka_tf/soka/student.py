"""The student: one shared encoder, one decoder a task."""

from typing import Any, Dict, List, Mapping

import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder


class Student(tf.keras.Model):
    """The multi-talent student.

    The paper's names: the encoder is Omega, the moderator; the decoders are Theta_i,
    the competitors.
    """

    def __init__(
        self, encoder: Encoder, decoders: Mapping[str, Decoder], name: str = "student"
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

    def get_config(self) -> Dict[str, Any]:
        """The architecture, without weights."""
        return {
            "encoder": self.encoder.get_config(),
            "decoders": [[t, self.decoders[t].get_config()] for t in self.tasks],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None):
        """Builds a student with fresh weights from `get_config()`."""
        return cls(
            Encoder.from_config(config["encoder"]),
            {task: Decoder.from_config(c) for task, c in config["decoders"]},
            name=config["name"],
        )
