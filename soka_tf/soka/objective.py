"""What encoder and decoders minimise: the settings of Eqs. 5 and 8."""

import dataclasses

from soka_tf.soka.distillation import KINDS


@dataclasses.dataclass(frozen=True)
class Objective:
    """What encoder and decoders minimise (Eqs. 5 and 8).

    Attributes:
      soft_loss: "l2" or "l1", see `soka_tf.soka.distillation`.
      soft_weight: alpha of Eq. 8, in front of the soft-target losses (0.05).
      weighted_collaboration: whether n omega_i multiplies L_i in Eq. 8; as printed it
        does not. Not with a rule that has shares of the encoder of its own.
      train_compress: whether what is behind the encoder's shared layer is trained.
      weight_decay: L2 coefficient added to the loss of whoever moves; 0 where the
        optimizers decay the weights themselves.

    Raises:
      ValueError: if the soft loss is unknown.
    """

    soft_loss: str = "l1"
    soft_weight: float = 0.05
    weighted_collaboration: bool = False
    train_compress: bool = True
    weight_decay: float = 0.0

    def __post_init__(self):
        if self.soft_loss not in KINDS:
            raise ValueError(
                f"soft_loss must be one of {KINDS}. Received: {self.soft_loss!r}."
            )
