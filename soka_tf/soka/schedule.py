"""Which phases a step has, and what they see: the settings of section 3.4."""

import dataclasses
from typing import Annotated, Optional

from soka_tf.kinds import CountOrZero, Flag, check_fields, number, one_of

STAGES = ("joint", "cycle", "cycle_gan", "tail", "tail_gan")
ORDERS = ("alternating", "simultaneous")
JOINT_LOSSES = ("shared", "of_cycle")
FROZEN_STATISTICS = ("batch", "moving")


def first_of_last(share: float, max_steps: int) -> int:
    """The first of the last steps of a run that are this share of them."""
    return round(max_steps * (1.0 - share))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which phases a step has, and what they see (section 3.4).

    Attributes:
      joint_steps: length of the joint start, Step 2 (paper: 1000).
      joint_amalgamation: whether L_A takes part in the joint start.
      joint_loss: "shared", as Step 2: encoder and decoders minimise one loss, in which
        the decoders' part is soft_weight * n times what it is in a cycle, or, without
        L_A, the encoder's 1 / (soft_weight * n) times; "of_cycle": the decoders
        minimise Eq. 6 and the encoder Eq. 8 with n omega_i from the first step on, so
        that nobody's loss changes its scale where the cycles begin.
      joint_weighting: whether the rule acts in joint steps, too, its shares of the
        encoder included; GradNorm, as in its own paper, from the step that took
        L_i(0) on. Otherwise the task weights stay as they begin.
      initial_losses_step: joint step at which L_i(0) of GradNorm is taken.
      order: of competition and collaboration: "alternating", as the paper: the encoder
        steps against the decoders as the competition left them; or "simultaneous":
        both step from where the cycle began, and the decoders run once.
      new_batch_in_collaboration: whether collaboration and weighting see other images
        than the competition of the same cycle. A step's batch then holds the images
        of two, see `SokaModel.train_step`.
      frozen_statistics: with which statistics BatchNorm normalises in a part that
        rests while another one moves, "batch" or "moving".
      settle_share: of the steps of the run, the last ones: in these BatchNorm's moving
        statistics stand still and are used in place of the batch's, by student and
        discriminators, so that the student meets images as it will in use; 0 for none.
      tail_share: of the steps of the run, the last ones: in these the decoders alone
        go on, by the competition; encoder, amalgamation and task weights rest. 0 for
        none; 1 for an encoder that stays as it was initialised.
      max_steps: of the run; needed for a `settle_share` or `tail_share` only.

    Raises:
      ValueError: if a setting is out of range, or the simultaneous order shall see
        other images or statistics in the collaboration than in the competition.
    """

    joint_steps: CountOrZero = 1000
    joint_amalgamation: Flag = True
    joint_loss: Annotated[str, one_of(JOINT_LOSSES)] = "shared"
    joint_weighting: Flag = False
    initial_losses_step: CountOrZero = 10
    order: Annotated[str, one_of(ORDERS)] = "alternating"
    new_batch_in_collaboration: Flag = False
    frozen_statistics: Annotated[str, one_of(FROZEN_STATISTICS)] = "batch"
    settle_share: Annotated[float, number(0.0, 1.0)] = 0.0
    tail_share: Annotated[float, number(0.0, 1.0)] = 0.0
    max_steps: Optional[int] = None

    def __post_init__(self):
        check_fields(self)
        for name in ("settle_share", "tail_share"):
            if getattr(self, name) and self.max_steps is None:
                raise ValueError(f"{name} is one of max_steps. Received: None.")
        if self.order == "simultaneous" and (
            self.new_batch_in_collaboration or self.frozen_statistics != "batch"
        ):
            raise ValueError(
                "order = 'simultaneous' has one pass of the decoders for competition "
                "and collaboration. Received with it: new_batch_in_collaboration = "
                f"{self.new_batch_in_collaboration}, frozen_statistics = "
                f"{self.frozen_statistics!r}. Bind False and 'batch', or 'alternating'."
            )

    @property
    def settle_step(self) -> Optional[int]:
        """The first step with the moving statistics; None for never."""
        if not self.settle_share:
            return None
        return first_of_last(self.settle_share, self.max_steps)

    @property
    def tail_step(self) -> Optional[int]:
        """The first step of the tail; None for never."""
        if not self.tail_share:
            return None
        return first_of_last(self.tail_share, self.max_steps)
