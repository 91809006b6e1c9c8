"""The commands' shared start-up: flags, messages and exit codes."""

import importlib.metadata
import logging
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from soka_tf import cli
from soka_tf.__main__ import commands

ROOT = pathlib.Path(__file__).resolve().parents[1]


# run

WHERE = " (--debug shows where)"
_COMMAND = '''"""Greets.

    python -m greet --name=you
"""
from absl import flags
from soka_tf import cli
from soka_tf.errors import UserError

import gin


@gin.configurable
def full():
    raise OSError(28, "No space left on device", "/full/disk")


def fail(how):
    if how == "busy":
        raise OSError(16, "Device or resource busy", "/busy\\n/file")
    if how == "proxy":
        full()
    if how == "cause":
        try:
            full()
        except OSError as error:
            raise ValueError("could not draw") from error
    if how == "opened":  # a fault of ours while another error was handled
        try:
            full()
        except OSError:
            raise KeyError("a fault of ours")
    if how == "memory":
        import threading
        # What would keep Python from ending: short of memory, its own end may, too.
        threading.Thread(target=threading.Event().wait).start()
        raise MemoryError()
    if how == "library":
        raise ImportError("libx.so.2: failed to map segment from shared object")
    import tensorflow as tf
    if how == "graph":
        text = "Graph execution error:\\n\\nDetected at node Cast defined at:\\n"
        text += "<stack traces unavailable>\\nno room for it\\n\\t [[{{node Cast}}]]"
        raise tf.errors.ResourceExhaustedError(None, None, text)
    raise tf.errors.ResourceExhaustedError(None, None, "no memory for a tensor")


FLAGS = flags.FlagValues()
NAME = flags.DEFINE_string("name", None, "Whom.", required=True, flag_values=FLAGS)
TIMES = flags.DEFINE_integer("times", 1, "How often.", flag_values=FLAGS)
DRY = flags.DEFINE_boolean("dry_run", False, "Do nothing.", flag_values=FLAGS)


def main():
    import logging
    from absl import logging as absl_logging
    absl_logging.info("hello %s", NAME.value)
    absl_logging.warning("careful")
    logging.getLogger("matplotlib").info("chatter")
    if NAME.value == "nobody":
        raise UserError("there is no nobody")
    if NAME.value == "bug":
        raise RuntimeError("a fault of ours")
    if NAME.value == "ctrl-c":
        raise KeyboardInterrupt
    if NAME.value == "locked":
        raise PermissionError(13, "Permission denied", "/locked/file")
    if NAME.value in ("busy", "proxy", "cause", "opened", "tensors", "memory", "graph"):
        fail(NAME.value)
    if NAME.value == "library":
        fail(NAME.value)
    for _ in range(TIMES.value):
        print("hello", NAME.value)


if __name__ == "__main__":
    import sys
    # What fails does so alike, with or without; to import it takes seconds.
    cli.run(main, FLAGS, tensorflow="--name=you" in sys.argv)
'''


@pytest.fixture(scope="module")
def greet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "greet.py").write_text(_COMMAND)

    def call(*args):
        environment = dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{folder}")
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own
        return subprocess.run(
            [sys.executable, "-m", "greet", *args],
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
            timeout=120,
        )

    return call


def test_run_success_logs_plainly_and_exits_0(greet):
    done = greet("--name=you")
    assert (done.returncode, done.stdout) == (0, "hello you\n")
    assert done.stderr == "hello you\nwarning: careful\n"


def test_run_help_prints_docstring_and_only_own_flags(greet):
    done = greet("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "python -m greet --name=you" in done.stdout
    for part in ("--name=STRING", "--[no]dry_run", "How often. (default: 1)"):
        assert part in done.stdout.replace("'1'", "1")
    assert "--verbosity" not in done.stdout


def test_help_of_flags_is_without_what_absl_repeats():
    own = flags.FlagValues()
    flags.DEFINE_multi_string("gin_file", [], "gin files; repeatable", flag_values=own)
    flags.DEFINE_multi_string("images", [], "A folder; repeatable.", flag_values=own)
    flags.DEFINE_multi_string("layer", ["a", "b"], "a layer", flag_values=own)
    flags.DEFINE_enum("size", "input", ["input", "net"], "Of maps.", flag_values=own)
    flags.DEFINE_integer("port", 8000, "Port; 0 or more.", 0, flag_values=own)
    assert cli._help_text("Does.", own).splitlines()[:13] == [
        *("Does.", "", "Flags:"),
        *("  --gin_file=STRING", "      gin files; repeatable"),
        *("  --images=STRING", "      A folder; repeatable."),
        *("  --layer=STRING", "      a layer; repeatable (default: a, b)"),
        *("  --size=input|net", "      Of maps. (default: input)"),
        *("  --port=INT", "      Port; 0 or more. (default: 8000)"),
    ]


@pytest.mark.parametrize(
    "known, given", [("saved_model", "model_dir"), ("model_dir", "saved_model")]
)
def test_flag_of_a_runs_folder_names_that_of_this_command(known, given, capsys):
    own = flags.FlagValues()
    for name in (known, "out_dir", "saved_models"):
        flags.DEFINE_string(name, None, "", flag_values=own)
    with pytest.raises(SystemExit):
        cli.run(lambda: None, own, ["fly", f"--{given}=x"], tensorflow=False)
    said = f"unknown flag --{given}; did you mean --{known}? ("
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, message",
    [
        (["--nam=you"], "error: unknown flag --nam; did you mean --name?"),
        (["--name"], "Missing value for flag --name"),
        ([], "error: --name is required"),
        (["--name=x", "--times=many"], "--times=many"),
        (["--name=x", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_run_wrong_flags_are_one_line_and_exit_2(greet, args, message):
    done = greet(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("greet: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name, code, last_line",
    [
        ("nobody", 2, "greet: error: there is no nobody"),
        ("ctrl-c", 130, "greet: interrupted"),
        ("locked", 2, f"greet: error: /locked/file: Permission denied{WHERE}"),
        ("busy", 2, f"greet: error: /busy /file: Device or resource busy{WHERE}"),
        ("proxy", 2, f"greet: error: /full/disk: No space left on device{WHERE}"),
        ("cause", 2, f"greet: error: /full/disk: No space left on device{WHERE}"),
        ("tensors", 2, f"greet: error: no memory for a tensor{WHERE}"),
        ("memory", 2, f"greet: error: MemoryError{WHERE}"),
        ("graph", 2, f"greet: error: no room for it{WHERE}"),
        (
            "library",
            2,
            f"greet: error: libx.so.2: failed to map segment from shared object{WHERE}",
        ),
    ],
)
def test_run_expected_failure_is_one_line_without_traceback(
    greet, name, code, last_line
):
    done = greet(f"--name={name}")
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == last_line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["bug", "opened"])
def test_run_fault_of_the_program_keeps_its_traceback(greet, name):
    done = greet(f"--name={name}")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "a fault of ours" in done.stderr


@pytest.mark.parametrize("name", ["proxy", "nobody"])
def test_run_debug_shows_the_traceback_of_everything(greet, name):
    done = greet(f"--name={name}", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "--debug" in greet("--help").stdout


def test_run_reader_gone_ends_quietly(tmp_path):
    (tmp_path / "greet.py").write_text(_COMMAND)
    process = subprocess.Popen(
        [sys.executable, "-m", "greet", "--name=reader", "--times=200000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}"),
        text=True,
    )
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        errors = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert "Traceback" not in errors and "Exception ignored" not in errors


@pytest.mark.parametrize(
    "argv, code, calls",
    [
        (["fly", "north"], 0, ["north"]),
        (["fly", "south", "--high"], 0, ["south high"]),
        (["fly"], 2, []),
        (["fly", "west"], 2, []),
        (["fly", "--high", "north"], 2, []),
        (["fly", "north", "south"], 2, []),
    ],
)
def test_run_commands_first_argument_is_one_of_them_and_given_to_main(
    argv, code, calls, capsys
):
    called = []
    own = flags.FlagValues()
    high = flags.DEFINE_boolean("high", False, "", flag_values=own)

    def main(direction):
        called.append(direction + (" high" if high.value else ""))

    with pytest.raises(SystemExit) as ended:
        cli.run(main, own, argv, commands=("north", "south"))
    assert ended.value.code == code and called == calls
    errors = capsys.readouterr().err
    assert errors.count("\n") == (1 if code else 0)


@pytest.mark.parametrize(
    "given, received", [([], "nothing"), (["west"], "west"), (["--high"], "--high")]
)
def test_run_commands_unknown_word_is_named_with_those_allowed(given, received, capsys):
    own = flags.FlagValues()
    with pytest.raises(SystemExit):
        cli.run(lambda _: None, own, ["fly", *given], commands=("north", "south"))
    errors = capsys.readouterr().err
    assert "the first argument must be one of north, south" in errors
    assert f"Received: {received} (" in errors


# start-up

_EXPLAIN_ALL = """
import glob, runpy, sys
heavy = []
for path in sorted(glob.glob("soka_tf/*.py") + glob.glob("tools/*.py")):
    if '\\nif __name__ == "__main__":' not in open(path).read():
        continue
    for flag in ("--help", "--version"):
        sys.argv = [path, flag]
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, path
        if "tensorflow" in sys.modules:
            sys.exit(f"{path} {flag} imports TensorFlow")
    print("explained", path)
"""


def test_help_and_version_of_every_command_and_tool_import_no_tensorflow():
    done = subprocess.run(
        [sys.executable, "-c", _EXPLAIN_ALL],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    explained = re.findall("^explained (.+)", done.stdout, re.M)
    assert {"soka_tf/train.py", "soka_tf/list.py", "soka_tf/__main__.py"} < {*explained}
    assert {"tools/wrap_teacher.py", "tools/xla_step.py"} < {*explained}
    installed = importlib.metadata.version("tensorflow")
    line = rf"^soka_tf 0\.\d.*, TensorFlow {installed}, Python 3\.\d+\.\d+$"
    assert len(re.findall(line, done.stdout, re.M)) == len(explained)


def test_list_of_commands_has_each_with_its_first_sentence():
    listed = dict(commands())
    assert list(listed)[:4] == [
        f"python -m soka_tf.{n}" for n in ("train", "evaluate", "export", "predict")
    ]
    assert listed["python -m soka_tf.train"].startswith("Trains a multi-talent student")
    assert "python tools/wrap_teacher.py" in listed
    assert not any("cli" in start for start in listed)


def test_command_as_a_word_is_answered_with_the_module_to_start():
    done = subprocess.run(
        [sys.executable, "-m", "soka_tf", "trian"],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("soka_tf: error: commands are modules")
    assert "Received: trian; did you mean python -m soka_tf.train" in done.stderr


def test_import_does_not_load_tensorflow_and_silences_its_start():
    code = (
        "import soka_tf.cli, soka_tf.stack, sys, os\n"
        "assert 'tensorflow' not in sys.modules\n"
        "soka_tf.stack.import_tensorflow_quietly()\n"
        "import tensorflow as tf\n"
        "tf.constant(1) + 1\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'])\n"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize(
    "folder, level, shown",
    [
        ("site-packages/tensorflow/python", logging.INFO, ""),
        ("dist-packages/tensorflow/python", logging.INFO, ""),
        ("site-packages/tensorflow/python", logging.WARNING, "warning: said\n"),
        ("site-packages/soka_tf", logging.INFO, "said\n"),
        ("tensorflow/soka_tf", logging.INFO, "said\n"),
    ],
)
def test_log_lines_of_tensorflows_own_code_are_shown_from_warnings_on(
    folder, level, shown, capsys
):
    record = logging.LogRecord("absl", level, f"/{folder}/x.py", 1, "said", (), None)
    cli._PlainHandler().emit(record)
    assert capsys.readouterr().err == shown


def test_import_leaves_the_users_own_level_alone():
    code = "import soka_tf.cli, os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), TF_CPP_MIN_LOG_LEVEL="0")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "0\n"
