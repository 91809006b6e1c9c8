"""Text of a file, made fit for a message of one line."""

import reprlib
from typing import Any

_SHORTENER = reprlib.Repr()
_SHORTENER.maxstring = _SHORTENER.maxlong = _SHORTENER.maxother = 80


def short(value: Any) -> str:
    """A value for a message, however long or deep it is; its characters escaped."""
    return _SHORTENER.repr(value)


def one_line(error: Any, most: int = 300) -> str:
    """An error's text on one line, bounded, with nothing that moves a cursor."""
    text = " ".join(str(error).split())
    plain = (c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return "".join(plain) + ("..." if len(text) > most else "")
