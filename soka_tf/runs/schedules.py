"""The poly learning rate."""

import tensorflow as tf


def poly_schedule(
    base_rate: float, steps: int, power: float = 0.9
) -> tf.keras.optimizers.schedules.LearningRateSchedule:
    """The poly policy: base_rate * (1 - step / steps) ** power, down to 0.

    Args:
      base_rate: the rate of step 0 (paper: 0.001).
      steps: the step at which it reaches 0, and stays there.
      power: the exponent (paper: 0.9).
    """
    # Keras ends at 1e-4 by default; the paper's policy ends at 0.
    return tf.keras.optimizers.schedules.PolynomialDecay(
        base_rate, steps, end_learning_rate=0.0, power=power
    )
