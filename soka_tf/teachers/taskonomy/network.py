"""Teachers of Taskonomy's architecture."""

import copy
import hashlib
import json
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.folding import fold
from soka_tf.networks.named_variables import named_variables
from soka_tf.tasks import get_task
from soka_tf.teachers.input_functions import INPUTS
from soka_tf.teachers.teacher import Teacher

_LEAST_SHARE = 1e-6


class TaskonomyTeacher(Teacher):
    """A trained encoder and, where its task is an image, a decoder; frozen for good.

    Its layers are the encoder's activations "block1" to "block4" and "representation"
    (SOKA amalgamates "block3" and "representation"); the prediction is [B, H, W, C] in
    the network's range (colorization: logits [B, H / 4, W / 4, 313]; an encoder of one
    channel is shown the images' lightness). Where the decoder of a task of classes ends
    in tanh, as Taskonomy's, its scores are made probabilities.
    """

    def __init__(
        self,
        task: str,
        encoder: Encoder,
        decoder: Optional[Decoder] = None,
        image_size: Optional[int] = None,
    ):
        """Wraps the networks, which are frozen.

        Args:
          task: the task's name, any alias.
          encoder: a built encoder.
          decoder: a built decoder, or None for a teacher that is auxiliary only.
          image_size: side in pixels of the images it was trained on, None if unknown.
        """
        self.task = get_task(task)
        self.encoder = encoder
        self.decoder = decoder
        self.image_size = image_size
        self.has_prediction = decoder is not None
        self.layers = encoder.feature_layers
        ends_in_tanh = getattr(decoder, "activation", "") == "tanh"
        self._has_scores = self.task.has_classes and ends_in_tanh
        encoder.trainable = False
        if decoder is not None:
            decoder.trainable = False

    @property
    def variables(self) -> List[tf.Variable]:
        """Of both networks."""
        networks = (
            [self.encoder] if self.decoder is None else [self.encoder, self.decoder]
        )
        return [variable for network in networks for variable in network.variables]

    def __call__(
        self, images: tf.Tensor, layers: Optional[Sequence[str]] = None
    ) -> Dict[str, tf.Tensor]:
        """Runs the teacher with its moving statistics, see `Teacher`."""
        if self.encoder.input_shape[-1] == 1:
            images = INPUTS["light"](images)
        activations = self.encoder(images, training=False)
        wanted = self.layers if layers is None else layers
        outputs = {name: activations[name] for name in wanted}
        if self.decoder is not None:
            prediction = self.decoder(activations["representation"], training=False)
            if self._has_scores:
                prediction = probabilities(prediction)
            outputs["prediction"] = prediction
        return outputs

    @property
    def fingerprint(self) -> str:
        """The sha256 of architecture and variables."""
        digest = hashlib.sha256(json.dumps(self.get_config()).encode())
        for name, variable in sorted(teacher_variables(self).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(variable.numpy()))
        return digest.hexdigest()

    def folded(self, precision: str) -> "TaskonomyTeacher":
        """Returns a copy for inference, of fewer and faster layers."""
        twin = copy.copy(self)
        twin.encoder, twin.decoder = (
            network and fold(network, precision)
            for network in (self.encoder, self.decoder)
        )
        return twin

    def count_parameters(self) -> int:
        """Scalars that were trained once: all but the moving statistics."""
        return sum(
            variable.shape.num_elements()
            for name, variable in teacher_variables(self).items()
            if "/moving_" not in name
        )

    def get_config(self) -> Dict[str, Any]:
        """The architecture, without weights."""
        return {
            "task": self.task.name,
            "encoder": self.encoder.get_config(),
            "decoder": self.decoder.get_config() if self.decoder else None,
            "image_size": self.image_size,
            "name": self.task.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TaskonomyTeacher":
        """Builds a teacher with fresh weights from `get_config()`."""
        encoder, decoder = config["encoder"], config["decoder"]
        return cls(
            config["task"],
            Encoder.from_config(encoder),
            None if decoder is None else Decoder.from_config(decoder),
            config["image_size"],
        )


def probabilities(scores: tf.Tensor) -> tf.Tensor:
    """Turns the scores of classes in [-1, 1], [..., classes], into shares of 1.

    Trained on labels 1 and -1, as the shipped teacher, (score + 1) / 2 is the
    probability of each class by itself.
    """
    shares = (tf.cast(scores, tf.float32) + 1.0) * 0.5 + _LEAST_SHARE
    return shares / tf.reduce_sum(shares, -1, keepdims=True)


def teacher_variables(teacher: TaskonomyTeacher) -> Dict[str, tf.Variable]:
    """All variables of a teacher by the name they have in its file."""
    variables = {
        f"encoder/{path}": v for path, v in named_variables(teacher.encoder).items()
    }
    if teacher.decoder is not None:
        for path, v in named_variables(teacher.decoder).items():
            variables[f"decoder/{path}"] = v
    return variables
