"""Bindings against what the parameters they bind declare (`soka_tf.kinds`).

TensorFlow is not imported.
"""

import inspect
from typing import Any, Dict, Iterator, Mapping, Tuple

import gin

from soka_tf.errors import UserError
from soka_tf.kinds import Reference, checked, kind_of


def parameters_of(configurable: Any) -> Dict[str, inspect.Parameter]:
    """The parameters of a function or of what constructs a class, but for self."""
    if isinstance(configurable, type) and configurable.__init__ is not object.__init__:
        configurable = configurable.__init__  # Keras' classes have a __new__ of any
    parameters = dict(inspect.signature(configurable).parameters)
    parameters.pop("self", None)
    return parameters


def parameters_named(selector: str) -> Dict[str, inspect.Parameter]:
    """The parameters of what gin knows by a name."""
    reference = gin.config.ConfigurableReference(selector, False)
    return parameters_of(reference.configurable.wrapped)


def check_bound(bound: Mapping[str, Any]) -> Dict[str, Any]:
    """Refuses a value that its parameter cannot have.

    What is made when it is used, `@configurable()`, is not known yet and is left out,
    and so are parameters that declare nothing.

    Args:
      bound: "scope/configurable.parameter" or macro -> its value, as gin text has it.

    Returns:
      Those of them that get another type, and their values: of 6e5 the whole number.

    Raises:
      UserError: names the binding, and the macro that it is bound to.
    """
    converted = {}
    for name, value in bound.items():
        selector, _, parameter = name.split("/")[-1].rpartition(".")
        declared = parameters_named(selector).get(parameter) if selector else None
        if declared is None or kind_of(declared.annotation) is None:
            continue
        place, value = followed(name, value, bound)
        if any(_is_made_later(leaf) for leaf in _leaves(value)):
            continue
        source = "" if place == name else f"bound as {place}"
        right = checked(name, declared.annotation, value, source)
        if type(right) is not type(value):
            converted[place] = right
    return converted


def followed(
    place: str, value: Any, bound: Mapping[str, Any], before: Tuple[str, ...] = ()
) -> Tuple[str, Any]:
    """Where a value is bound at last, and the value, with all macros replaced.

    Args:
      place: the name of a binding.
      value: of it, as gin text has it.
      bound: all bindings, see `check_bound`.
      before: macros that have led here.

    Raises:
      UserError: if a macro refers to itself.
    """

    def within(item: Any) -> Any:
        return followed(place, item, bound, before)[1]

    if isinstance(value, Reference) and value.startswith("%") and value[1:] in bound:
        if value in before:
            raise UserError(f"the macro {value} refers to itself, see {place}")
        return followed(value[1:], bound[value[1:]], bound, (*before, value))
    if isinstance(value, (list, tuple)):
        return place, type(value)(map(within, value))
    if isinstance(value, dict):
        return place, {key: within(item) for key, item in value.items()}
    return place, value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_made_later(value: Any) -> bool:
    is_reference = isinstance(value, Reference)
    return is_reference and (value.startswith("%") or value.endswith("()"))
