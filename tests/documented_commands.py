"""The commands that documents tell their readers to give."""

import pathlib
import re
import shlex
from typing import List, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = "README.md"
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
)
# A command of the package or a tool to the end of its line, or of its `code`.
_COMMAND = re.compile(
    r"\bpython3? (-m soka_tf(?:\.tools)?\.\w+|tools/\w+\.py)((?:[^\n`\\#;|]|\\\n)*)(`?)"
)
# Code within a sentence, whose lines may break anywhere.
_CODE = re.compile(r"(?<![`\w])`([^`]+)`")


class Command(NamedTuple):
    """A command of a document.

    Attributes:
      document: its path from the repository's root.
      name: "soka_tf.train", or "benchmark" of tools/benchmark.py.
      arguments: what follows, without what holds "...", which stands for more.
      whole: whether it may be given as it is: from a block of code, without "...".
    """

    document: str
    name: str
    arguments: List[str]
    whole: bool

    def __str__(self) -> str:
        return f"{self.document}: {' '.join([self.name, *self.arguments])}"[:90]


def read(document: str) -> str:
    """The text of a document, its code within sentences on one line each."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return _CODE.sub(lambda code: code[0].replace("\n", " "), text)


def code_in(document: str) -> List[str]:
    """The code within a document's sentences."""
    return [" ".join(code.split()) for code in _CODE.findall(read(document))]


def commands_of(document: str) -> List[Command]:
    """The commands of a document, in its order."""
    found = []
    for program, rest, in_sentence in _COMMAND.findall(read(document)):
        arguments = shlex.split(rest.replace("\\\n", " "))
        shown = [argument for argument in arguments if "..." not in argument]
        name = re.sub(r"-m (soka_tf\.tools\.)?|tools/|\.py$", "", program)
        whole = len(shown) == len(arguments) and not in_sentence
        found.append(Command(document, name, shown, whole))
    return found
