"""Linear maps of activations, the same at every position: 1x1 convolutions."""

from typing import Dict

import tensorflow as tf


def per_position(activation: tf.Tensor, weight: tf.Variable) -> tf.Tensor:
    """A 1x1 convolution; as a matrix product, whose gradients are faster.

    Args:
      activation: [B, h, w, c].
      weight: [c, c'].

    Returns:
      float32 [B, h, w, c'].
    """
    # Inside a layer's call a variable reads as the layer's compute dtype.
    weight = tf.convert_to_tensor(weight)
    shape = tf.concat([tf.shape(activation)[:-1], tf.shape(weight)[1:]], 0)
    flat = tf.reshape(activation, [-1, weight.shape[0]])
    product = tf.matmul(tf.cast(flat, weight.dtype), weight)
    return tf.cast(tf.reshape(product, shape), tf.float32)


class Adapter(tf.keras.layers.Layer):
    """The student's activation as L_A sees it: R A_S + b, at first A_S itself.

    FitNet's regressor. Activations behind ReLU are never negative, sigma is; without
    an adapter that part of L_A is out of the student's reach.
    """

    def __init__(self, channels: int, **kwargs):
        """Creates R [channels, channels] and b [channels]."""
        super().__init__(autocast=False, **kwargs)
        self.channels = channels
        self.kernel = self.add_weight(
            name="kernel", shape=[channels, channels], initializer="identity"
        )
        self.bias = self.add_weight(name="bias", shape=[channels], initializer="zeros")

    def get_config(self) -> Dict:
        """The constructor's arguments."""
        return {**super().get_config(), "channels": self.channels}

    def call(self, activation: tf.Tensor) -> tf.Tensor:
        """Maps [B, h, w, c] to float32 [B, h, w, c]."""
        mapped = per_position(activation, self.kernel)
        return mapped + tf.cast(self.bias, tf.float32)
