"""What encoder and decoders minimise: the settings of Eqs. 5 and 8."""

import dataclasses
from typing import Annotated

from soka_tf.kinds import Flag, NonNegative, check_fields, one_of
from soka_tf.soka.distillation import KINDS
from soka_tf.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Objective:
    """What encoder and decoders minimise (Eqs. 5 and 8).

    Attributes:
      soft_loss: "l2" or "l1", see `soka_tf.soka.distillation`; of the tasks that have
        no `Task.loss` of their own, as all of Taskonomy's but segment_semantic.
      soft_weight: alpha of Eq. 8, in front of the soft-target losses (0.05).
      weighted_collaboration: whether n omega_i multiplies L_i in Eq. 8; as printed it
        does not. Not with a rule that has shares of the encoder of its own.
      train_compress: whether what is behind the encoder's shared layer is trained.
      weight_decay: L2 coefficient added to the loss of whoever moves; 0 where the
        optimizers decay the weights themselves.

    Raises:
      ValueError: if a setting is out of range.
    """

    soft_loss: Annotated[str, one_of(KINDS)] = "l1"
    soft_weight: NonNegative = 0.05
    weighted_collaboration: Flag = False
    train_compress: Flag = True
    weight_decay: NonNegative = 0.0

    def __post_init__(self):
        check_fields(self)

    def loss_of(self, task: str) -> str:
        """The kind of a task's soft-target loss, see `soka_tf.soka.distillation`."""
        own = TASKS[task].loss if task in TASKS else None
        return own or self.soft_loss
