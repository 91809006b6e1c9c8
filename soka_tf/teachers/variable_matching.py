"""Fits the variables of a file to those of a network, or lists all that is wrong."""

from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from soka_tf.errors import one_line

Shape = Tuple[int, ...]

_LONGEST_NAME = 120


class Fault(Exception):
    """The variables do not fit; the message lists all of them."""


def fit(
    wanted: Mapping[str, Shape],
    arrays: Mapping[str, np.ndarray],
    unread: Optional[Mapping[str, Shape]] = None,
) -> Dict[str, np.ndarray]:
    """Takes exactly the wanted variables of a file.

    Args:
      wanted: name in the file -> shape in the file.
      arrays: all variables of the file that are to be accounted for.
      unread: name -> shape of variables that may be there and are not needed; a
        wrong shape still means another file than the one expected.

    Returns:
      name -> float32 array, finite, in the order of `wanted`.

    Raises:
      Fault: naming all missing, additional and misshapen variables, and those that are
        no finite floating-point numbers.
    """
    missing = sorted(name for name in wanted if name not in arrays)
    known = {**(unread or {}), **wanted}
    additional = sorted(name for name in arrays if name not in known)
    unfit, values = [], {}
    for name in sorted(set(known).intersection(arrays)):
        array = arrays[name]
        if array.shape != known[name] or array.dtype.kind != "f":
            unfit.append(
                f"{name} is {array.dtype.name}{list(array.shape)}, "
                f"must be float{list(known[name])}"
            )
        elif name in wanted:
            with np.errstate(over="ignore"):  # what overflows is found below
                value = np.asarray(array, np.float32)
            if np.all(np.isfinite(value)):
                values[name] = value
            else:
                unfit.append(f"{name} holds NaN or infinite values")
    if missing or additional or unfit:
        raise Fault(
            f"Missing ({len(missing)}): {_some(missing)}. "
            f"Additional ({len(additional)}): {_some(additional)}. "
            f"Unfit ({len(unfit)}): {', '.join(unfit) or 'none'}."
        )
    return {name: values[name] for name in wanted}


def shapes_of(variables: Mapping[str, tf.Variable]) -> Dict[str, Shape]:
    """The shape of every variable, by name."""
    return {name: tuple(variable.shape) for name, variable in variables.items()}


def leading_part(
    values: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> Dict[str, np.ndarray]:
    """The part of a network's variables that a smaller one of the same layout has.

    Args:
      values: of the larger network, by name.
      shapes: of the smaller one's: fewer channels a layer, of which it takes the
        first; fewer units a block. What is larger there, of another rank or missing
        in `values` is left to whoever assigns.
    """
    return {
        name: value[tuple(map(slice, shapes[name]))]
        if len(shapes[name]) == value.ndim
        else value
        for name, value in values.items()
        if name in shapes
    }


def _some(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, _LONGEST_NAME) for name in names) or "none"
