"""The interface of a rule: what it sees of a step and what it decides."""

from typing import FrozenSet, List, NamedTuple, Optional, Sequence

import tensorflow as tf


class Observation(NamedTuple):
    """What a rule sees of a step: of the whole batch, the same on every replica.

    Attributes:
      losses: L_i, soft targets alone, float32 [n].
      norms: norms of the unweighted d L_i / d kernel of the last layer that all tasks
        share, float32 [n]; None unless the rule needs "norms".
      gram: inner products of the tasks' unweighted pulls d L_i / d representation,
        float32 [n, n]; None unless the rule needs "gram".
    """

    losses: tf.Tensor
    norms: Optional[tf.Tensor] = None
    gram: Optional[tf.Tensor] = None

    @property
    def pull_norms(self) -> tf.Tensor:
        """Norms of the pulls, float32 [n]."""
        return tf.sqrt(tf.linalg.diag_part(self.gram))


class Rule(tf.Module):
    """Balances n tasks; what it has of variables is checkpointed.

    The decoders' losses are weighted by `task_weights` (Eqs. 5, 6). The encoder's are
    not, unless the rule has `encoder_shares`. A rule without trainable weights has
    nothing to do in the weighting phase.

    Attributes:
      task_weights: omega, float32 [n]: a variable, a tensor or a property.
      needs: "norms", "gram", both or neither, of `Observation`; what no rule
        needs is not computed.
      shares_encoder: whether `encoder_shares` returns factors.
      loss_name: under which the loss of `step` is logged, "loss/weighting"; None for
        a rule that minimises none.
    """

    task_weights: tf.Tensor
    needs: FrozenSet[str] = frozenset()
    shares_encoder: bool = False
    loss_name: Optional[str] = None

    def __init__(self):
        super().__init__(name=type(self).__name__.lower())

    @property
    def optimized(self) -> List[tf.Variable]:
        """What the optimizer "task_weights" has slots for; without any, there is none.

        Of `replicated_variable`.
        """
        return []

    @property
    def learns(self) -> bool:
        """Whether `step` moves them."""
        return bool(self.optimized)

    def record_initial(self, losses: tf.Tensor, due: tf.Tensor) -> None:
        """Called in every step, for rules that compare with the first losses.

        Args:
          losses: L_i, float32 [n], the same on every replica.
          due: bool scalar, false before the joint step at which they are to be taken.
        """

    def encoder_shares(self, seen: Observation) -> Optional[tf.Tensor]:
        """Factors of the tasks' pulls at the encoder, float32 [n], or None.

        In units where 1 each is Eq. 8 as printed, alpha * sum_i L_i.
        """
        return None

    def step(
        self,
        seen: Observation,
        optimizer: Optional[tf.keras.optimizers.Optimizer],
        replicas: int = 1,
    ) -> Optional[tf.Tensor]:
        """One step of the weighting phase (Step 5).

        Args:
          seen: of this step.
          optimizer: moves `optimized`; None where that is empty.
          replicas: number of replicas, over which the optimizer sums gradients.

        Returns:
          The loss that was minimised, a float32 scalar; None without `loss_name`.
        """
        return None


def replicated_variable(initial: Sequence[float], name: str) -> tf.Variable:
    """A float32 variable of a rule, moved by `Rule.step` alone."""
    # Mean over replicas: each would otherwise keep a copy of its own, and drift.
    return tf.Variable(
        initial,
        name=name,
        dtype=tf.float32,
        aggregation=tf.VariableAggregation.MEAN,
        trainable=False,
    )


def checked_weights(
    weights: Optional[Sequence[float]], tasks: int, argument: str
) -> List[float]:
    """The weights as given, 1 / n each for None.

    Raises:
      ValueError: unless they are n non-negative numbers of sum 1.
    """
    weights = list(weights or [1.0 / tasks] * tasks)
    if len(weights) != tasks or abs(sum(weights) - 1.0) > 1e-5 or min(weights) < 0:
        raise ValueError(
            f"{argument} must be {tasks} non-negative numbers of sum 1. "
            f"Received: {weights}."
        )
    return weights
