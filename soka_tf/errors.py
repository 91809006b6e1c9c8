"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in a file, a binding or a flag: shown as one line, without traceback.

    The message says what is wrong (naming the file or the binding), what was
    received, what is allowed and what to do.
    """
