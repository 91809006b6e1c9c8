"""How tools are started and extras installed: in a checkout, or from a wheel."""

import pathlib
from typing import Tuple

PACKAGE = pathlib.Path(__file__).resolve().parent
INSTALLED = "soka_tf.tools."  # where a wheel has those of setup.py


def find_tools(package: pathlib.Path = PACKAGE) -> Tuple[pathlib.Path, str]:
    """Finds the folder of the tools, which may be missing.

    Args:
      package: the folder of soka_tf, installed or of a checkout with tools/ beside it.

    Returns:
      The folder, and how a tool in it is started, with "{}" for its name.
    """
    installed, beside = package / "tools", package.parent / "tools"
    if _is_checkout(package) and not installed.is_dir():
        return beside, "python tools/{}.py"
    return installed, f"python -m {INSTALLED}{{}}"


def tool_command(name: str, package: pathlib.Path = PACKAGE) -> str:
    """How to start a tool here, for a message.

    Args:
      name: of the tool.
      package: as in `find_tools`.

    Returns:
      The command, quoted; of a tool that is not installed, where to find it.
    """
    folder, start = find_tools(package)
    if (folder / f"{name}.py").is_file():
        return f"`{start.format(name)}`"
    return f"tools/{name}.py of a checkout"


def extra_command(extra: str, package: pathlib.Path = PACKAGE) -> str:
    """How to install an extra of setup.py here, for a message.

    Args:
      extra: its name.
      package: as in `find_tools`.

    Returns:
      The command, quoted; of a checkout, to be given in its folder.
    """
    if _is_checkout(package):
        return f'`pip install -e ".[{extra}]"`'
    return f'`pip install "soka_tf[{extra}]"`'


def _is_checkout(package: pathlib.Path) -> bool:
    return (package.parent / "gin" / "base.gin").is_file()
