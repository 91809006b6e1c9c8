"""Errors shown as one line, which the user can mend or wait for; text fit for them."""

import difflib
import re
import reprlib
from typing import Any, Callable, Iterable, Optional

_LONG_NAME = 200
# What TensorFlow writes before the words of an operation in a graph.
_AROUND = re.compile(r"Graph execution error:|Detected at node|<stack traces|\s|$")
_SHORTENER = reprlib.Repr()
_SHORTENER.maxstring = _SHORTENER.maxlong = _SHORTENER.maxother = 80


class UserError(Exception):
    """A mistake in a file, a binding or a flag: shown as one line, without traceback.

    The message says what is wrong (naming the file or the binding), what was
    received, what is allowed and what to do.
    """

    exit_status = 2


class LostWorker(UserError):
    """Another process of the run is gone. The same command goes on, on all workers."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: a restart loop should try again


class Interrupted(UserError):
    """SIGINT or SIGTERM came; what was done is saved. The same command goes on."""

    def __init__(self, message: str, signal_number: int):
        """Ends the command with 128 + the signal's number, as shells report it."""
        super().__init__(message)
        self.exit_status = 128 + signal_number


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: nobody's `except Exception` is meant."""


def plain_message(error: UserError) -> str:
    """The message without what gin appends about its configurables."""
    return str(error).split("\n  In call to configurable", maxsplit=1)[0]


def did_you_mean(
    received: str, known: Iterable[str], show: Callable[[str], str] = str
) -> str:
    """Near names for the end of a message; "" where none is near."""
    near = difflib.get_close_matches(received, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(show, near))}?" if near else ""


def counted(count: int, noun: str) -> str:
    """A number of things, such as "1 image" or "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def reason(error: Exception) -> str:
    """Why Python or TensorFlow could not do something, in one line."""
    if isinstance(error, OSError) and error.strerror:
        name = str(error.filename or "")
        if len(name) > _LONG_NAME:  # or what is wrong with it would be cut off
            name = f"{name[: _LONG_NAME // 2]}...{name[-_LONG_NAME // 2 :]}"
        return f"{name}: {error.strerror}" if name else error.strerror
    lines = str(getattr(error, "message", error)).strip().splitlines()
    lines = [line for line in lines if not _AROUND.match(line)] or lines
    text = lines[0] if lines else type(error).__name__
    # TensorFlow puts the name of its operation around the system's words.
    text = re.sub(r"^\{\{function_node .*?\}\}\s*", "", text)
    return re.sub(r"\s*\[Op:\w+\].*$", "", text)[:300]


def of_the_machine(error: Optional[BaseException]) -> Optional[BaseException]:
    """The error of the system or of TensorFlow's runtime that another one stands for.

    Disks, memory and devices are the user's to mend; what else is raised is a fault of
    the program.

    Args:
      error: followed to what it was raised from, and to what gin, which raises a copy
        with words of its own and no number, has copied.

    Returns:
      An OSError with a number, a MemoryError, an ImportError for want of memory, or an
      OpError; None if none is behind it.
    """
    while error is not None:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        numbered = isinstance(error, OSError) and error.errno is not None
        # Of a library that is there, but finds no room.
        no_room = isinstance(error, ImportError) and "failed to map" in str(error)
        memory = no_room or isinstance(error, MemoryError)
        if numbered or memory or "OpError" in kinds:
            return error
        behind = error.__cause__
        if behind is None and type(error.__context__) in type(error).__bases__:
            behind = error.__context__
        error = behind
    return None


def short(value: Any) -> str:
    """A value for a message, however long or deep it is; its characters escaped."""
    return _SHORTENER.repr(value)


def one_line(error: Any, most: int = 300) -> str:
    """An error's text on one line, bounded, with nothing that moves a cursor."""
    text = " ".join(str(error).split())
    plain = (c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return "".join(plain) + ("..." if len(text) > most else "")
