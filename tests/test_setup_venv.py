"""tools/setup_venv.sh: which of the Pythons of a machine it takes, or what it says."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What the script calls besides Pythons; nothing else of this machine is on its path.
_TOOLS = ("cat", "cp", "dirname", "grep", "mkdir", "mv", "rm", "sh", "tail")
# Judges by its own version, makes environments that are itself, and installs nothing.
_PYTHON = """#!/bin/sh
case "$1 $2" in
"-c "*) exec {real} -c "
import sys
sys.version_info, sys.version, sys.base_prefix = (3, {minor}), '3.{minor}', '{prefix}'
exec(sys.argv[1])" "$2" ;;
"-m venv") {venv} ;;
"-m pip") {pip} ;;
"-V ") echo "Python 3.{minor}.0 of {prefix}" ;;
esac
"""
_MAKES = 'mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && : >"$3/pyvenv.cfg"'
# Makes an environment of the version it is asked for.
_UV = """#!/bin/sh
mkdir -p "$6/bin" && : >"$6/pyvenv.cfg"
case $4 in
*3.12*) cp {home}/uv3.12 "$6/bin/python" ;;
">=3.9,<3.14") cp {home}/uv3.12 "$6/bin/python" ;;
*) exit 1 ;;
esac
"""
PYENV = ".pyenv/versions/3.13.0/bin/python"


@pytest.fixture
def machine(tmp_path):
    """A repository and a machine without Python."""
    for folder in ("repository/tools", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "setup_venv.sh", tmp_path / "repository" / "tools")
    for name in _TOOLS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    # The script waits a second at a time for what here installs nothing.
    write(tmp_path / "bin" / "sleep", f"#!/bin/sh\nexec {shutil.which('sleep')} 0.01\n")
    return tmp_path


def add(machine, command, minor, venv=_MAKES, pip=":"):
    """Puts a Python there: a command on the path, or a file below the home folder."""
    write(
        machine / ("bin" if "/" not in command else "") / command,
        _PYTHON.format(
            real=sys.executable, minor=minor, prefix=command, venv=venv, pip=pip
        ),
    )


def add_uv(machine):
    add(machine, "./uv3.12", 12)
    write(machine / "bin" / "uv", _UV.format(home=machine))


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def set_up(machine, **environment):
    return subprocess.run(
        [shutil.which("sh"), "tools/setup_venv.sh"],
        cwd=machine / "repository",
        env={"PATH": str(machine / "bin"), "HOME": str(machine), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "found, named, taken",
    [
        ({"python3": 13}, "", "python3"),
        ({"python3": 11, "python3.13": 13}, "", "python3"),
        ({"python3": 14, "python3.11": 11, "python3.12": 12}, "", "python3.12"),
        ({"python3": 8, PYENV: 13, "python3.9": 9}, "", PYENV),
        ({"python3": 11, PYENV: 13}, "3.13", PYENV),
        ({"python3": 11, PYENV: 13}, "3.13.0", PYENV),
        ({"python3": 11, PYENV: 13}, "python3.13", PYENV),
    ],
)
def test_python_that_fits_is_taken_in_order(machine, found, named, taken):
    for command, minor in found.items():
        add(machine, command, minor)
    done = set_up(machine, PYTHON=named)
    assert done.returncode == 0, done.stderr
    assert f"using Python 3.{found[taken]}.0 of {taken} in .venv" in done.stdout


@pytest.mark.parametrize("wrong", [dict(venv="exit 1"), dict(pip="exit 1")])
def test_python_that_makes_no_environments_is_passed_over(machine, wrong):
    add(machine, "python3", 11, **wrong)
    add(machine, "python3.10", 10)
    assert "using Python 3.10.0 of python3.10" in set_up(machine).stdout


@pytest.mark.parametrize("named", ["", "3.12", "python3.12"])
def test_uv_is_asked_where_no_other_python_fits_and_only_once(machine, named):
    add_uv(machine)
    done = set_up(machine, PYTHON=named)
    assert "asking uv" in done.stdout and "using Python 3.12.0" in done.stdout
    assert "asking uv" not in set_up(machine, PYTHON=named).stdout


def test_pyenv_root_and_the_folder_of_the_environment_are_the_users(machine):
    add(machine, "elsewhere/versions/3.9.1/bin/python", 9)
    done = set_up(machine, PYENV_ROOT=str(machine / "elsewhere"), VENV="my env")
    assert "using Python 3.9.0" in done.stdout and "in my env" in done.stdout
    made = {path.name for path in (machine / "repository").iterdir()}
    assert made == {"tools", "my env"}


def test_other_python_named_later_replaces_the_environment_and_the_same_does_not(
    machine,
):
    add(machine, "python3", 11)
    add(machine, "python3.12", 12)
    set_up(machine)
    kept = machine / "repository" / ".venv" / "kept"
    kept.touch()
    for named in ("", "python3"):
        assert "replaced" not in set_up(machine, PYTHON=named).stdout
        assert kept.exists()
    again = set_up(machine, PYTHON="3.12").stdout
    assert ".venv is replaced" in again and "using Python 3.12" in again
    assert not kept.exists()


@pytest.mark.parametrize("named", ["3.14", "3.13", "python3.12", "/no/such/python"])
def test_python_that_cannot_be_had_leaves_the_environment_as_it_was(machine, named):
    add(machine, "python3", 11)
    add(machine, "python3.12", 12, venv="mkdir -p $3; exit 1")
    set_up(machine)
    (machine / "repository" / ".venv" / "kept").touch()
    add_uv(machine)
    (machine / "uv3.12").unlink()  # no network
    done = set_up(machine, PYTHON=named)
    assert (
        done.returncode == 1 and f"error: PYTHON={named} was not found" in done.stderr
    )
    assert (machine / "repository" / ".venv" / "kept").exists()
    assert "using Python 3.11" in set_up(machine).stdout


@pytest.mark.parametrize("minor", [8, 14])
def test_only_an_older_or_newer_python_says_what_to_install(machine, minor):
    add(machine, "python3", minor)
    done = set_up(machine)
    assert done.returncode == 1 and not (machine / "repository" / ".venv").exists()
    assert "needs Python 3.9 to 3.13" in done.stderr
    assert "pyenv install 3.13" in done.stderr


def test_folder_that_is_no_environment_is_never_replaced(machine):
    add(machine, "python3", 13)
    (machine / "repository" / "runs").mkdir()
    (machine / "repository" / "runs" / "precious").touch()
    done = set_up(machine, VENV="runs", PYTHON="python3")
    assert done.returncode == 1 and "runs exists and is no environment" in done.stderr
    assert (machine / "repository" / "runs" / "precious").exists()


def test_script_says_installing_only_where_tensorflow_is_not_there(machine):
    add(machine, "python3", 11)
    first = set_up(machine)
    assert first.returncode == 0, first.stderr
    assert "installing TensorFlow and the other packages" in first.stdout
    packages = machine / "repository" / ".venv" / "lib" / "python3.11" / "site-packages"
    (packages / "tensorflow").mkdir(parents=True)
    second = set_up(machine)
    assert second.returncode == 0, second.stderr
    assert "installing TensorFlow" not in second.stdout
    assert "looking for packages that are missing" in second.stdout
