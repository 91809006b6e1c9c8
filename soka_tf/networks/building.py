"""What the three architectures share: arguments, sizes, checks, a network's end."""

import dataclasses
import inspect
from typing import Any, Dict, Mapping

import tensorflow as tf

from soka_tf.kinds import checked


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A plain object, because Keras would track a bare dictionary."""

    arguments: Mapping[str, Any]


class Rebuildable(tf.keras.Model):
    """A network that is built again, with new weights, from its own arguments."""

    def keep_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Keeps the constructor's arguments; called by the constructor."""
        self._kept = _Kept(dict(arguments))

    def get_config(self) -> Dict[str, Any]:
        """Returns the constructor's arguments."""
        return dict(self._kept.arguments)

    @classmethod
    def from_config(cls, config: Dict[str, Any], custom_objects=None) -> "Rebuildable":
        """Returns a new network with the constructor's arguments."""
        return cls(**config)


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


def check_declared(network: type, **values: Any) -> None:
    """Refuses arguments of a network that are not of the kind declared beside them.

    Raises:
      ValueError: naming the network, the argument, the value and what it may be.
    """
    parameters = inspect.signature(network.__init__).parameters
    for name, value in values.items():
        checked(f"{network.__name__}: {name}", parameters[name].annotation, value)


def as_float32(x: tf.Tensor, name: str) -> tf.Tensor:
    """Ends a network: names its output and keeps losses in float32 in any policy."""
    return tf.keras.layers.Activation("linear", dtype="float32", name=name)(x)
