"""The CGAN term of the supplement, as Taskonomy's code has it (section 1).

The supplement gives its weights and its start only: docs/deviations.md.
"""

import tensorflow as tf

from soka_tf.networks.replicas import replica_count, replica_index

REAL_LABEL = 0.9  # one-sided label smoothing of the original; fake is 0
GENERATOR_LABEL = 1.0


def discriminator_loss(
    real_logits: tf.Tensor, fake_logits: tf.Tensor, real_label: float = REAL_LABEL
) -> tf.Tensor:
    """Half the loss on real maps plus half the loss on fake ones, float32 scalar.

    "Real" is the teacher's prediction, "fake" the student's: no annotation is used.

    Args:
      real_logits: [B, h, w, 1], of the teacher's maps.
      fake_logits: [B, h, w, 1], of the student's maps.
      real_label: label of real maps; below 1 smooths it.
    """
    real = _cross_entropy(real_logits, real_label)
    return 0.5 * real + 0.5 * _cross_entropy(fake_logits, 0.0)


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """What the student minimises to pass for the teacher, float32 scalar."""
    return _cross_entropy(fake_logits, GENERATOR_LABEL)


def instance_noise(
    maps: tf.Tensor, step: tf.Tensor, sigma: float, seed: tf.Tensor
) -> tf.Tensor:
    """Adds Gaussian noise that fades: sigma / (1 + 0.2 * step / 1000).

    Args:
      maps: [B, H, W, C], never the image.
      step: int64 scalar, steps since the start.
      sigma: standard deviation at step 0 (Taskonomy: 0.1, 0.03 for depth).
      seed: int [2]; the noise depends on it and on an image's place in the global
        batch alone, so a resumed run repeats it, on as many replicas as it likes.
    """
    scale = sigma / (1.0 + 0.2 * tf.cast(step, tf.float32) / 1000.0)
    shape = tf.shape(maps)
    if replica_count() > 1:
        # Each draws for all and takes its part: numbers are cheap beside networks.
        shape = tf.concat([replica_count() * shape[:1], shape[1:]], axis=0)
    noise = tf.random.stateless_normal(shape, seed=seed, dtype=tf.float32)
    if replica_count() > 1:
        batch = tf.shape(maps)[0]
        noise = tf.ensure_shape(noise[replica_index() * batch :][:batch], maps.shape)
    return maps + tf.cast(scale * noise, maps.dtype)


def _cross_entropy(logits: tf.Tensor, label: float) -> tf.Tensor:
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(
            tf.fill(tf.shape(logits), label), logits
        )
    )
