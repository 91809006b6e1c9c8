"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in a file, a binding or a flag: shown as one line, without traceback.

    The message says what is wrong (naming the file or the binding), what was
    received, what is allowed and what to do.
    """


def plain_message(error: UserError) -> str:
    """The message without what gin appends about its configurables."""
    return str(error).split("\n  In call to configurable", maxsplit=1)[0]
