"""Optimizers by name, with a named kind of weight decay. The only user of TFA.

The paper names neither optimizer nor kind of decay: docs/deviations.md.
"""

import dataclasses
import warnings
from typing import Annotated, Union

import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.kinds import NonNegative, check_fields, one_of

OPTIMIZERS = ("adam", "sgd")
DECAYS = ("none", "l2_loss", "tfa", "keras")
Rate = Union[float, tf.keras.optimizers.schedules.LearningRateSchedule]


@dataclasses.dataclass(frozen=True)
class WeightDecay:
    """How the weights of encoder and decoders decay (paper: 1e-6, no kind).

    Attributes:
      rate: the coefficient.
      kind: what it means, see `make_optimizer`.
    """

    rate: NonNegative = 1e-6
    kind: Annotated[str, one_of(DECAYS)] = "l2_loss"

    def __post_init__(self):
        check_fields(self, "decay.")

    @property
    def in_loss(self) -> float:
        """The L2 coefficient of the loss; 0 where the optimizer decays the weights."""
        return self.rate if self.kind == "l2_loss" else 0.0


def make_optimizer(
    name: str,
    learning_rate: Rate,
    weight_decay: Rate = 0.0,
    decay_kind: str = "none",
    momentum: float = 0.0,
    epsilon: float = 1e-8,
) -> tf.keras.optimizers.Optimizer:
    """Makes an optimizer.

    Args:
      name: "adam" or "sgd".
      learning_rate: a number or a schedule.
      weight_decay: the coefficient; what it means is the kind's affair.
      decay_kind: "none"; "l2_loss" (a penalty in the loss, which the code that computes
        the gradient adds, not the optimizer; Taskonomy's kind); "tfa" (AdamW and
        SGDW of TensorFlow Addons: w -= weight_decay * w, not multiplied by the
        learning rate; may be a schedule); "keras" (w -= rate * weight_decay * w).
      momentum: of "sgd".
      epsilon: of "adam"; the default is the original's, TensorFlow 1's.

    Raises:
      UserError: if a name is unknown or "keras" is given a schedule of decay.
    """
    if name not in OPTIMIZERS or decay_kind not in DECAYS:
        raise UserError(
            f"An optimizer must be one of {OPTIMIZERS} with weight decay of kind "
            f"{DECAYS}. Received: {name!r} with {decay_kind!r}."
        )
    options = {"epsilon": epsilon} if name == "adam" else {"momentum": momentum}
    if decay_kind == "tfa":
        tfa = _import_tfa()
        kind = tfa.optimizers.AdamW if name == "adam" else tfa.optimizers.SGDW
        return kind(weight_decay=weight_decay, learning_rate=learning_rate, **options)
    if decay_kind == "keras":
        if callable(weight_decay):
            raise UserError(
                "Weight decay of kind 'keras' is a number; it cannot follow a "
                "schedule. Bind a number or the kind 'tfa'."
            )
        options["weight_decay"] = weight_decay or None
        family = tf.keras.optimizers
    else:
        # One fused kernel a variable; the newer family's many small ones cost a small
        # network more than its own backward pass.
        family = tf.keras.optimizers.legacy
    kind = family.Adam if name == "adam" else family.SGD
    return kind(learning_rate=learning_rate, **options)


def _import_tfa():
    # Imported here, late: the rest of soka_tf also runs where TFA is missing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its notice that its life is at an end
        try:
            import tensorflow_addons as tfa
        except ImportError as error:
            raise UserError(
                "Weight decay of kind 'tfa' needs TensorFlow Addons (Python 3.9 to "
                "3.11: python -m pip install tensorflow-addons==0.23.0); bind 'keras' "
                "with weight_decay / learning rate, which takes off the same, or "
                f"'l2_loss'. Received: {error}."
            ) from error
    return tfa
