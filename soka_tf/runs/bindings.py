"""What bindings refer to is called here; what it refuses is the user's to mend."""

from typing import Any, Callable

from soka_tf.errors import UserError


def or_user_error(binding: str, build: Callable[[], Any]) -> Any:
    """What `build` returns; a ValueError as a UserError that begins with `binding`."""
    try:
        return build()
    except ValueError as error:
        text = str(error).removeprefix(binding)  # networks begin with their own name
        raise UserError(binding + text) from error


def made_by(binding: str, reference: Any, *arguments: Any, **keywords: Any) -> Any:
    """What a bound configurable makes; what is bound itself where it is none.

    Args:
      binding: names it in errors where it has no name of its own.
      reference: what is bound.
      *arguments: of the call, as `keywords`.
      **keywords: of the call.
    """
    if not callable(reference):
        return reference
    name = getattr(reference, "__name__", binding)
    return or_user_error(f"{name}: ", lambda: reference(*arguments, **keywords))
