"""In which precision networks compute. Variables, losses and norms are float32."""

import contextlib
from typing import Iterator, Optional

import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.networks.processor import has_amx

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Scalars; in smaller networks the conversions cost more than the products save.
_LARGE = 10_000_000


@contextlib.contextmanager
def compute_in(precision: str, binding: str = "precision") -> Iterator[None]:
    """Layers made inside compute in this precision; a matter of Keras' global policy.

    Args:
      precision: "float32", or "mixed_bfloat16": products of bfloat16 numbers, of
        float32's range and 8 significant bits, from float32 variables;
        "mixed_float16": of float16 numbers, whose range is short, so that
        `SokaModel.compile` has every optimizer scale its loss.
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


def computes_in_float16(*networks: tf.Module) -> bool:
    """Whether a layer of the networks computes in float16."""
    return any(
        getattr(module, "compute_dtype", None) == "float16"
        for network in networks
        for module in (network, *network.submodules)
    )


def is_large(*networks: tf.Module) -> bool:
    """Whether networks are large enough to gain by bfloat16 on a processor with AMX."""
    scalars = sum(v.shape.num_elements() for n in networks for v in n.variables)
    return scalars >= _LARGE


def hint(precision: str, binding: str, networks: tf.Module) -> Optional[str]:
    """One line on a precision that does not suit this machine; None if it does.

    Args:
      precision: one of `PRECISIONS`.
      binding: whose value it is.
      networks: what computes in it.
    """
    if tf.config.list_physical_devices("GPU"):
        return None  # which of them gain by it is not known here
    if precision == "mixed_float16":
        return (
            f"{binding} = 'mixed_float16' is for GPUs, and none is visible: on a "
            "processor it is slower than 'float32'."
        )
    if precision == "float32" and has_amx() and is_large(networks):
        return (
            "This processor has AMX: with "
            f"{binding} = 'mixed_bfloat16' a step would be faster."
        )
    if precision == "mixed_bfloat16" and not has_amx():
        return (
            "This processor has no AMX: "
            f"{binding} = 'mixed_bfloat16' is slower on it than 'float32'."
        )
    return None
