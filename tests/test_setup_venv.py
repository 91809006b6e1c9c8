"""tools/setup_venv.sh: which of the Pythons of a machine it takes, or what it says."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What the script calls besides Pythons; nothing else of this machine is on its path.
_TOOLS = ("dirname", "mkdir", "cp", "rm", "sh", "sleep", "tail")
# Judges by its own version, makes environments that are itself, and installs nothing.
_PYTHON = """#!/bin/sh
case "$1 $2" in
"-c "*) exec {real} -c "
import sys
sys.version_info, sys.version, sys.base_prefix = (3, {minor}), '3.{minor}', '{prefix}'
exec(sys.argv[1])" "$2" ;;
"-m venv") {venv} ;;
"-V ") echo "Python 3.{minor} of {prefix}" ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A repository and a machine without Python."""
    for folder in ("repository/tools", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "setup_venv.sh", tmp_path / "repository" / "tools")
    for name in _TOOLS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    return tmp_path


def add(machine, command, minor, venv=True):
    """Puts a Python there: a command on the path, or a file below the home folder."""
    file = machine / ("bin" if "/" not in command else "") / command
    file.parent.mkdir(parents=True, exist_ok=True)
    made = 'mkdir -p "$3/bin" && cp "$0" "$3/bin/python"' if venv else "exit 1"
    text = _PYTHON.format(real=sys.executable, minor=minor, prefix=command, venv=made)
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


PYENV = ".pyenv/versions/3.13.0/bin/python"


@pytest.mark.parametrize(
    "found, environment, taken",
    [
        ({"python3": 13}, {}, "python3"),
        ({"python3": 11, "python3.13": 13}, {}, "python3"),
        ({"python3": 14, "python3.11": 11, "python3.12": 12}, {}, "python3.12"),
        ({"python3": 8, PYENV: 13, "python3.9": 9}, {}, PYENV),
        ({"python3": 11, PYENV: 13}, {"PYTHON": "3.13"}, PYENV),
        ({"python3": 11, PYENV: 13}, {"PYTHON": "python3.13"}, PYENV),
    ],
)
def test_python_that_fits_is_taken_in_order(machine, found, environment, taken):
    for command, minor in found.items():
        add(machine, command, minor)
    done = set_up(machine, **environment)
    assert done.returncode == 0, done.stderr
    minor = found[taken]
    assert f"using Python 3.{minor} of {taken} in .venv" in done.stdout


def test_python_that_makes_no_environments_is_passed_over(machine):
    add(machine, "python3", 11, venv=False)
    add(machine, "python3.10", 10)
    assert "using Python 3.10 of python3.10" in set_up(machine).stdout


def test_other_python_named_later_replaces_the_environment_and_the_same_does_not(
    machine,
):
    add(machine, "python3", 11)
    add(machine, "python3.12", 12)
    set_up(machine)
    kept = machine / "repository" / ".venv" / "kept"
    kept.touch()
    assert "replacing" not in set_up(machine, PYTHON="python3").stdout
    assert kept.exists()
    again = set_up(machine, PYTHON="3.12").stdout
    assert "replacing .venv" in again and "using Python 3.12" in again
    assert not kept.exists()


@pytest.mark.parametrize("minor", [8, 14])
def test_only_an_older_or_newer_python_says_what_to_install(machine, minor):
    add(machine, "python3", minor)
    done = set_up(machine)
    assert done.returncode == 1 and not (machine / "repository" / ".venv").exists()
    assert "needs Python 3.9 to 3.13" in done.stderr
    assert "pyenv install 3.13" in done.stderr


@pytest.mark.parametrize("named", ["3.14", "python3.7", "/no/such/python", "rm"])
def test_named_python_that_does_not_fit_is_refused(machine, named):
    add(machine, "python3", 13)
    done = set_up(machine, PYTHON=named)
    assert done.returncode == 1
    assert f"error: PYTHON={named} is not a Python 3.9 to 3.13" in done.stderr
