"""The adaptive weighting step: task weights by GradNorm, in closed form (Eqs. 7, 9).

The exponent, the floor and the kind of norm are choices: docs/deviations.md.
"""

from typing import Optional, Sequence

import tensorflow as tf

NORMS = ("l2", "squared_l2")
LAYERS = ("compress", "representation")


def target_norms(
    norms: tf.Tensor, losses: tf.Tensor, initial_losses: tf.Tensor, alpha: float
) -> tf.Tensor:
    """The norm every task should have: mean(G) * r_i^alpha, a constant of Eq. 7.

    Args:
      norms: G_i, the norms of the weighted gradients, float32 [n].
      losses: L_i(t), float32 [n].
      initial_losses: L_i(0), float32 [n].
      alpha: GradNorm's exponent; larger pulls slow tasks harder.

    Returns:
      float32 [n].
    """
    training_rates = losses / tf.maximum(initial_losses, 1e-12)
    relative_rates = training_rates / tf.maximum(tf.reduce_mean(training_rates), 1e-12)
    return tf.stop_gradient(tf.reduce_mean(norms) * tf.pow(relative_rates, alpha))


def gradnorm_gradient(
    task_weights: tf.Tensor,
    gradient_norms: tf.Tensor,
    losses: tf.Tensor,
    initial_losses: tf.Tensor,
    alpha: float,
    norm: str = "l2",
):
    """L_grad of Eq. 7 and its derivative with respect to the task weights.

    G_i is a simple function of omega_i, so no gradient of a gradient is needed:
    with n_i = ||grad_W L_i||, G_i = omega_i n_i and dL_grad / d omega_i =
    sign(G_i - target_i) n_i; with the square that the paper prints, G_i =
    (omega_i n_i)^2 and the last factor is 2 omega_i n_i^2.

    Args:
      task_weights: omega, float32 [n].
      gradient_norms: n_i, norms of the unweighted gradients, float32 [n].
      losses: L_i(t), float32 [n].
      initial_losses: L_i(0), float32 [n].
      alpha: GradNorm's exponent.
      norm: "l2" (GradNorm) or "squared_l2" (as printed above Eq. 7).

    Returns:
      The scalar L_grad and its gradient [n].
    """
    weighted = task_weights * gradient_norms
    if norm == "l2":
        norms, slopes = weighted, gradient_norms
    elif norm == "squared_l2":
        norms, slopes = tf.square(weighted), 2.0 * weighted * gradient_norms
    else:
        raise ValueError(f"norm must be one of {NORMS}. Received: {norm!r}.")
    excess = norms - target_norms(norms, losses, initial_losses, alpha)
    return tf.reduce_sum(tf.abs(excess)), tf.sign(excess) * slopes


def renormalize(task_weights: tf.Tensor, floor: float) -> tf.Tensor:
    """Scales the weights to sum 1, none below the floor.

    What exceeds the floor is scaled; with floor 0 this is omega / sum(omega).
    """
    count = tf.cast(tf.size(task_weights), task_weights.dtype)
    excess = tf.maximum(task_weights - floor, 0.0)
    total = tf.reduce_sum(excess)
    shares = tf.where(total > 0, tf.math.divide_no_nan(excess, total), 1.0 / count)
    return floor + (1.0 - floor * count) * shares


class GradNorm(tf.Module):
    """The task weights and what they are learnt from; all of it is checkpointed.

    Attributes:
      task_weights: omega, float32 [n], sum 1.
      initial_losses: L_i(0), float32 [n]; 0 until they are recorded.
    """

    def __init__(
        self,
        tasks: int,
        alpha: float = 1.5,
        floor: float = 0.02,
        norm: str = "l2",
        trainable_weights: bool = True,
        initial_weights: Optional[Sequence[float]] = None,
        layer: str = "compress",
        name: str = "gradnorm",
    ):
        """Creates the state.

        Args:
          tasks: the number n of tasks.
          alpha: GradNorm's exponent (the paper does not give it).
          floor: smallest weight; 0 <= floor < 1 / n.
          norm: "l2" or "squared_l2", see `gradnorm_gradient`.
          trainable_weights: False keeps the weights at their initial values.
          initial_weights: of sum 1; 1 / n each unless told (0.5 for two tasks).
          layer: W of Eq. 7, at which whoever calls `step` takes the norms:
            "compress", the kernel of the last layer that all tasks share, or
            "representation", that layer's activations on the whole batch.
          name: of the module.
        """
        super().__init__(name=name)
        if not 0.0 <= floor < 1.0 / tasks:
            raise ValueError(
                f"floor must be in [0, 1/{tasks}) for {tasks} tasks. Received: {floor}."
            )
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}. Received: {norm!r}.")
        if layer not in LAYERS:
            raise ValueError(f"layer must be one of {LAYERS}. Received: {layer!r}.")
        initial = list(initial_weights or [1.0 / tasks] * tasks)
        if len(initial) != tasks or abs(sum(initial) - 1.0) > 1e-5 or min(initial) < 0:
            raise ValueError(
                f"initial_weights must be {tasks} non-negative numbers of sum 1. "
                f"Received: {initial}."
            )
        self.alpha = alpha
        self.floor = floor
        self.norm = norm
        self.layer = layer
        self.trainable_weights = trainable_weights
        # Mean over replicas: each would otherwise keep a copy of its own, and drift.
        options = dict(
            dtype=tf.float32, aggregation=tf.VariableAggregation.MEAN, trainable=False
        )
        self.task_weights = tf.Variable(initial, name="task_weights", **options)
        self.initial_losses = tf.Variable(
            [0.0] * tasks, name="initial_losses", **options
        )

    def record_initial(self, losses: tf.Tensor, due: tf.Tensor) -> None:
        """Keeps L_i(0): the first losses seen once `due` (a bool) is true.

        Args:
          losses: L_i, float32 [n], the same on every replica.
          due: bool scalar.
        """
        take = tf.logical_and(due, self.initial_losses <= 0.0)
        self.initial_losses.assign(tf.where(take, losses, self.initial_losses))

    def step(
        self,
        losses: tf.Tensor,
        gradient_norms: tf.Tensor,
        optimizer: tf.keras.optimizers.Optimizer,
        replicas: int = 1,
    ) -> tf.Tensor:
        """Moves the task weights one step down L_grad and renormalises them (Eq. 9).

        They stay until every L_i(0) is recorded: before, there is no training rate.

        Args:
          losses: L_i(t), float32 [n], the same on every replica.
          gradient_norms: norms of the unweighted gradients at `layer`, float32 [n],
            the same on every replica.
          optimizer: moves the weights.
          replicas: number of replicas, over which the optimizer sums.

        Returns:
          L_grad, a float32 scalar; 0 before L_i(0) is recorded.
        """
        loss, gradient = gradnorm_gradient(
            tf.convert_to_tensor(self.task_weights),
            gradient_norms,
            losses,
            tf.convert_to_tensor(self.initial_losses),
            self.alpha,
            self.norm,
        )
        recorded = tf.reduce_all(self.initial_losses > 0.0)
        loss = tf.where(recorded, loss, 0.0)
        gradient = tf.where(recorded, gradient, 0.0)
        if self.trainable_weights:
            optimizer.apply_gradients([(gradient / replicas, self.task_weights)])
            new = renormalize(self.task_weights, self.floor)
            moved = recorded
            if hasattr(optimizer, "loss_scale"):
                # Such an optimizer leaves out a gradient that is not finite.
                moved &= tf.reduce_all(tf.math.is_finite(gradient))
            self.task_weights.assign(tf.where(moved, new, self.task_weights))
        return loss
