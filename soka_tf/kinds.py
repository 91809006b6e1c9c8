"""What a setting may be, declared once, beside it.

    joint_steps: Annotated[int, whole(0)] = 1000

`runs.config.parse_gin` checks every binding against it before anything is built;
settings that are dataclasses check what they are given by `check_fields`. A setting of
another annotation, such as one of a user's own configurable, is not checked.
"""

import dataclasses
import inspect
import math
import numbers
from typing import Annotated, Any, Callable, Optional, Sequence, Tuple, get_args

from soka_tf.errors import UserError, did_you_mean, short

LARGEST_WHOLE = 2**31 - 1  # of int32
LARGEST_NUMBER = 1e30  # far below float32's, with room for products


class WrongValue(UserError, ValueError):
    """A value that its setting cannot have: the user's mistake, or a caller's."""


class Reference(str):
    """A reference as gin text has it: %macro, @configurable or @configurable()."""

    __repr__ = str.__str__


@dataclasses.dataclass(frozen=True)
class Kind:
    """What values a setting may have. None is one where the setting is Optional.

    Attributes:
      words: what they are, to follow "must be".
      accepts: whether a value is one of them; may raise a `UserError` that says more.
      choices: the names among them, for "did you mean".
      convert: gives an accepted value the setting's type.
    """

    words: str
    accepts: Callable[[Any], bool]
    choices: Tuple[str, ...] = ()
    convert: Callable[[Any], Any] = lambda value: value


def whole(least: int, most: int = LARGEST_WHOLE) -> Kind:
    """Whole numbers of a range; gin reads 6e5 as a float, which is one, too."""
    words = f"a whole number of at least {least} and at most {most}"
    return Kind(
        words,
        lambda value: _is_number(value, least, most) and value == math.floor(value),
        convert=int,
    )


def number(
    least: float,
    most: float = LARGEST_NUMBER,
    above: bool = False,
    below: bool = False,
) -> Kind:
    """Finite numbers of a range.

    Args:
      least: the lower end.
      most: the upper end.
      above: whether the lower end itself is left out.
      below: whether the upper end itself is left out.
    """
    ends = f"{'(' if above else '['}{least:g}, {most:g}{')' if below else ']'}"

    def accepts(value: Any) -> bool:
        inside = _is_number(value, least, most)
        return inside and not (above and value == least or below and value == most)

    return Kind(f"a number in {ends}", accepts)


def one_of(names: Sequence[str]) -> Kind:
    """One of some names."""
    names = tuple(names)
    return Kind(
        f"one of {', '.join(names)}", lambda value: _is_text(value, names), names
    )


def list_of(kind: Kind, of_what: str, length: Optional[int] = None) -> Kind:
    """Lists and tuples of `length` such values, None for any number of at least one.

    Args:
      kind: of the items.
      of_what: what they are, in words, such as "2 integers".
      length: how many.
    """

    def accepts(value: Any) -> bool:
        return (
            isinstance(value, (list, tuple))
            and len(value) >= 1
            and length in (None, len(value))
            and all(map(kind.accepts, value))
        )

    return Kind(of_what, accepts, kind.choices)


def either(first: Kind, second: Kind) -> Kind:
    """What is of one kind or of the other, the first being asked first."""
    return Kind(
        f"{first.words}, or {second.words}",
        lambda value: first.accepts(value) or second.accepts(value),
        first.choices + second.choices,
    )


def configurable(words: str) -> Kind:
    """References to configurables; what they make is checked when it is made."""
    return Kind(words, lambda value: callable(value) or isinstance(value, Reference))


TEXT = Kind("a text", lambda value: _is_text(value) and "\0" not in value)
FLAG = Kind("True or False", lambda value: isinstance(value, bool))

# Of several settings each.
Flag = Annotated[bool, FLAG]
Path = Annotated[Optional[str], TEXT]
Count = Annotated[int, whole(1)]
CountOrZero = Annotated[int, whole(0)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
NonNegative = Annotated[float, number(0.0)]
Width = Annotated[float, number(0.0, 100.0, above=True)]


def kind_of(annotation: Any) -> Optional[Kind]:
    """The kind that an annotation declares; None without any."""
    declared = getattr(annotation, "__metadata__", ())
    return next((each for each in declared if isinstance(each, Kind)), None)


def checked(name: str, annotation: Any, value: Any, source: str = "") -> Any:
    """A value of the setting's type, or a refusal.

    Args:
      name: of the setting.
      annotation: of the setting; without a kind, any value is right.
      value: for it.
      source: where the value is from, if the message shall say so.

    Raises:
      WrongValue: names the setting, what it may be and what was received.
    """
    kind = kind_of(annotation)
    optional = type(None) in get_args(getattr(annotation, "__origin__", None))
    if kind is None or (optional and value is None):
        return value
    try:
        if kind.accepts(value):
            return kind.convert(value)
    except UserError as error:
        raise WrongValue(f"{name}{source and f' ({source})'}: {error}") from error
    near = did_you_mean(value, kind.choices, repr) if _is_text(value) else ""
    raise WrongValue(
        f"{name} must be {kind.words}{' or None' if optional else ''}. Received: "
        f"{short(value)}{source and f', {source}'}{near or '.'}"
    )


def check_fields(settings: Any, owner: str = "") -> None:
    """Checks all fields of a dataclass and gives them their types.

    Args:
      settings: the instance; may be frozen.
      owner: comes before the fields' names in messages, such as "run.".

    Raises:
      WrongValue: see `checked`.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        value = checked(owner + field.name, field.type, value)
        object.__setattr__(settings, field.name, value)


def check_arguments(function: Callable[..., Any], **values: Any) -> None:
    """Checks arguments of a function, or of what constructs a class, by its signature.

    Args:
      function: whose parameters declare their kinds.
      **values: the arguments to check.

    Raises:
      WrongValue: see `checked`.
    """
    parameters = inspect.signature(function).parameters
    for name, value in values.items():
        checked(name, parameters[name].annotation, value)


def _is_number(value: Any, least: float, most: float) -> bool:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and bool(least <= value <= most)  # NaN is not


def _is_text(value: Any, allowed: Optional[Sequence[str]] = None) -> bool:
    is_text = isinstance(value, str) and not isinstance(value, Reference)
    return is_text and (allowed is None or value in allowed)
