"""The CGAN term of the supplement, as Taskonomy's code has it (section 1).

The supplement gives its weights and its start only: docs/deviations.md.
"""

import dataclasses
from typing import Annotated, Dict, Mapping

import tensorflow as tf

from soka_tf.kinds import CountOrZero, NonNegative, check_fields, number
from soka_tf.networks.batch_norm import statistics
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.replicas import replica_count, replica_index

REAL_LABEL = 0.9  # one-sided label smoothing of the original; fake is 0
GENERATOR_LABEL = 1.0


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The CGAN term: one discriminator a task and how it enters (supplement, 1).

    Attributes:
      discriminators: task -> its discriminator.
      start_step: the first step of the stage "cycle_gan".
      weight: of the adversarial loss; the soft target's is 1 - weight.
      noise: task -> standard deviation of the instance noise at step 0.
      weight_decay: L2 coefficient of the discriminators, ten times the student's.
      seed: of the instance noise.
    """

    discriminators: Dict[str, Discriminator]
    start_step: CountOrZero = 25000
    weight: Annotated[float, number(0.0, 1.0)] = 0.004
    noise: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weight_decay: NonNegative = 1e-5
    seed: int = 0

    def __post_init__(self):
        check_fields(self)

    def mix(self, soft: tf.Tensor, generator: tf.Tensor) -> tf.Tensor:
        """The decoders' losses with the generator's in them, float32 [n]."""
        return (1.0 - self.weight) * soft + self.weight * generator

    def generator_losses(
        self,
        images: tf.Tensor,
        predictions: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        noise: int,
        training: bool,
    ) -> tf.Tensor:
        """The generator's losses, with discriminators that stand still; float32 [n].

        Args:
          images: float32 [B, H, W, 3].
          predictions: task -> the student's maps [B, H, W, C].
          step: int64 scalar, steps since the start.
          noise: tells this pass from others of the step; the next n - 1 numbers, too.
          training: of the discriminators.
        """
        losses = []
        for i, (task, prediction) in enumerate(predictions.items()):
            with statistics(self.discriminators[task], "keep"):
                logits = self.judge(images, task, prediction, step, noise + i, training)
            losses.append(generator_loss(logits))
        return tf.stack(losses)

    def judge(
        self,
        images: tf.Tensor,
        task: str,
        maps: tf.Tensor,
        step: tf.Tensor,
        noise: int,
        training: bool,
    ) -> tf.Tensor:
        """A discriminator's logits on noisy maps; arguments: see `generator_losses`."""
        key = tf.stack([tf.constant(self.seed, tf.int64), step * 1000 + noise])
        maps = instance_noise(maps, step, self.noise.get(task, 0.0), key)
        pair = tf.concat([images, tf.cast(maps, images.dtype)], axis=-1)
        return self.discriminators[task](pair, training=training)


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


def discriminator_accuracy(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The share of patches judged right, real and fake counting the same.

    At 0.5 it tells nothing apart: its gradient then says nothing to the student.

    Args:
      real_logits: [B, h, w, 1], of the teacher's maps.
      fake_logits: [B, h, w, 1], of the student's maps.

    Returns:
      float32 scalar in [0, 1].
    """
    right = [tf.cast(real_logits > 0, tf.float32), tf.cast(fake_logits < 0, tf.float32)]
    return tf.reduce_mean([tf.reduce_mean(share) for share in right])


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
