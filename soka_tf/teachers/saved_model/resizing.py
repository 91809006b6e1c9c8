"""Images and maps of another size, aligned to the pixel."""

from typing import Union

import tensorflow as tf

Length = Union[int, tf.Tensor]


def resize(images: tf.Tensor, height: Length, width: Length) -> tf.Tensor:
    """Resizes bilinearly at half-pixel centres, with a wider filter where it shrinks.

    The values are those of `tf.image.resize(antialias=True)`, which has no kernel for
    GPUs or XLA.

    Args:
      images: float32 [B, h, w, C].
      height: of the result in pixels.
      width: of the result in pixels.

    Returns:
      float32 [B, height, width, C]; the argument itself where it has this size.
    """
    if images.shape[1:3].as_list() == [height, width]:
        return images
    shape = tf.shape(images)
    rows, columns = _weights(shape[1], height), _weights(shape[2], width)
    return tf.einsum("yh,bhwc,xw->byxc", rows, images, columns)


def _weights(length: Length, size: Length) -> tf.Tensor:
    """The [size, length] matrix of a triangle filter at least as wide as a pixel."""
    # float64: of positions of thousands of pixels, float32 has 1e-4 left.
    step = tf.cast(length, tf.float64) / tf.cast(size, tf.float64)
    centres = (tf.range(tf.cast(size, tf.float64), dtype=tf.float64) + 0.5) * step
    pixels = tf.range(tf.cast(length, tf.float64), dtype=tf.float64) + 0.5
    distances = tf.abs(pixels - centres[:, None]) / tf.maximum(step, 1.0)
    weights = tf.maximum(1.0 - distances, 0.0)
    return tf.cast(weights / tf.reduce_sum(weights, 1, keepdims=True), tf.float32)
