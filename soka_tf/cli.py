"""What the commands and the tools share: start-up, flags, errors.

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

import inspect
import io
import logging
import os
import re
import signal
import sys
import textwrap
import threading
from types import ModuleType
from typing import Any, Callable, List, Optional, Sequence, Tuple

import absl.logging
from absl import flags

from soka_tf.errors import (
    Interrupted,
    Terminated,
    UserError,
    did_you_mean,
    of_the_machine,
    one_line,
    plain_message,
    reason,
)
from soka_tf.stack import describe_versions, import_tensorflow_quietly, log_little
from soka_tf.tool_commands import INSTALLED

# This early for a command's own processes, too, and for modules that import TensorFlow.
log_little()

# A run's folder, by what other commands call it.
_INSTEAD = {"model_dir": "saved_model", "saved_model": "model_dir"}
# What absl adds to the help of some flags, which their usage says better.
_ABOUT_LISTS = re.compile(r";\s+repeat this option to specify a list of values")
_ABOUT_CHOICES = re.compile(r"^<[\w|]+>: ")
_EXIT_USER_ERROR = UserError.exit_status
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_EXIT_TERMINATED = 143  # 128 + SIGTERM
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

# TensorFlow's own Python code, which logs through absl as we do.
_OF_TENSORFLOW = os.path.join("-packages", "tensorflow", "")
_HELP_FLAGS = ("--help", "-help", "-h", "--helpfull", "--helpshort")
_VERSION_FLAG = "--version"
_VERSION_HELP = "print the versions of soka_tf, TensorFlow and Python"
_DEBUG_FLAG = "--debug"
_DEBUG_HELP = "show the traceback of whatever ends the command"


def run(
    main: Callable[..., Optional[int]],
    flag_values: flags.FlagValues,
    argv: Optional[Sequence[str]] = None,
    commands: Sequence[str] = (),
    tensorflow: bool = True,
) -> None:
    """Parses the flags, runs `main` and exits; users' mistakes become one line.

    Exit codes: what `main` returns (None is 0), 2 for a `UserError`, a wrong flag or
    what the machine refuses (75 for a `LostWorker`), 130 after Ctrl-C. Other exceptions
    are faults of the program and keep their traceback, as all do after --debug.

    Args:
      main: the command; its module's docstring is the text of `--help`.
      flag_values: the command's own flags, so that `--help` shows only these and
        several command modules may be imported into one process.
      argv: program and arguments; `sys.argv` by default.
      commands: where given, the first argument must be one of these words, and `main`
        is called with it.
      tensorflow: whether it is imported before `main`, quietly; False for a command
        that leaves the work to processes of its own, or checks something before.

    Raises:
      SystemExit: always.
    """
    argv = list(sys.argv if argv is None else argv)
    module = sys.modules[main.__module__]
    name = _program_name(module, argv[0])
    debug = _DEBUG_FLAG in argv
    argv = [argument for argument in argv if argument != _DEBUG_FLAG]
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # ASCII has no square metres
        sys.stdout.reconfigure(errors="replace")
    try:
        if any(argument in _HELP_FLAGS for argument in argv[1:]):
            print(_help_text(_as_called(module.__doc__ or "", name), flag_values))
            code = 0
        elif _VERSION_FLAG in argv[1:]:
            print(describe_versions())
            code = 0
        else:
            chosen = [_take_command(argv, commands)] if commands else []
            _parse_flags(flag_values, argv)
            _log_plainly()
            if tensorflow:
                import_tensorflow()
            code = main(*chosen) or 0
        sys.stdout.flush()
    except Interrupted as error:
        code = _fail(name, plain_message(error), error.exit_status)
    except Terminated:
        code = _fail(name, "terminated", _EXIT_TERMINATED)
    except UserError as error:
        if debug:
            raise
        code = _fail(name, f"error: {plain_message(error)}", error.exit_status)
    except KeyboardInterrupt:
        code = _fail(name, "interrupted", _EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's own flush at exit
        # would raise once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _EXIT_BROKEN_PIPE
    except Exception as error:
        known = of_the_machine(error)
        if debug or known is None:
            raise
        words = f"error: {one_line(reason(known))} ({_DEBUG_FLAG} shows where)"
        code = _fail(name, words, _EXIT_USER_ERROR)
        if isinstance(known, MemoryError):
            # What Python does at its end needs memory; without it, it may never end.
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def define_trust_saved_model(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """Defines --trust_saved_model, of commands that are given a SavedModel."""
    return flags.DEFINE_bool(
        "trust_saved_model",
        False,
        "Also run a SavedModel that does more than compute, such as read and write "
        "files.",
        flag_values=flag_values,
    )


def define_run(flag_values: flags.FlagValues) -> Tuple[flags.FlagHolder, ...]:
    """Defines the flags of commands that use a run: its folder, modules, student.

    Args:
      flag_values: the command's own flags.

    Returns:
      --model_dir, --gin_file and --checkpoint.
    """
    model_dir = flags.DEFINE_string(
        "model_dir",
        None,
        "folder of a run of soka_tf.train",
        required=True,
        flag_values=flag_values,
    )
    gin_file = flags.DEFINE_multi_string(
        "gin_file",
        [],
        "gin file of the run, where it imports a module of yours; its bindings are "
        "not read, for the run has its own; repeatable",
        flag_values=flag_values,
    )
    checkpoint = flags.DEFINE_enum(
        "checkpoint",
        "last",
        ["last", "best"],
        "which student; best: that of the least validation/mean",
        flag_values=flag_values,
    )
    return model_dir, gin_file, checkpoint


def import_tensorflow() -> None:
    """Imports TensorFlow without its messages.

    Raises:
      UserError: if it cannot be imported.
    """
    try:
        import_tensorflow_quietly()
    except ImportError as error:
        raise UserError(
            f"TensorFlow cannot be imported: {one_line(error)}. Is it installed "
            "(python -m pip install -r requirements.txt), and is there memory for it "
            "(ulimit -v)?"
        ) from error


def _terminate(*_: Any) -> None:
    """Lets what is open be closed, and processes of our own be ended, first."""
    raise Terminated


def _program_name(module: ModuleType, path: str) -> str:
    """Returns "soka_tf.train" under `python -m`, else the script's file name."""
    spec = getattr(module, "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else os.path.basename(path)


def _as_called(doc: str, name: str) -> str:
    """A tool's docstring with the tools called as this one is, by path or name."""
    if not name.startswith(INSTALLED):
        return doc
    return re.sub(r"python tools/(\w+)\.py", rf"python -m {INSTALLED}\1", doc)


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
        known = list(flag_values)
        meant = _INSTEAD.get(error.flagname)
        hint = (
            f"; did you mean --{meant}?"
            if meant in known
            else did_you_mean(error.flagname, known, lambda one: f"--{one}")
        )
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
            about = _ABOUT_CHOICES.sub("", flag.help or "")
            about, is_list = _ABOUT_LISTS.subn("", about)
            if is_list and "repeat" not in about:
                about += "; repeatable"
            default = flag.default
            if default not in (None, [], False, ""):
                values = default if isinstance(default, list) else [default]
                about += f" (default: {', '.join(map(str, values))})"
            lines.append(f"  {usage}")
            lines.extend(
                textwrap.wrap(
                    about, 72, initial_indent=" " * 6, subsequent_indent=" " * 6
                )
            )
    for name, about in (
        (_VERSION_FLAG, _VERSION_HELP),
        (_DEBUG_FLAG, _DEBUG_HELP),
    ):
        lines += [f"  {name}", f"      {about}"]
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
    """Shows absl's messages from INFO on, those of other packages from WARNING on.

    Bars get no thread that watches them: where memory is short it may die before it
    has begun, and who starts a thread waits for that for ever.
    """
    from tqdm import tqdm

    tqdm.monitor_interval = 0
    root = logging.getLogger()
    if not any(isinstance(handler, _PlainHandler) for handler in root.handlers):
        root.addHandler(_PlainHandler())
    absl.logging.set_verbosity(absl.logging.INFO)
