"""The commands' shared start-up: flags, gin files, messages and exit codes."""

import logging
import os
import pathlib
import subprocess
import sys
import types

import gin
import pytest
from absl import flags

from soka_tf import cli
from soka_tf.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]


@gin.configurable(module="cli_test")
def brew(minutes=3, kind="green", *, cup=None):
    return minutes, kind, cup


@gin.register(module="cli_test", denylist=["owner"])
class Kettle:
    def __init__(self, litres=1.0, owner=None):
        self.litres = litres


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped files, and a working folder without any."""
    root = tmp_path / "installed" / "gin"
    (root / "rooms").mkdir(parents=True)
    (root / "base.gin").write_text("brew.minutes = 4\nsize = 64\nbrew.cup = %size\n")
    (root / "rooms" / "demo.gin").write_text(
        "# a comment\ninclude 'gin/base.gin'\n\nbrew.kind = 'black'\n"
    )
    (root / "rooms" / "soka.gin").write_text('include "gin/rooms/demo.gin"  # more\n')
    monkeypatch.setattr(cli, "config_root", lambda: root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return root


def write(folder, text, name="my.gin"):
    path = pathlib.Path(folder) / name
    path.write_text(text)
    return str(path)


def message_of(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        cli.parse_gin(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# find_gin_file


@pytest.mark.parametrize("name", ["gin/rooms/demo.gin", "rooms/demo.gin"])
def test_find_gin_file_shipped_name_from_any_folder_finds_it(shipped, name):
    assert cli.find_gin_file(name) == str(shipped / "rooms" / "demo.gin")


def test_find_gin_file_file_here_wins_over_shipped(shipped):
    os.makedirs("rooms")
    write("rooms", "", "demo.gin")
    assert cli.find_gin_file("rooms/demo.gin") == "rooms/demo.gin"


def test_find_gin_file_misspelt_names_the_nearest(shipped):
    with pytest.raises(UserError, match="did you mean gin/rooms/demo.gin"):
        cli.find_gin_file("gin/rooms/demos.gin")


def test_find_gin_file_folder_says_so(shipped, tmp_path):
    with pytest.raises(UserError, match="is a folder, not a gin file"):
        cli.find_gin_file(str(tmp_path))


def test_config_root_in_the_repository_holds_base_gin():
    assert (cli.config_root() / "base.gin").is_file()


# parse_gin: what holds


def test_parse_gin_order_base_then_files_then_params(shipped, tmp_path):
    stored = write(tmp_path, "brew.minutes = 5\nbrew.kind = 'white'\n")
    cli.parse_gin([stored, "rooms/demo.gin"], ["size = 128"])
    # demo.gin includes base.gin again, which is later than the stored file.
    assert brew() == (4, "black", 128)


def test_parse_gin_nested_includes_resolve_from_any_folder(shipped):
    cli.parse_gin(["rooms/soka.gin"], [], base=None)
    assert brew() == (4, "black", 64)


def test_parse_gin_include_beside_the_users_file_is_found(shipped, tmp_path):
    write(tmp_path, "brew.minutes = 9\n", "common.gin")
    mine = write(tmp_path, "include 'common.gin'\ninclude 'rooms/demo.gin'\n")
    cli.parse_gin([mine], ["brew.cup = None"], base=None)
    assert brew() == (4, "black", None)


def test_parse_gin_folder_gin_here_does_not_replace_shipped_includes(shipped):
    os.makedirs("gin")
    write("gin", "brew.minutes = 99\n", "base.gin")
    cli.parse_gin(["rooms/demo.gin"], [], base=None)
    assert brew()[0] == 4


def test_parse_gin_leaves_the_configuration_open(shipped):
    cli.parse_gin([], [])
    assert not gin.config_is_locked()
    cli.parse_gin([], ["brew.minutes = 1"])
    assert brew()[0] == 1
    assert "brew.minutes = 1" in gin.operative_config_str()


# parse_gin: what is refused


def test_parse_gin_unknown_configurable_names_line_and_near_name(shipped, tmp_path):
    path = write(tmp_path, "\nbrew.minutes = 1\nbrwe.kind = 'red'\n")
    message = message_of([path], [])
    assert f"{path}, line 3: brwe.kind = 'red'" in message
    assert "did you mean brew?" in message


def test_parse_gin_line_after_an_include_is_numbered_truly(shipped, tmp_path):
    path = write(tmp_path, "include 'gin/base.gin'\n\nbrew.x = 1\n")
    assert f"{path}, line 3:" in message_of([path], [])


def test_parse_gin_unknown_parameter_names_flag_and_near_name(shipped):
    message = message_of([], ["brew.minuts = 1"])
    assert "--gin_param 'brew.minuts = 1'" in message
    assert "did you mean minutes?" in message


def test_parse_gin_unknown_parameter_of_a_class_lists_its_parameters(shipped):
    assert "it has litres, owner" in message_of([], ["Kettle.colour = 1"])


def test_parse_gin_denied_parameter_is_refused(shipped):
    assert "Kettle.owner" in message_of([], ["Kettle.owner = 1"])


@pytest.mark.parametrize(
    "text, part",
    [
        ("brew.kind = green", "a text needs quotes"),
        ("brew.kind 'green'", "a binding is written"),
        ("brew.minutes = [1, 2", "my.gin"),
        ("brew.minutes = (1", "my.gin"),
        ("  $%", "my.gin"),
        ("brew.kind = @Kettel", "did you mean Kettle?"),
        ("import no_such_module_xyz", "no_such_module_xyz"),
    ],
)
def test_parse_gin_bad_text_becomes_one_line(shipped, tmp_path, text, part):
    cli.parse_gin([], ["Kettle.litres = 2.0"])
    path = write(tmp_path, text + "\n")
    message = message_of([path], [])
    assert path in message and part in message


def test_parse_gin_missing_include_names_file_line_and_near_name(shipped, tmp_path):
    path = write(tmp_path, "\ninclude 'gin/rooms/dem.gin'\n")
    message = message_of([path], [])
    assert f"{path}, line 2" in message
    assert "did you mean gin/rooms/demo.gin" in message


def test_parse_gin_include_cycle_is_named(shipped, tmp_path):
    first = write(tmp_path, "include 'second.gin'\n", "first.gin")
    write(tmp_path, "include 'first.gin'\n", "second.gin")
    assert "includes itself" in message_of([first], [])


def test_parse_gin_macro_never_set_is_named_with_near_name(shipped, tmp_path):
    path = write(tmp_path, "brew.cup = %sise\n")
    message = message_of([path], [])
    assert "%sise, which nothing sets" in message
    assert "did you mean %size?" in message
    assert not gin.config_is_locked()


def test_parse_gin_param_that_no_file_reads_is_refused(shipped):
    assert "did you mean size?" in message_of([], ["sizes = 3"])


def test_parse_gin_binary_file_is_refused(shipped, tmp_path):
    path = tmp_path / "model.gin"
    path.write_bytes(b"\x89PNG\xff\xfe\x00")
    assert "cannot read the gin file" in message_of([str(path)], [])


def test_parse_gin_required_value_never_given_is_named(shipped, tmp_path):
    path = write(tmp_path, "brew.cup = %gin.REQUIRED\n")
    assert "brew.cup" in message_of([path], [])


def test_parse_gin_without_gin_config_says_what_to_install(shipped, monkeypatch):
    empty = types.ModuleType("gin")
    empty.__path__ = ["somewhere/gin"]
    monkeypatch.setitem(sys.modules, "gin", empty)
    assert "pip install gin-config" in message_of([], [])


# unused_bindings


def test_unused_bindings_after_build_lists_only_what_nobody_read(shipped):
    cli.parse_gin([], ["Kettle.litres = 2.0", "a/brew.minutes = 8", "b/brew.kind=''"])
    with gin.config_scope("a"):
        brew()
    assert cli.unused_bindings() == ["Kettle.litres", "b/brew.kind"]


def test_unused_bindings_includes_macros(shipped):
    cli.parse_gin([], ["brew.cup = 1"])
    brew()
    assert cli.unused_bindings() == ["size"]


def test_unused_bindings_of_a_part_that_is_not_built_are_those_that_base_has_not(
    shipped,
):
    base = shipped / "base.gin"
    base.write_text(base.read_text() + "Kettle.litres = 1.5\n")
    cli.parse_gin([], [])
    brew()
    assert cli.unused_bindings() == []
    cli.parse_gin([], ["Kettle.litres = 2.0"])
    assert cli.unused_bindings() == ["Kettle.litres"]


# run

_COMMAND = '''"""Greets.

    python -m greet --name=you
"""
from absl import flags
from soka_tf import cli
from soka_tf.errors import UserError

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
    for _ in range(TIMES.value):
        print("hello", NAME.value)


if __name__ == "__main__":
    cli.run(main, FLAGS)
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
        ("locked", 2, "greet: error: /locked/file: Permission denied"),
    ],
)
def test_run_expected_failure_is_one_line_without_traceback(
    greet, name, code, last_line
):
    done = greet(f"--name={name}")
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == last_line
    assert "Traceback" not in done.stderr


def test_run_fault_of_the_program_keeps_its_traceback(greet):
    done = greet("--name=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "a fault of ours" in done.stderr


def test_run_reader_gone_ends_quietly(tmp_path):
    (tmp_path / "greet.py").write_text(_COMMAND)
    process = subprocess.Popen(
        [sys.executable, "-m", "greet", "--name=you", "--times=200000"],
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


def test_run_two_commands_in_one_process_do_not_clash():
    for _ in range(2):
        own = flags.FlagValues()
        flags.DEFINE_string("model_dir", None, "", flag_values=own)


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
