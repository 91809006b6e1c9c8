"""gin text: found, parsed, written and compared; nothing is bound or imported.

With `config.py` the only module that reads it. TensorFlow is not imported.
"""

import os
import pathlib
import re
import tokenize
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

from soka_tf.errors import UserError, did_you_mean, one_line
from soka_tf.kinds import Reference

try:
    from gin import config_parser
except ImportError as error:  # some folder named gin is accepted by Python, too
    raise UserError(
        f"gin-config is not installed: python -m pip install gin-config ({error})"
    ) from error

# Where it stands, for messages, and gin's statement: of a binding or an import.
Placed = Tuple[str, Any]
# What binds how many steps a run has: the macro, and what it is bound to.
LAST_STEP = ("max_steps", "run.max_steps")
_QUOTES_HINT = "; a text needs quotes: name = 'text'"


def config_root() -> pathlib.Path:
    """Returns the folder of the shipped gin files, in a wheel or in the repository."""
    package = pathlib.Path(__file__).resolve().parents[1]
    installed = package / "configs" / "gin"
    return installed if installed.is_dir() else package.parent / "gin"


def find_gin_file(name: str) -> str:
    """Returns the path of a gin file: as given, else of the shipped one of that name.

    Args:
      name: such as "my.gin", "rooms/demo.gin" or "gin/rooms/demo.gin".

    Raises:
      UserError: where there is none, with the nearest shipped names.
    """
    given = os.path.expanduser(name)
    if os.path.isfile(given):
        return given
    root = config_root()
    shipped = pathlib.PurePath(name)
    if not shipped.is_absolute():
        if shipped.parts[:1] == ("gin",):
            shipped = shipped.relative_to("gin")
        if (root / shipped).is_file():
            return str(root / shipped)
    kind = "is a folder, not a gin file" if os.path.isdir(given) else "was not found"
    known = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.gin"))
    raise UserError(
        f"the gin file {name!r} {kind}, neither here nor among the shipped files"
        + did_you_mean(shipped.as_posix(), known, show=lambda one: f"gin/{one}")
        + f"; shipped files lie in {root}"
    )


def read_gin(
    gin_files: Sequence[str], gin_params: Sequence[str] = ()
) -> Dict[str, Any]:
    """Reads files and bindings as `parse_gin` does, but binds nothing.

    No configurable needs to be known.

    Returns:
      "scope/configurable.parameter" or macro -> its value, the last one where it is
      bound several times; `repr` of a value, references included, is its gin text.

    Raises:
      UserError: for what is not gin text, and for files that cannot be read.
    """
    return bindings_in([*of_files(gin_files), *of_params(gin_params)])


def bindings_of(text: str, source: str) -> Dict[str, Any]:
    """Reads gin text as `read_gin` does files; `source` names it in errors."""
    return bindings_in(parse(text, source))


def format_gin(bindings: Dict[str, Any]) -> str:
    """Returns the gin text of what `read_gin` read, a line a binding, sorted."""
    return "".join(f"{name} = {bindings[name]!r}\n" for name in sorted(bindings))


def with_binding(config: str, name: str, value: Any) -> str:
    """Returns a configuration as gin writes it with another value of one line."""
    line = f"{name} = {value!r}"
    return re.sub(rf"(?m)^{re.escape(name)} = .*$", lambda _: line, config)


def differing_bindings(
    stored: str, current: str, of_both: bool = False, free: Iterable[str] = ()
) -> List[str]:
    """Lists the bindings in which two configurations differ.

    Args:
      stored: gin text, such as an operative configuration.
      current: gin text.
      of_both: whether bindings that only one of them has are left out.
      free: names of bindings that may differ.

    Returns:
      Lines "name: stored value -> current value".
    """
    before, now = (
        {
            name: _shown(value)
            for name, value in bindings_of(text, f"the {which}").items()
        }
        for text, which in (
            (stored, "stored configuration"),
            (current, "present configuration"),
        )
    )
    names = set(before) & set(now) if of_both else set(before) | set(now)
    return [
        f"{name}: {before.get(name, 'not bound')} -> {now.get(name, 'not bound')}"
        for name in sorted(names - set(free))
        if before.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    """Gin text that is one for 6e5 and 600000, as which that is bound here."""
    is_whole = isinstance(value, float) and value.is_integer()
    return repr(int(value) if is_whole else value)


class _AsWritten(config_parser.ParserDelegate):
    """Leaves references as they are: no configurable needs to be known."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name):
        return Reference(f"%{macro_name}")


def parse(text: str, source: str, numbered: bool = True) -> Iterator[Placed]:
    """Parses text statement by statement; includes are not followed."""

    def place(line: int, statement: str) -> str:
        if not numbered:
            return source
        first = one_line(statement.strip().partition("\n")[0])
        return f"{source}, line {line}: {first}".rstrip(": ")

    text += "" if text.endswith("\n") else "\n"
    try:
        for statement in config_parser.ConfigParser(text, _AsWritten()):
            at = statement.location
            yield place(at.line_num, at.line_content), statement
    except SyntaxError as error:
        where = place(error.lineno, error.text or "")
        raise UserError(f"{where}: {in_words(error.msg)}") from error
    except tokenize.TokenError as error:  # such as a bracket left open at the end
        message, (line, _) = error.args
        raise UserError(f"{place(line, '')}: {message}") from error
    except Exception as error:  # of Python's literals, such as a list as a key
        raise UserError(f"{source}: {in_words(str(error))}") from error


def of_files(names: Sequence[str], including: Tuple[str, ...] = ()) -> Iterator[Placed]:
    """Parses files and, in their place, those that they include."""
    for path in map(find_gin_file, names):
        real = os.path.realpath(path)
        if real in including:
            raise UserError(f"{path} includes itself, by way of {including[-1]}")
        yield from _followed(parse(read_text(path), path), (*including, real), path)


def of_params(gin_params: Sequence[str]) -> Iterator[Placed]:
    """Parses single bindings, and files that they include."""
    for param in gin_params:
        source = f"--gin_param {param!r}"
        yield from _followed(parse(param, source, numbered=False), ())


def bindings_in(statements: Iterable[Placed]) -> Dict[str, Any]:
    """Those that bind: see `read_gin`; of several of one name the last."""
    return {
        name_of(statement): statement.value
        for _, statement in statements
        if isinstance(statement, config_parser.BindingStatement)
    }


def name_of(statement: Any) -> str:
    """A macro's name, or "scope/configurable.parameter"."""
    name = "/".join(filter(None, [statement.scope, statement.selector]))
    return f"{name}.{statement.arg_name}" if statement.arg_name else name


def read_text(path: str) -> str:
    """The text of a gin file.

    Raises:
      UserError: if it cannot be read, or is not UTF-8.
    """
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the gin file {path}: {error}") from error


def in_words(message: str) -> str:
    """One line for gin's complaint about text, with what is mostly meant."""
    message = " ".join(message.split()).rstrip(".")
    token = re.search(r"malformed node or string.* Failed to parse token (.+)", message)
    if token and token[1].split()[0].strip("'") in ("inf", "nan"):
        return f"a number must be finite. Received: {token[1]}"
    if token:
        return f"cannot read the value {one_line(token[1])}{_QUOTES_HINT}"
    message = one_line(message, 600)
    if message.startswith("Unable to parse value"):
        return message + _QUOTES_HINT
    if message.startswith("Couldn't parse statement"):
        form = "name = value or configurable.parameter = value"
        return f"{message}; a binding is written {form}"
    return message


def _followed(
    statements: Iterator[Placed], including: Tuple[str, ...], path: str = ""
) -> Iterator[Placed]:
    """Follows includes; gin would look for them in the working folder only."""
    for place, statement in statements:
        if isinstance(statement, config_parser.IncludeStatement):
            try:
                included = _find_include(statement.filename, path)
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            yield from of_files([included], including)
        elif not isinstance(statement, config_parser.BlockDeclaration):
            yield place, statement


def _find_include(name: str, path: str) -> str:
    """Included names mean a file beside the including one, or a shipped file."""
    beside = os.path.join(os.path.dirname(path), name)
    if os.path.isfile(beside):
        return beside
    if pathlib.PurePath(name).parts[:1] == ("gin",):
        shipped = config_root().parent / name
        if shipped.is_file():
            return str(shipped)
    return find_gin_file(name)
