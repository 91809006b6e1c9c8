"""Tools as users run them, in this process."""

import importlib.util
import pathlib
import sys
from types import ModuleType
from typing import NamedTuple

import pytest

from soka_tf import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Result(NamedTuple):
    """What a command left behind: exit code and what it printed."""

    code: int
    out: str
    err: str


def load_tool(name: str) -> ModuleType:
    """A fresh copy of tools/<name>.py, its flags not yet parsed."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    sys.modules[name] = tool  # cli reads the docstring of the command's module
    spec.loader.exec_module(tool)
    return tool


def run_command(name: str, *arguments: str, capsys, monkeypatch) -> Result:
    """Runs python -m soka_tf.<name> in this process to its end."""
    spec = importlib.util.find_spec(f"soka_tf.{name}")
    command = importlib.util.module_from_spec(spec)  # its flags not yet parsed
    monkeypatch.setitem(sys.modules, spec.name, command)
    spec.loader.exec_module(command)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(command.main, command.FLAGS, [spec.name, *map(str, arguments)])
    printed = capsys.readouterr()
    return Result(ended.value.code, printed.out, printed.err)


def run_tool(name: str, *arguments: str, capsys) -> Result:
    """Runs a tool with these arguments to its end."""
    tool = load_tool(name)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(
            tool.main,
            tool.FLAGS,
            [f"{name}.py", *map(str, arguments)],
            commands=getattr(tool, "BENCHMARKS", ()),
        )
    printed = capsys.readouterr()
    return Result(ended.value.code, printed.out, printed.err)
