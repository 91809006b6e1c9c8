"""JSON and CSV that anybody may have written or damaged: read bounded and checked.

The only module that parses them. A shape says what a value of JSON must be:

    int, float, str, bool, None     such a value; a float is finite, an int will do
    Number(int, 1, 4096)            a number of this range
    (str, None)                     such a value or null
    [float]                         a list of such values
    {"tasks": ..., "seed?": int}    an object with these names, "seed" perhaps, and
                                    whatever others
    {str: float}                    an object of any names
    ANY                             any value
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

from soka_tf.data import filesystem
from soka_tf.errors import UserError, one_line, short

ANY = object()
MOST_BYTES = 64 << 20
_MOST_DEPTH = 50
_MOST_DIGITS = 18  # of a whole number, so that 64 bits hold it
_MOST_TABLE_BYTES = 1 << 30
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
}


@dataclasses.dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; whole where `kind` is int."""

    kind: type
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        return f"{_WORDS[self.kind]} from {self.low:.16g} to {self.high:.16g}"


def parse_json(content: Union[str, bytes], shape: Any = ANY) -> Any:
    """Parses JSON of a shape.

    Raises:
      ValueError: if it is no JSON in UTF-8, holds numbers that are not finite or have
        more than 18 digits, is nested deeply, or of another shape; in one line.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_finite
        )
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(value)
    check(value, shape)
    return value


def load_json(path: filesystem.PathLike, shape: Any, most_bytes: int) -> Any:
    """Reads a JSON file of a shape.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is larger than `most_bytes`, or as `parse_json`.
    """
    return parse_json(_content(path, most_bytes), shape)


def read_json(
    path: filesystem.PathLike,
    shape: Any,
    remedy: str,
    wrong: str = "cannot be read",
    most_bytes: int = MOST_BYTES,
) -> Any:
    """Reads a JSON file of a shape.

    Args:
      path: of the file, local or of any file system that TensorFlow knows.
      shape: what it must hold.
      remedy: what the user can do, a sentence.
      wrong: what any other file is, such as "not a manifest of teachers".
      most_bytes: a larger file is not read.

    Raises:
      UserError: "<path>: <wrong> (<why>). <remedy>".
    """
    with refusing(path, remedy, wrong):
        return load_json(path, shape, most_bytes)


def read_csv(
    path: filesystem.PathLike,
    columns: Sequence[str],
    remedy: str,
    wrong: str = "cannot be read",
) -> List[Dict[str, str]]:
    """Reads a table in UTF-8 whose first row names its columns.

    Args:
      path: of the file.
      columns: what the first row must name, among others.
      remedy: as in `read_json`.
      wrong: as in `read_json`.

    Returns:
      The rows, text by column; none of an empty file. Rows of more or fewer cells, such
      as one cut off, are left out.

    Raises:
      UserError: as `read_json`.
    """
    with refusing(path, remedy, wrong):
        content = _content(path, _MOST_TABLE_BYTES)
        try:
            lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
            header = next(lines, None)
            rows = [row for row in lines if header and len(row) == len(header)]
        except UnicodeDecodeError as error:
            raise ValueError("it is not text in UTF-8") from error
        except csv.Error as error:
            raise ValueError(str(error)) from error
        absent = [name for name in columns if content and name not in (header or ())]
        if absent:
            raise ValueError(f"its first row has no column {', '.join(absent)}")
        return [dict(zip(header or (), row)) for row in rows]


def finite(text: Any) -> Optional[float]:
    """The number that a cell holds; None of what is no number or not finite."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


@contextlib.contextmanager
def refusing(
    path: filesystem.PathLike, remedy: str, wrong: str = "cannot be read"
) -> Iterator[None]:
    """Checks what a file holds.

    Raises:
      UserError: in place of OSError and ValueError, as `read_json`.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        why = one_line(getattr(error, "strerror", None) or error)
        raise UserError(f"{path}: {wrong} ({why}). {remedy}") from error


def check(value: Any, shape: Any, where: str = "") -> None:
    """Checks a value of JSON.

    Raises:
      ValueError: if it is of another shape; names what `where` is and was received.
    """
    if isinstance(shape, dict):
        _check_object(value, shape, where)
    elif isinstance(shape, list) and type(value) is list:
        for i, item in enumerate(value):
            check(item, shape[0], f"{where}[{i}]")
    elif isinstance(shape, tuple):
        if value is not None:
            check(value, shape[0], where)
    elif not _is(value, shape):
        raise ValueError(
            f"{where or 'it'} must be {_words(shape)}. Received: {short(value)}"
        )


def _check_object(value: Any, shape: Dict[Any, Any], where: str) -> None:
    found = value if type(value) is dict else {}
    needed = [name for name in shape if name is not str and not name.endswith("?")]
    absent = [name for name in needed if name not in found]
    if absent or type(value) is not dict:
        raise ValueError(
            f"{where or 'it'} has no {', '.join(absent or needed) or 'names'}"
        )
    for name, inner in shape.items():
        for key in found if name is str else {name.rstrip("?")} & found.keys():
            check(found[key], inner, f"{where}.{one_line(key, 60)}".lstrip("."))


def _is(value: Any, shape: Any) -> bool:
    if shape is ANY or shape is None:
        return shape is ANY or value is None
    if isinstance(shape, Number):
        return _is(value, shape.kind) and shape.low <= value <= shape.high
    return type(value) is shape or (shape is float and type(value) is int)


def _words(shape: Any) -> str:
    if isinstance(shape, list):
        return "a list"
    return _WORDS.get(shape, "null") if shape in (*_WORDS, None) else str(shape)


def _content(path: filesystem.PathLike, most_bytes: int) -> bytes:
    size = filesystem.size(path)
    if size > most_bytes:
        raise ValueError(f"{size} bytes, more than the {most_bytes} it may have")
    return filesystem.read_bytes(path)


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"a number is {text[:20]}..., beyond 18 digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number is {text[:20]}, which is not finite")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
