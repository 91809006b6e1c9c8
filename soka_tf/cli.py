"""What the four commands and the tools share: start-up, flags, gin files, errors.

A command module looks like this:

    FLAGS = flags.FlagValues()
    _MODEL_DIR = flags.DEFINE_string("model_dir", None, "...", flag_values=FLAGS)

    def main() -> None:
        ...  # imports TensorFlow (or what needs it) here

    if __name__ == "__main__":
        cli.run(main, FLAGS)

TensorFlow is imported when the flags have been parsed and not before: worker processes
import the main module again, and `--help` should not wait for it.
"""

import difflib
import errno
import inspect
import io
import logging
import os
import pathlib
import re
import sys
import textwrap
import tokenize
from types import ModuleType
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

import absl.logging
from absl import flags

from soka_tf.errors import UserError, plain_message
from soka_tf.stack import import_tensorflow_quietly

# Level 3 also hides three "Unable to register ... factory" lines that TensorFlow
# 2.15 logs as errors at every start. What stops a run reaches the user as a Python
# exception all the same. Read once, when TensorFlow is imported, hence this early.
# For what later releases log before they read it, see `import_tensorflow_quietly`.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# The bindings that `parse_gin` found in its base, as gin writes them.
_of_base: Dict[str, str] = {}

_EXIT_USER_ERROR = UserError.exit_status
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

# TensorFlow's own Python code, which logs through absl as we do.
_OF_TENSORFLOW = os.path.join("-packages", "tensorflow", "")
_HELP_FLAGS = ("--help", "-help", "-h", "--helpfull", "--helpshort")

# The machine's state, not a fault of the program: told without a traceback.
_USER_ERRNOS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR),
)


def run(
    main: Callable[..., Optional[int]],
    flag_values: flags.FlagValues,
    argv: Optional[Sequence[str]] = None,
    commands: Sequence[str] = (),
    tensorflow: bool = True,
) -> None:
    """Parses the flags, runs `main` and exits; users' mistakes become one line.

    Exit codes: what `main` returns (None is 0), 2 for a `UserError` or a wrong flag
    (75 for a `LostWorker`), 130 after Ctrl-C. Other exceptions are faults of the
    program and keep their traceback.

    Args:
      main: the command; its module's docstring is the text of `--help`.
      flag_values: the command's own flags, so that `--help` shows only these and
        several command modules may be imported into one process.
      argv: program and arguments; `sys.argv` by default.
      commands: where given, the first argument must be one of these words, and `main`
        is called with it.
      tensorflow: whether it is imported before `main`, quietly; False for a command
        that leaves the work to processes of its own.

    Raises:
      SystemExit: always.
    """
    argv = list(sys.argv if argv is None else argv)
    module = sys.modules[main.__module__]
    name = _program_name(module, argv[0])
    try:
        if any(argument in _HELP_FLAGS for argument in argv[1:]):
            print(_help_text(module.__doc__ or "", flag_values))
            code = 0
        else:
            chosen = [_take_command(argv, commands)] if commands else []
            _parse_flags(flag_values, argv)
            _log_plainly()
            if tensorflow:
                import_tensorflow_quietly()
            code = main(*chosen) or 0
        sys.stdout.flush()
    except UserError as error:
        code = _fail(name, f"error: {plain_message(error)}", error.exit_status)
    except KeyboardInterrupt:
        code = _fail(name, "interrupted", _EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's own flush at exit
        # would raise once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in _USER_ERRNOS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(name, f"error: {where}{error.strerror}", _EXIT_USER_ERROR)
    sys.exit(code)


def config_root() -> pathlib.Path:
    """Returns the folder of the shipped gin files, in a wheel or in the repository.

    Raises:
      UserError: if the installation carries none.
    """
    package = pathlib.Path(__file__).resolve().parent
    candidates = (package / "configs" / "gin", package.parent / "gin")
    for folder in candidates:
        if (folder / "base.gin").is_file():
            return folder
    raise UserError(
        "the gin files of soka_tf are missing: no base.gin in "
        + " or ".join(map(str, candidates))
        + "; install the package again"
    )


def find_gin_file(name: str) -> str:
    """Finds a gin file: as given, else among the shipped ones.

    Args:
      name: a path, or the name of a shipped file as "rooms/demo.gin" or
        "gin/rooms/demo.gin".

    Returns:
      The path of an existing file.

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
        + _did_you_mean(shipped.as_posix(), known, show=lambda one: f"gin/{one}")
        + f"; shipped files lie in {root}"
    )


def parse_gin(
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    base: Optional[str] = "gin/base.gin",
) -> None:
    """Parses base, then the files, then the single bindings; later ones win.

    Parsing is strict and leaves the configuration open, so that gin's operative
    configuration can be read, or another file parsed, afterwards. The modules whose
    configurables are bound must have been imported before.

    Args:
      gin_files: names for `find_gin_file`. To continue a run, its stored
        operative_config.gin comes first.
      gin_params: bindings such as "run.seed = 1" or "images_dir = 'photos'".
      base: the file of defaults, None for none.

    Raises:
      UserError: for anything gin does not accept; names the file or the flag, the
        binding, and near names.
    """
    gin = _import_gin()
    if base:
        _parse_file(gin, find_gin_file(base), including=())
    _of_base.clear()
    _of_base.update(_bindings(gin.config_str()))
    for name in gin_files:
        _parse_file(gin, find_gin_file(name), including=())
    known_macros = _macro_names(gin.config_str())
    for param in gin_params:
        source = f"--gin_param {param!r}"
        _parse_text(gin, param, source, numbered=False)
    try:
        # Runs gin's checks of macros and required values without staying locked.
        with gin.unlock_config():
            gin.finalize()
    except ValueError as error:
        raise UserError(_describe_unset(str(error), gin)) from error
    _refuse_unknown_macros(gin, gin_params, known_macros)


def unused_bindings() -> List[str]:
    """Lists bindings that were parsed and that nothing built so far has asked for.

    To be called after the build. Returns "scope/name.parameter" (macros: "name"),
    sorted; a binding overridden by an explicit argument counts as unused. Left out are
    base's own values of parts that this run does without, such as a rule not chosen.
    """
    gin = _import_gin()
    used: Set[Tuple[str, str]] = set()
    for key in _binding_keys(gin.operative_config_str()):
        scope, name = _split_scope(key)
        # A call inside scope a/b also reads the bindings of a, and those of no scope.
        parts = scope.split("/") if scope else []
        used.update(("/".join(parts[:n]), name) for n in range(len(parts) + 1))
    built = {name.rpartition(".")[0] for _, name in used} | {""}  # "": macros
    return sorted(
        key
        for key, value in _bindings(gin.config_str()).items()
        if _split_scope(key) not in used
        and (key.rpartition(".")[0] in built or _of_base.get(key) != value)
    )


# Flags and messages


def _program_name(module: ModuleType, path: str) -> str:
    """Returns "soka_tf.train" under `python -m`, else the script's file name."""
    spec = getattr(module, "__spec__", None)
    return spec.name if spec else os.path.basename(path)


def _fail(name: str, message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"{name}: {message}", file=sys.stderr)
    return code


def _take_command(argv: List[str], commands: Sequence[str]) -> str:
    given = argv.pop(1) if len(argv) > 1 else "nothing"
    if given not in commands:
        raise UserError(
            f"the first argument must be one of {', '.join(commands)}. Received: "
            f"{given} (--help explains them)"
        )
    return given


def _parse_flags(flag_values: flags.FlagValues, argv: Sequence[str]) -> None:
    try:
        positional = flag_values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        hint = _did_you_mean(error.flagname, list(flag_values), lambda one: f"--{one}")
        raise UserError(
            f"unknown flag --{error.flagname}{hint} (--help lists the flags)"
        ) from error
    except flags.Error as error:
        message = str(error).strip()
        missing = re.match(r"flag --(\w+)=None: .*must have a value", message, re.S)
        if missing:
            message = f"--{missing[1]} is required"
        raise UserError(f"{message} (--help lists the flags)") from error
    if positional:
        raise UserError(
            f"unexpected argument {positional[0]!r}; flags are written --name=value "
            "(--help lists them)"
        )


def _help_text(doc: str, flag_values: flags.FlagValues) -> str:
    lines = [inspect.cleandoc(doc), "", "Flags:"]
    for defined in flag_values.flags_by_module_dict().values():
        for flag in defined:
            choices = getattr(flag.parser, "enum_values", None)
            if flag.boolean:
                usage = f"--[no]{flag.name}"
            elif choices:
                usage = f"--{flag.name}={'|'.join(choices)}"
            else:
                usage = f"--{flag.name}={flag.flag_type().split()[-1].upper()}"
            about = flag.help or ""
            if flag.default not in (None, [], False, ""):
                about += f" (default: {flag.default_as_str})"
            lines.append(f"  {usage}")
            lines.extend(
                textwrap.wrap(
                    about, 72, initial_indent=" " * 6, subsequent_indent=" " * 6
                )
            )
    return "\n".join(lines)


class _PlainHandler(logging.Handler):
    """Writes log lines for people, above a progress bar if one is running."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        level = record.levelno
        if level < logging.WARNING and _OF_TENSORFLOW in record.pathname:
            return
        prefix = "" if level < logging.WARNING else f"{record.levelname.lower()}: "
        try:
            tqdm.write(prefix + self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def _log_plainly() -> None:
    """Shows absl's messages from INFO on, those of other packages from WARNING on."""
    root = logging.getLogger()
    if not any(isinstance(handler, _PlainHandler) for handler in root.handlers):
        root.addHandler(_PlainHandler())
    absl.logging.set_verbosity(absl.logging.INFO)


def _did_you_mean(
    received: str,
    known: Iterable[str],
    show: Callable[[str], str] = str,
) -> str:
    near = difflib.get_close_matches(received, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(show, near))}?" if near else ""


# gin


def _import_gin() -> ModuleType:
    """Imports gin-config and not some folder named gin, which Python also accepts."""
    message = "gin-config is not installed: python -m pip install gin-config"
    try:
        import gin
    except ImportError as error:
        raise UserError(message) from error
    if not hasattr(gin, "configurable"):
        raise UserError(f"{message} (`import gin` found {list(gin.__path__)} instead)")
    return gin


_INCLUDE = re.compile(r"include\s+(['\"])(?P<name>.+?)\1\s*(#.*)?$")


def _parse_file(gin: ModuleType, path: str, including: Tuple[str, ...]) -> None:
    """Parses one file and, in their place, the files that it includes.

    gin would look for included files in the working folder and, failing that, log
    errors; here a name means the file beside, or the shipped one, from anywhere.
    """
    real = os.path.realpath(path)
    if real in including:
        raise UserError(f"{path} includes itself, by way of {including[-1]}")
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines(True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the gin file {path}: {error}") from error
    pending = ["\n"] * len(lines)  # blank lines keep the line numbers true
    for index, line in enumerate(lines):
        include = _INCLUDE.match(line)
        if not include:
            pending[index] = line
            continue
        _parse_text(gin, "".join(pending), path)
        pending = ["\n"] * len(lines)
        try:
            included = _find_include(include["name"], path)
        except UserError as error:
            raise UserError(f"{path}, line {index + 1}: {error}") from error
        _parse_file(gin, included, including + (real,))
    _parse_text(gin, "".join(pending), path)


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


def _parse_text(gin: ModuleType, text: str, source: str, numbered: bool = True) -> None:
    if not text.strip():
        return
    if not text.endswith("\n"):
        text += "\n"
    try:
        gin.parse_config(io.StringIO(text), skip_unknown=False)
    except Exception as error:  # gin raises nearly every built-in exception
        raise UserError(_describe(error, source, numbered, gin)) from error


def _describe(error: Exception, source: str, numbered: bool, gin: ModuleType) -> str:
    """Makes one line of gin's many."""
    message, line, statement = str(error), None, ""
    location = re.search(r"\n  In .*? line (\d+)\n(.*)", message)
    if location:
        message = message[: location.start()]
        line, statement = int(location[1]), location[2].strip()
    elif isinstance(error, SyntaxError):
        message, line = error.msg, error.lineno
        statement = (error.text or "").strip()
    elif isinstance(error, tokenize.TokenError):
        # An open bracket at the end of the text: (message, (line, column)).
        message, line = str(error.args[0]), error.args[1][0]
    where = source
    if numbered and line:
        where += f", line {line}"
    if numbered and statement:
        where += f": {statement}"
    message = " ".join(message.split()).rstrip(".")
    token = re.search(r"malformed node or string.* Failed to parse token (.+)", message)
    if token:
        message = f"cannot read the value {token[1]}{_QUOTES_HINT}"
    return f"{where}: {message}{_hint(message, gin)}"


_QUOTES_HINT = "; a text needs quotes: name = 'text'"


def _hint(message: str, gin: ModuleType) -> str:
    """Near names for gin's commonest complaints."""
    unknown = re.match(r"No configurable matching (?:reference )?'@?([^'()]+)", message)
    if unknown:
        names = {
            _split_scope(key)[1].rpartition(".")[0]
            for key in _binding_keys(gin.config_str())
        } - {""}
        return _did_you_mean(unknown[1], names)
    parameter = re.match(
        r"Configurable '(.+)' doesn't have a parameter named '(.+)'", message
    )
    if parameter:
        known = _parameter_names(gin.get_configurable(parameter[1]))
        near = _did_you_mean(parameter[2], known)
        return near or f"; it has {', '.join(known) or 'none'}"
    if message.startswith("Unable to parse value"):
        return _QUOTES_HINT
    if message.startswith("Couldn't parse statement"):
        return "; a binding is written name = value or configurable.parameter = value"
    return ""


def _parameter_names(configurable: Callable) -> List[str]:
    """The named parameters of a function or a class, beneath gin's wrappers."""
    functions = (
        [base.__init__ for base in configurable.__mro__]
        if inspect.isclass(configurable)
        else [configurable]
    )
    for function in functions:
        parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
        named = [
            p.name
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if named and named != ["self"]:
            return sorted(set(named) - {"self"})
    return []


def _describe_unset(message: str, gin: ModuleType) -> str:
    macro = re.match(r"No bindings specified for '(.+)/gin\.macro'", message)
    if not macro:
        return message.splitlines()[0]
    name = macro[1]
    near = _did_you_mean(name, _macro_names(gin.config_str()), show=lambda n: f"%{n}")
    return (
        f"the gin files use %{name}, which nothing sets{near}; "
        f'set it with --gin_param="{name} = ..."'
    )


def _refuse_unknown_macros(
    gin: ModuleType, gin_params: Sequence[str], known: Set[str]
) -> None:
    """A misspelt `images_dir = ...` would otherwise set a macro that nobody reads."""
    referenced = set(re.findall(r"%([\w/.]+)", gin.config_str()))
    for param in gin_params:
        for name in _macro_names(param):
            if name not in known | referenced:
                raise UserError(
                    f"--gin_param {param!r}: no gin file uses %{name}"
                    + _did_you_mean(name, known | referenced)
                )


def _binding_keys(config: str) -> List[str]:
    """The left sides of a configuration as gin writes it: "scope/name.parameter"."""
    return list(_bindings(config))


def _bindings(config: str) -> Dict[str, str]:
    """Left side -> right side; gin folds long values into indented lines."""
    return dict(re.findall(r"^([\w./]+)\s*=(.*(?:\n[ \t]+.*)*)", config, re.M))


def _macro_names(config: str) -> Set[str]:
    return {key for key in _binding_keys(config) if "." not in key}


def _split_scope(key: str) -> Tuple[str, str]:
    scope, _, name = key.rpartition("/")
    return scope, name
