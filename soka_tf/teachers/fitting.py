"""Fits the variables of a file to those of a network, or tells all that is wrong."""

from typing import Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from soka_tf.teachers.messages import one_line

Shape = Tuple[int, ...]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_LONGEST_NAME = 120


class Entry(NamedTuple):
    """One variable of a file.

    Attributes:
      shape: as the file has it.
      dtype: numpy's name of its type.
      read: returns the value; called only where shape and type fit.
    """

    shape: Shape
    dtype: str
    read: Callable[[], np.ndarray]


class Fault(Exception):
    """The variables do not fit; the message lists all of them."""


def fit(
    wanted: Mapping[str, Shape],
    entries: Mapping[str, Entry],
    unread: Optional[Mapping[str, Shape]] = None,
) -> Dict[str, np.ndarray]:
    """Reads exactly the wanted variables of a file.

    Args:
      wanted: name in the file -> shape in the file.
      entries: all variables of the file that are to be accounted for.
      unread: name -> shape of variables that may be there and are not needed; a
        wrong shape still means another file than the one expected.

    Returns:
      name -> float32 array, finite, in the order of `wanted`.

    Raises:
      Fault: naming all missing, additional, misshapen and unreadable variables.
    """
    missing = sorted(name for name in wanted if name not in entries)
    known = {**(unread or {}), **wanted}
    additional = sorted(name for name in entries if name not in known)
    unfit, values = [], {}
    for name in sorted(known):
        if name not in entries:
            continue
        entry = entries[name]
        if entry.shape != known[name] or entry.dtype not in _FLOATS:
            unfit.append(
                f"{name} is {entry.dtype}{list(entry.shape)}, "
                f"must be float{list(known[name])}"
            )
        elif name in wanted:
            with np.errstate(over="ignore"):  # what overflows is found below
                value = np.asarray(entry.read(), np.float32)
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


def _some(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, _LONGEST_NAME) for name in names) or "none"
