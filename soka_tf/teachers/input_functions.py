"""What a network is shown of an image: all of it, or what its task leaves.

The original fed each of its networks through an input function of its own. These are
theirs from the encoded image on, in TensorFlow, so that a teacher can carry its own in
a graph; all start from float32 [B, H, W, 3] in [-1, 1].
"""

from typing import Callable, Dict

import tensorflow as tf

from soka_tf.data.encodings import low_saturation

# sRGB to CIE Y under D65, and the constants of CIE L, with the digits that the
# original's scikit-image 0.12 had.
_LUMINANCE = (0.212671, 0.715160, 0.072169)
_GAMMA_START = 0.04045
_CUBE_ROOT_START = 0.008856


def plain(rgb: tf.Tensor) -> tf.Tensor:
    """Returns the image as it is, float32 [B, H, W, 3] in [-1, 1]."""
    return rgb


def hole(rgb: tf.Tensor) -> tf.Tensor:
    """Takes the centre out of an image: what the inpainting network has to fill.

    Args:
      rgb: float32 [B, H, W, 3] in [-1, 1].

    Returns:
      The same, 0 in rows [H/4, 3H/4) and columns [W/4, 3W/4), rounded down.
    """
    height, width = tf.shape(rgb)[1], tf.shape(rgb)[2]
    inside = _middle_half(height)[:, None, None] & _middle_half(width)[:, None]
    return tf.where(inside, tf.zeros_like(rgb), rgb)


def light(rgb: tf.Tensor) -> tf.Tensor:
    """Leaves the lightness of an image: what the colorization network has to colour.

    Args:
      rgb: float32 [B, H, W, 3] in [-1, 1], sRGB.

    Returns:
      float32 [B, H, W, 1] in [-1, 1]: CIE L (of L*a*b*, D65) from 0 to 100.
    """
    encoded = (rgb + 1.0) * 0.5
    linear = tf.where(
        encoded > _GAMMA_START, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92
    )
    luminance = tf.reduce_sum(linear * _LUMINANCE, axis=-1, keepdims=True)
    response = tf.where(
        luminance > _CUBE_ROOT_START,
        luminance ** (1.0 / 3.0),
        7.787 * luminance + 16.0 / 116.0,
    )
    return (116.0 * response - 16.0) / 50.0 - 1.0


def _middle_half(length: tf.Tensor) -> tf.Tensor:
    """Bool [length], True in the half around the middle."""
    positions = tf.range(length)
    return (positions >= length // 4) & (positions < 3 * length // 4)


# Name -> function of float32 [B, H, W, 3] in [-1, 1].
INPUTS: Dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "plain": plain,
    "low_sat": low_saturation,
    "hole": hole,
    "light": light,
}
