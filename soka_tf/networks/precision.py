"""In which precision networks compute. Variables, losses and norms are float32."""

import contextlib
from typing import Iterator, Optional

import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.networks.processor import has_amx

PRECISIONS = ("float32", "mixed_bfloat16")


@contextlib.contextmanager
def compute_in(precision: str, binding: str = "precision") -> Iterator[None]:
    """Layers made inside compute in this precision; a matter of Keras' global policy.

    Args:
      precision: "float32", or "mixed_bfloat16": products of bfloat16 numbers, of
        float32's range and 8 significant bits, from float32 variables.
      binding: whose value it is, for the error.

    Raises:
      UserError: if the precision is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise UserError(
            f"{binding} must be one of {', '.join(PRECISIONS)}. Received: "
            f"{precision!r}."
        )
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def hint(precision: str, binding: str) -> Optional[str]:
    """One line on a precision that does not suit this machine; None if it does."""
    if tf.config.list_physical_devices("GPU"):
        return None  # which of them gain by it is not known here
    if precision == "float32" and has_amx():
        return (
            "This processor has AMX: "
            f"{binding} = 'mixed_bfloat16' makes a step about twice as fast "
            "(docs/performance.md)."
        )
    if precision == "mixed_bfloat16" and not has_amx():
        return (
            "This processor has no AMX: "
            f"{binding} = 'mixed_bfloat16' is slower on it than 'float32'."
        )
    return None
