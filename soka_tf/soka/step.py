"""What lasts for one step: what is decided before it, its passes, its pulls."""

import dataclasses
from typing import Dict, NamedTuple, Optional, Tuple

import tensorflow as tf

from soka_tf.data.targets import Targets
from soka_tf.networks.batch_norm import Collected
from soka_tf.soka.ledger import Page
from soka_tf.soka.players import Tensors

Values = Dict[str, tf.Tensor]  # term -> float32 scalar, by the names of ledger.PHASES
Taught = Tuple[tf.Tensor, Targets]  # images and what the teachers say of them


@dataclasses.dataclass(frozen=True)
class Step:
    """What is decided in Python before the graph of a step is traced.

    Attributes:
      stage: of `schedule.STAGES`.
      training: whether BatchNorm normalises by the batch's statistics.
      frozen_training: the same, of a network that rests while another one moves.
      page: where the step is noted.
      measures_conflict: whether the cosines of the tasks' pulls are noted.
    """

    stage: str
    training: bool
    frozen_training: bool
    page: Page
    measures_conflict: bool = False

    @property
    def adversarial(self) -> bool:
        """Whether the CGAN term takes part."""
        return self.stage.endswith("_gan")


class Encoded(NamedTuple):
    """One pass of the encoder, to be differentiated once more.

    Attributes:
      features: layer -> activations, "representation" among them.
      trunk_tape: of the layers up to the shared one.
      compress_tape: of those from there to the representation; persistent.
      moved: what the pass would make of the moving statistics.
    """

    features: Dict[str, tf.Tensor]
    trunk_tape: tf.GradientTape
    compress_tape: tf.GradientTape
    moved: Collected


class Pulls(NamedTuple):
    """The tasks' losses and how they pull at the representation.

    Attributes:
      losses: L_i, float32 [n], of soft targets alone.
      gradients: n tensors, scale * d L_i / d representation.
      scale: of `Players.loss_scale`.
    """

    losses: tf.Tensor
    gradients: Tensors
    scale: Optional[tf.Tensor]


class Transferred(NamedTuple):
    """L_A of a step and how it pulls.

    Attributes:
      loss: L_A, a float32 scalar.
      gradients: layer -> scale * d L_A / d the student's activation there.
      of_adapter: scale * d L_A / d the adapters' variables; empty without any.
    """

    loss: tf.Tensor
    gradients: Dict[str, tf.Tensor]
    of_adapter: Tensors
