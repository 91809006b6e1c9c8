"""The adaptive weighting step: task weights by GradNorm, in closed form (Eqs. 7, 9).

The exponent, the floor and the kind of norm are choices: docs/deviations.md.
"""

from typing import Annotated, FrozenSet, List, Optional, Sequence

import tensorflow as tf

from soka_tf.kinds import Flag, check_arguments, number, one_of
from soka_tf.soka.balancing.rule import (
    Observation,
    Rule,
    checked_weights,
    replicated_variable,
)

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


class GradNorm(Rule):
    """The task weights and what they are learnt from; all of it is checkpointed.

    Attributes:
      task_weights: omega, float32 [n], sum 1.
      initial_losses: L_i(0), float32 [n]; 0 until they are recorded.
    """

    loss_name = "loss/gradnorm"  # logs of former runs have it

    def __init__(
        self,
        tasks: int,
        alpha: Annotated[float, number(0.0, 100.0)] = 1.5,
        floor: Annotated[float, number(0.0, 1.0, below=True)] = 0.02,
        norm: Annotated[str, one_of(NORMS)] = "l2",
        adaptive: Flag = True,
        initial_weights: Optional[Sequence[float]] = None,
        layer: Annotated[str, one_of(LAYERS)] = "compress",
    ):
        """Creates the state.

        Args:
          tasks: the number n of tasks.
          alpha: GradNorm's exponent (the paper does not give it).
          floor: smallest weight; 0 <= floor < 1 / n.
          norm: "l2" or "squared_l2", see `gradnorm_gradient`.
          adaptive: False keeps the weights at their initial values.
          initial_weights: of sum 1; 1 / n each unless told (0.5 for two tasks).
          layer: W of Eq. 7, at which the norms are taken: "compress", the kernel of
            the last layer that all tasks share, or "representation", that layer's
            activations on the whole batch.
        """
        super().__init__()
        if not 0.0 <= floor < 1.0 / tasks:
            raise ValueError(
                f"floor must be in [0, 1/{tasks}) for {tasks} tasks. Received: {floor}."
            )
        check_arguments(GradNorm.__init__, norm=norm, layer=layer)
        self.alpha = alpha
        self.floor = floor
        self.norm = norm
        self.layer = layer
        self.adaptive = adaptive
        initial = checked_weights(initial_weights, tasks, "initial_weights")
        self.task_weights = replicated_variable(initial, "task_weights")
        self.initial_losses = replicated_variable([0.0] * tasks, "initial_losses")

    @property
    def needs(self) -> FrozenSet[str]:
        """What the norms at `layer` are taken from."""
        return frozenset({"norms" if self.layer == "compress" else "gram"})

    @property
    def optimized(self) -> List[tf.Variable]:
        """The weights, whether they are adaptive or not: checkpoints have slots."""
        return [self.task_weights]

    @property
    def learns(self) -> bool:
        """Whether the weights are adaptive."""
        return self.adaptive

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
        seen: Observation,
        optimizer: tf.keras.optimizers.Optimizer,
        replicas: int = 1,
    ) -> tf.Tensor:
        """Moves the task weights one step down L_grad and renormalises them (Eq. 9).

        They stay until every L_i(0) is recorded: before, there is no training rate.

        Args:
          seen: L_i(t), and what the norms at `layer` follow from.
          optimizer: moves the weights.
          replicas: number of replicas, over which the optimizer sums.

        Returns:
          L_grad, a float32 scalar; 0 before L_i(0) is recorded.
        """
        loss, gradient = gradnorm_gradient(
            tf.convert_to_tensor(self.task_weights),
            seen.norms if self.layer == "compress" else seen.pull_norms,
            seen.losses,
            tf.convert_to_tensor(self.initial_losses),
            self.alpha,
            self.norm,
        )
        recorded = tf.reduce_all(self.initial_losses > 0.0)
        loss = tf.where(recorded, loss, 0.0)
        gradient = tf.where(recorded, gradient, 0.0)
        if self.adaptive:
            optimizer.apply_gradients([(gradient / replicas, self.task_weights)])
            new = renormalize(self.task_weights, self.floor)
            moved = recorded
            if hasattr(optimizer, "loss_scale"):
                # Such an optimizer leaves out a gradient that is not finite.
                moved &= tf.reduce_all(tf.math.is_finite(gradient))
            self.task_weights.assign(tf.where(moved, new, self.task_weights))
        return loss
