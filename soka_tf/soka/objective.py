"""What encoder and decoders minimise: the settings of Eqs. 5 and 8."""

import dataclasses
import math
from typing import Annotated, Optional, Sequence, Union

import tensorflow as tf

from soka_tf.kinds import Flag, NonNegative, check_fields, number, one_of, whole
from soka_tf.soka.balancing.rule import Rule
from soka_tf.soka.distillation import KINDS, REDUCTIONS
from soka_tf.tasks import TASKS

CURVES = ("linear", "cosine")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What encoder and decoders minimise (Eqs. 5 and 8).

    Attributes:
      soft_loss: "l2" or "l1", see `soka_tf.soka.distillation`; of the tasks that have
        no `Task.loss` of their own, as all of Taskonomy's but segment_semantic.
      soft_reduction: "mean", or "sum" as Eq. 5 is printed, see there.
      soft_weight: alpha of Eq. 8, in front of the soft-target losses (0.05).
      final_soft_weight: None for an alpha that stays; or what it grows, or falls, to:
        hints first.
      soft_weight_steps: how many steps that takes, from the run's first on.
      soft_weight_curve: "linear", or "cosine", the half wave with slope 0 at both ends.
      weighted_collaboration: whether n omega_i multiplies L_i in Eq. 8; as printed it
        does not. Not with a rule that has shares of the encoder of its own.
      transfer_as_task: whether L_A is one task more for the rule of balancing, whose
        n + 1 weights, of mean 1, are the factors of alpha * L_i and of L_A in Eq. 8;
        `weighted_collaboration` is then part of it.
      train_compress: whether what is behind the encoder's shared layer is trained.
      weight_decay: L2 coefficient added to the loss of whoever moves; 0 where the
        optimizers decay the weights themselves.

    Raises:
      ValueError: if a setting is out of range or one is missing.
    """

    soft_loss: Annotated[str, one_of(KINDS)] = "l1"
    soft_reduction: Annotated[str, one_of(REDUCTIONS)] = "mean"
    soft_weight: NonNegative = 0.05
    final_soft_weight: Annotated[Optional[float], number(0.0)] = None
    soft_weight_steps: Annotated[Optional[int], whole(1)] = None
    soft_weight_curve: Annotated[str, one_of(CURVES)] = "linear"
    weighted_collaboration: Flag = False
    transfer_as_task: Flag = False
    train_compress: Flag = True
    weight_decay: NonNegative = 0.0

    def __post_init__(self):
        check_fields(self)
        if self.grows and self.soft_weight_steps is None:
            raise ValueError(
                f"final_soft_weight = {self.final_soft_weight} is reached after "
                "soft_weight_steps. Received: None. Bind a number of steps, such as "
                "%max_steps."
            )

    def loss_of(self, task: str) -> str:
        """The kind of a task's soft-target loss, see `soka_tf.soka.distillation`."""
        own = TASKS[task].loss if task in TASKS else None
        return own or self.soft_loss

    @property
    def grows(self) -> bool:
        """Whether alpha changes over the run."""
        return self.final_soft_weight is not None

    def soft_weight_at(self, step: tf.Tensor) -> Union[float, tf.Tensor]:
        """The alpha of a step, counted from 0: a number; where it grows, a tensor."""
        if not self.grows:
            return self.soft_weight
        done = tf.cast(step, tf.float32) / self.soft_weight_steps
        done = tf.minimum(done, 1.0)
        if self.soft_weight_curve == "cosine":
            done = 0.5 - 0.5 * tf.cos(math.pi * done)
        return self.soft_weight + (self.final_soft_weight - self.soft_weight) * done

    def check_rule(
        self, rule: Rule, tasks: int, layers: Optional[Sequence[str]]
    ) -> None:
        """Refuses a rule that does not fit what it is to weight.

        Args:
          rule: of balancing.
          tasks: the number n of tasks.
          layers: those amalgamated; None without MIA.

        Raises:
          ValueError: if two things shall weight the encoder's losses, or L_A, which
            shall be one of the tasks, has no place.
        """
        if self.weighted_collaboration and rule.shares_encoder:
            raise ValueError(
                f"the rule {rule.name!r} weights the encoder's losses itself. "
                "Received with it: weighted_collaboration = True. Bind False."
            )
        if not self.transfer_as_task:
            return
        if layers is None:
            raise ValueError(
                "transfer_as_task = True makes L_A one of the tasks. Received: no "
                "amalgamation. Bind False, or a build_amalgamation.variant."
            )
        if rule.needs and "representation" not in layers:
            raise ValueError(
                f"the rule {rule.name!r} compares pulls at the representation, where "
                "L_A must have one, too, with transfer_as_task = True. Received: "
                f"build_amalgamation.layers = {list(layers)}."
            )
        count = int(tf.convert_to_tensor(rule.task_weights).shape[0])
        if count != tasks + 1:
            raise ValueError(
                "transfer_as_task = True needs a rule of the tasks and L_A, "
                f"{tasks + 1}. Received: a rule of {count}."
            )
