"""Lists the commands and tools, and what each is for.

    python -m soka_tf

Each is a module of its own and has --help.
"""

import ast
import pathlib
import sys
from typing import List, Tuple

from absl import flags

from soka_tf import cli
from soka_tf.errors import UserError, did_you_mean
from soka_tf.tool_commands import PACKAGE, find_tools

FLAGS = flags.FlagValues()
_RUNS_ITSELF = '\nif __name__ == "__main__":'
_FIRST = ("train", "evaluate", "export", "predict")  # in the order of their use
_DEMO = "python -m soka_tf.train --gin_file=gin/rooms/demo.gin --model_dir=runs/demo"


def commands(package: pathlib.Path = PACKAGE) -> List[Tuple[str, str]]:
    """How each command and tool is started, and the first sentence about it.

    Args:
      package: as in `find_tools`.
    """
    tools = find_tools(package)
    return _in_folder(package, "python -m soka_tf.{}") + _in_folder(*tools)


def _in_folder(folder: pathlib.Path, start: str) -> List[Tuple[str, str]]:
    found = {}
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if _RUNS_ITSELF in text and path.stem != "__main__":
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    order = sorted(found, key=lambda name: (*(name != first for first in _FIRST), name))
    return [(start.format(name), found[name]) for name in order]


def main() -> None:
    """Prints the list."""
    from tabulate import tabulate

    known = commands()
    for word in sys.argv[1:]:
        if not word.startswith("-"):
            modules = [start.split()[2] for start, _ in known if "-m" in start]
            near = did_you_mean(f"soka_tf.{word}", modules, lambda m: f"python -m {m}")
            raise UserError(
                "commands are modules, started as python -m soka_tf.NAME. Received: "
                f"{word}{near} (python -m soka_tf lists them)"
            )
    print(tabulate(known, tablefmt="plain"))
    print(f"\nEach has --help. To begin with (minutes on two cores):\n\n    {_DEMO}")


if __name__ == "__main__":
    # Words are answered by `main`: no flag takes one.
    given = [word for word in sys.argv if word.startswith("-")]
    cli.run(main, FLAGS, [sys.argv[0], *given], tensorflow=False)
