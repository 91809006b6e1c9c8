"""The student for runtimes without resizing and without TensorFlow."""

from typing import Dict, Optional, Sequence

import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.data.pipeline import preprocess_images
from soka_tf.tasks import Task

# Scopes of what is not a network; the int8 conversion keeps them in float.
PIXELS_SCOPE = "pixels_to_network_range"
UNITS_SCOPE = "network_range_to_units"


class FixedSizeStudent(tf.Module):
    """What is converted: images of one size to all maps.

    `serve` takes uint8 [batch_size, image_size, image_size, 3] in 0..255 under the
    name `images` and returns float32 maps in physical units, by task name. It does
    not resize: the filter that some students are trained with (`antialias`) has no
    counterpart outside TensorFlow, and cameras' libraries resize by themselves.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        tasks: Sequence[Task],
        image_size: int,
        batch_size: Optional[int],
    ):
        """Names the graph; it is traced when it is converted.

        Args:
          student: an encoder in `.encoder` and task name -> decoder in `.decoders`.
          tasks: the tasks to predict, any of the student's.
          image_size: side of the images in pixels.
          batch_size: images at a time; None for any number.
        """
        super().__init__(name="soka_student")
        networks = [student.encoder, *(student.decoders[task.name] for task in tasks)]
        # Variables only, see saved_model._Exported.
        self.network_variables = [v for network in networks for v in network.variables]
        shape = [batch_size, image_size, image_size, 3]
        self.images_spec = tf.TensorSpec(shape, tf.uint8, name="images")

        def serve(images: tf.Tensor) -> Dict[str, tf.Tensor]:
            with tf.name_scope(PIXELS_SCOPE):
                # Of that size: nothing is resized.
                images = preprocess_images(images, image_size)
            representation = student.encoder(images, training=False)["representation"]
            maps = {}
            for task in tasks:
                values = student.decoders[task.name](representation, training=False)
                with tf.name_scope(UNITS_SCOPE):
                    maps[task.name] = encodings.decode(task, values)
            return maps

        self.serve = tf.function(
            serve, input_signature=[self.images_spec], autograph=False
        )
