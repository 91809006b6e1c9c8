"""gin text: parsing files and bindings, reading back and comparing configurations.

The only module that reads it. Files and bindings that a user gives may import modules;
a configuration stored with a run holds bindings and runs nothing. TensorFlow is not
imported.
"""

import os
import pathlib
import re
import tokenize
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from soka_tf.errors import UserError, did_you_mean, one_line
from soka_tf.kinds import Reference

try:
    import gin
    from gin import config_parser
except ImportError as error:  # some folder named gin is accepted by Python, too
    raise UserError(
        f"gin-config is not installed: python -m pip install gin-config ({error})"
    ) from error

from soka_tf.runs.declared import check_bound, parameters_named

# The bindings that `parse_gin` found in files.
_in_files: Dict[str, Any] = {}
# Where it stands, for messages, and gin's statement: of a binding or an import.
_Placed = Tuple[str, Any]
# The modules that given files and bindings have imported.
_imported: Set[str] = set()
_STORED_HINT = "; give the --gin_file that imports its module"
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


def parse_gin(
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    base: Optional[str] = "gin/base.gin",
    stored: Optional[str] = None,
) -> None:
    """Binds base, the stored file, the files and single bindings; later ones win.

    Parsing is strict and leaves the configuration open, so that gin's operative
    configuration can be read, or another file parsed, afterwards. The modules whose
    configurables are bound must have been imported before.

    Args:
      gin_files: names for `find_gin_file`; what they import is imported first.
      gin_params: bindings such as "run.seed = 1" or "images_dir = 'photos'".
      base: the file of defaults, None for none.
      stored: path of a run's operative_config.gin, to continue or use the run. It may
        hold bindings only, and refer to what is registered once the files' modules
        are imported.

    Raises:
      UserError: for anything gin does not accept; names the file or the flag, the
        binding, and near names.
    """
    files = import_modules(gin_files)
    defaults = list(_of_files([base] if base else []))
    for place, statement in defaults:
        _bind(place, statement)
    for place, statement in _of_stored(stored) if stored else ():
        _bind(place, statement, _STORED_HINT)
    for place, statement in files:
        _bind(place, statement)
    _in_files.clear()
    _in_files.update(bound_values())
    of_params = list(_of_params(gin_params))
    for place, statement in of_params:
        _bind(place, statement)
    try:
        # Runs gin's checks of macros and required values without staying locked.
        with gin.unlock_config():
            gin.finalize()
    except ValueError as error:
        raise UserError(_describe_unset(str(error))) from error
    _refuse_unread([*defaults, *files, *of_params])
    for name, value in check_bound(bound_values()).items():
        gin.parse_config(f"{name} = {value!r}")


def _refuse_unread(placed: Sequence[_Placed]) -> None:
    """A misspelt `images_dir = ...` would set a macro that is never read."""
    values = [repr(getattr(statement, "value", "")) for _, statement in placed]
    read = set(re.findall(r"%([\w/.]+)", "\n".join([gin.config_str(), *values])))
    for place, statement in placed:
        for name in _macros(_bindings([(place, statement)])) - read:
            near = did_you_mean(name, read)
            raise UserError(f"{place}: no gin file uses %{name}{near}")


def import_modules(gin_files: Sequence[str]) -> List[_Placed]:
    """Imports the modules that gin files import, and binds nothing.

    For commands that take a run's bindings from its stored configuration.

    Args:
      gin_files: names for `find_gin_file`.

    Returns:
      The other statements, each with its place.

    Raises:
      UserError: as `parse_gin`.
    """
    bindings = []
    for place, statement in _of_files(gin_files):
        if isinstance(statement, config_parser.ImportStatement):
            _bind(place, statement)
        else:
            bindings.append((place, statement))
    return bindings


def operative_config() -> str:
    """Returns what the build has used: gin's operative configuration, bindings only."""
    return re.sub(r"(?m)\A((import|from) .*\n)+\n*", "", gin.operative_config_str())


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
    return _bindings([*_of_files(gin_files), *_of_params(gin_params)])


def bindings_of(text: str, source: str) -> Dict[str, Any]:
    """Reads gin text as `read_gin` does files; `source` names it in errors."""
    return _bindings(_parse(text, source))


def bound_values() -> Dict[str, Any]:
    """Returns what is bound now, as `read_gin` returns what it read."""
    return _bindings(_parse(gin.config_str(), "the bound configuration"))


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
        {name: _shown(value) for name, value in bindings_of(text, f"the {which}").items()}
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


def unused_bindings() -> List[str]:
    """Lists bindings that were parsed and that nothing built so far has used.

    To be called after the build. Returns "scope/name.parameter" (macros: "name"),
    sorted; a binding overridden by an explicit argument counts as unused. Left out are
    the files' values of parts that this run does without, such as a rule not chosen.
    """
    used: Set[str] = set()
    for key in _bindings(_parse(gin.operative_config_str(), "operative configuration")):
        # A call inside scope a/b also reads the bindings of a, and those of no scope.
        *scopes, name = key.split("/")
        used.update("/".join([*scopes[:n], name]) for n in range(len(scopes) + 1))
    built = {key.rpartition(".")[0] for key in used} | {""}  # "": macros
    return sorted(
        key
        for key, value in bound_values().items()
        if key not in used
        and (key.rpartition(".")[0] in built or _in_files.get(key) != value)
    )


class _AsWritten(config_parser.ParserDelegate):
    """Leaves references as they are: no configurable needs to be known."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name):
        return Reference(f"%{macro_name}")


def _parse(text: str, source: str, numbered: bool = True) -> Iterator[_Placed]:
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
        raise UserError(f"{where}: {_in_words(error.msg)}") from error
    except tokenize.TokenError as error:  # such as a bracket left open at the end
        message, (line, _) = error.args
        raise UserError(f"{place(line, '')}: {message}") from error
    except Exception as error:  # of Python's literals, such as a list as a key
        raise UserError(f"{source}: {_in_words(str(error))}") from error


def _in_words(message: str) -> str:
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


def _of_params(gin_params: Sequence[str]) -> Iterator[_Placed]:
    for param in gin_params:
        source = f"--gin_param {param!r}"
        yield from _followed(_parse(param, source, numbered=False), ())


def _of_files(
    names: Sequence[str], including: Tuple[str, ...] = ()
) -> Iterator[_Placed]:
    """Parses files and, in their place, those that they include."""
    for path in map(find_gin_file, names):
        real = os.path.realpath(path)
        if real in including:
            raise UserError(f"{path} includes itself, by way of {including[-1]}")
        yield from _followed(_parse(_read(path), path), (*including, real), path)


def _of_stored(path: str) -> Iterator[_Placed]:
    """Parses a stored configuration, which comes with weights: it is data."""
    for place, statement in _parse(_read(path), path):
        if isinstance(statement, config_parser.BindingStatement):
            yield place, statement
        elif getattr(statement, "module", None) in _imported:
            continue  # of a version that stored imports, and imported by the user
        elif not isinstance(statement, config_parser.BlockDeclaration):
            raise UserError(
                f"{place}: a stored configuration may hold bindings only. Give the "
                "--gin_file that imports the module, if you trust that module, or "
                "remove the line"
            )


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the gin file {path}: {error}") from error


def _followed(
    statements: Iterator[_Placed], including: Tuple[str, ...], path: str = ""
) -> Iterator[_Placed]:
    """Follows includes; gin would look for them in the working folder only."""
    for place, statement in statements:
        if isinstance(statement, config_parser.IncludeStatement):
            try:
                included = _find_include(statement.filename, path)
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            yield from _of_files([included], including)
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


def _name(statement: Any) -> str:
    """A macro's name, or "scope/configurable.parameter"."""
    name = "/".join(filter(None, [statement.scope, statement.selector]))
    return f"{name}.{statement.arg_name}" if statement.arg_name else name


def _bindings(statements: Iterable[_Placed]) -> Dict[str, Any]:
    return {
        _name(statement): statement.value
        for _, statement in statements
        if isinstance(statement, config_parser.BindingStatement)
    }


def _macros(names: Iterable[str]) -> Set[str]:
    return {name for name in names if "." not in name}


def _bind(place: str, statement: Any, hint: str = "") -> None:
    if isinstance(statement, config_parser.ImportStatement):
        text = statement.format()
    else:
        text = f"{_name(statement)} = {statement.value!r}"
    try:
        gin.parse_config(text)
    except Exception as error:  # gin raises nearly every built-in exception
        message = _in_words(str(error).split("\n  In ")[0])
        near = _near_names(message, getattr(statement, "arg_name", None))
        near += hint if message.startswith("No configurable matching") else ""
        raise UserError(f"{place}: {message}{near}") from error
    if isinstance(statement, config_parser.ImportStatement):
        _imported.add(statement.module)


def _near_names(message: str, bound: Optional[str]) -> str:
    """Near names for gin's commonest complaints, of whoever binds such a parameter."""
    unknown = re.match(r"No configurable matching (reference )?'@?([^'()]+)", message)
    elsewhere = [key for key in bound_values() if key.endswith(f".{bound}")]
    there = f"; there is {' and '.join(elsewhere)}" if elsewhere else ""
    if unknown:
        there = "" if unknown[1] else there  # a reference, of whatever is bound to it
        keys = elsewhere if there else bound_values()
        names = {key.split("/")[-1].rpartition(".")[0] for key in keys} - {""}
        return did_you_mean(unknown[2], names) or there
    parameter = re.match(
        r"Configurable '(.+)' doesn't have a parameter named '(.+)'", message
    )
    if parameter:
        known = sorted(parameters_named(parameter[1]))
        near = did_you_mean(parameter[2], known)
        return near or there or f"; it has {', '.join(known) or 'none'}"
    return ""


def _describe_unset(message: str) -> str:
    macro = re.match(r"No bindings specified for '(.+)/gin\.macro'", message)
    if not macro:
        return message.splitlines()[0]
    name = macro[1]
    near = did_you_mean(name, _macros(bound_values()), show=lambda n: f"%{n}")
    return (
        f"the gin files use %{name}, which nothing sets{near}; "
        f'set it with --gin_param="{name} = ..."'
    )


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
