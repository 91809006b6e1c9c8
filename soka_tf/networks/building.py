"""What the three architectures share: sizes, checks, and the end of a network."""

from typing import Sequence, Tuple

import tensorflow as tf


def scaled_filters(filters: int, width: float, min_filters: int = 1) -> int:
    """Returns the number of filters of a layer in a network of another width."""
    return max(min_filters, round(filters * width))


def check_positive(owner: str, **values: float) -> None:
    """Refuses zero and less.

    Raises:
      ValueError: naming the owner, the argument and the value.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{owner}: {name} must be positive. Received: {value!r}.")


def check_integers(
    owner: str, name: str, values: Sequence[int], length: int, allowed: Sequence[int]
) -> Tuple[int, ...]:
    """Returns the values as a tuple of plain integers.

    Raises:
      ValueError: if there are not `length` of them or one is not allowed.
    """
    numbers = tuple(values) if isinstance(values, (list, tuple)) else ()
    if len(numbers) != length or any(number not in allowed for number in numbers):
        raise ValueError(
            f"{owner}: {name} must be {length} integers between {min(allowed)} and "
            f"{max(allowed)}. Received: {values!r}."
        )
    return tuple(int(number) for number in numbers)


def as_float32(x: tf.Tensor, name: str) -> tf.Tensor:
    """Ends a network: names its output and keeps losses in float32 in any policy."""
    return tf.keras.layers.Activation("linear", dtype="float32", name=name)(x)
