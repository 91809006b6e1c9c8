"""From the images that all teachers are shown to what one network takes."""

import tensorflow as tf

from soka_tf.teachers.saved_model.manifest import Input


def prepared(given: Input, images: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Images as a manifest says that its network takes them, but for their size.

    Range, order of the channels, mean, std, layout, in this order: mean and std are in
    the unit of the range, and belong to the channels in the order that the network
    gets, as Caffe's means of blue, green and red.

    Args:
      given: of the manifest.
      images: float32 [B, H, W, 3] in [-1, 1], red, green, blue.
      dtype: that the network takes; integers are rounded to.

    Returns:
      [B, H, W, 3] or [B, 3, H, W].
    """
    low, high = given.range
    if [low, high] != [-1, 1]:
        images = (images + 1.0) * ((high - low) / 2.0) + low
    if given.channel_order == "bgr":
        images = images[..., ::-1]
    if given.mean is not None:
        images -= tf.constant(given.mean, tf.float32)
    if given.std is not None:
        images /= tf.constant(given.std, tf.float32)
    if given.layout == "nchw":
        images = tf.transpose(images, [0, 3, 1, 2])
    if dtype.is_integer:
        images = tf.round(images)
    return tf.saturate_cast(images, dtype)
