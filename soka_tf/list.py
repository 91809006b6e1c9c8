r"""Lists the tasks, the teachers that are found, and the gin files that are shipped.

For example

    python -m soka_tf.list

or with teachers of your own beside those that come with soka_tf:

    python -m soka_tf.list --teachers_dir=runs/taskonomy_teachers \
        --teacher=runs/teachers/edges
"""

import itertools
import pathlib
import re
import textwrap
from typing import Any, List, Mapping, Optional, Sequence

from absl import flags

from soka_tf import cli
from soka_tf.errors import UserError

FLAGS = flags.FlagValues()
_TEACHERS_DIR = flags.DEFINE_string(
    "teachers_dir",
    None,
    "folder of <task>.safetensors and of teachers' folders; by default of those that "
    "come with soka_tf",
    flag_values=FLAGS,
)
_TEACHER = flags.DEFINE_multi_string(
    "teacher", [], "folder of a teacher; repeatable", flag_values=FLAGS
)
# Of an entry of the manifest beside teachers.
_SCORES = {
    "scores?": {"teacher?": {str: (float, None)}, "skill?": (float, None)},
    "measured_on?": str,
    "views?": int,
}
# The words of docs/tasks.md for what only built-in tasks have.
_KINDS = {"range": "continuous", "standardize": "continuous"}
_TEXT_COLUMNS = 62


def main() -> None:
    """Prints the three tables."""
    teachers = teacher_rows(_TEACHERS_DIR.value, _TEACHER.value)
    # Teachers may have defined tasks: these come after.
    _print("Tasks", ["name", "title", "unit", "kind", "may be"], task_rows())
    columns = ["teacher of", "layers", "skill", "error", "file"]
    _print("Teachers", columns, teachers)
    for line in _about_teachers(_TEACHERS_DIR.value):
        print(f"\n{line}")
    _print("gin files", ["--gin_file", "what it is"], gin_rows())


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from tabulate import tabulate

    print(f"\n{title}\n{'=' * len(title)}\n")
    print(tabulate(rows, columns, disable_numparse=True) if rows else "none")


def _about_teachers(teachers_dir: Optional[str]) -> List[str]:
    """Where files of no folder are, and on what their scores were measured."""
    from soka_tf.teachers.finding import teachers_folder

    folder = teachers_folder(teachers_dir)
    on = {
        f"{entry['views']:,} views of {entry['measured_on']}"
        for entry in _entries(folder).values()
        if "views" in entry and "measured_on" in entry
    }
    lines = [f"Files without a folder are in {folder}."]
    if on:
        lines.append(
            f"Skill and error: on {' and '.join(sorted(on))}, procedural rooms that "
            "are not trained on."
        )
    return lines


def _entries(folder: pathlib.Path) -> Mapping[str, Any]:
    """What the manifest beside teachers says of them; nothing without one."""
    from soka_tf.teachers.finding import read_teachers_manifest

    path = folder / "manifest.json"
    return read_teachers_manifest(path, **_SCORES) if path.is_file() else {}


def task_rows() -> List[List[str]]:
    """A row a task: name, title, unit, kind, target or auxiliary."""
    from soka_tf.tasks import TASKS

    return [
        [
            task.name,
            task.title,
            task.unit,
            _KINDS.get(task.encoding.kind, task.encoding.kind) if task.encoding else "",
            task.role,
        ]
        for task in TASKS.values()
    ]


def teacher_rows(
    teachers_dir: Optional[str], folders: Sequence[str]
) -> List[List[str]]:
    """A row a teacher: task, layers, skill, rmse (of classes accuracy), file.

    Args:
      teachers_dir: folder of teachers; None for those that come with soka_tf.
      folders: of a teacher each.

    Raises:
      UserError: if there is no such folder, or a manifest is wrong.
    """
    from soka_tf.teachers.finding import found_teachers, teachers_folder
    from soka_tf.teachers.saved_model import manifest
    from soka_tf.teachers.similarity import LAYERS

    folder = teachers_folder(teachers_dir)
    if not folder.is_dir():
        raise UserError(f"--teachers_dir={teachers_dir}: there is no such folder.")
    entries, rows = _entries(folder), []
    for name, path in found_teachers(teachers_dir, folders).items():
        is_folder = path.name == manifest.FILE
        layers = manifest.read_manifest(path).layers if is_folder else LAYERS
        is_there = path.parent == folder
        scores = (entries.get(name, {}) if is_there else {}).get("scores", {})
        file = path.name if is_there else str(path)
        rows.append([name, str(len(layers)), *_shown(name, scores), file])
    return rows


def _shown(name: str, scores: Mapping[str, Any]) -> List[str]:
    """A teacher's skill, and its error in the task's unit."""
    from soka_tf.tasks import get_task

    skill, measured = scores.get("skill"), scores.get("teacher", {})
    shown = ""
    if measured.get("rmse") is not None:
        shown = f"rmse {measured['rmse']:.3g} {get_task(name).unit}".strip()
    elif measured.get("accuracy") is not None:
        shown = f"accuracy {measured['accuracy']:.3f}"
    return ["" if skill is None else f"{skill:.2f}", shown]


def gin_rows() -> List[List[str]]:
    """A row a shipped gin file: its name as --gin_file takes it, and what it is."""
    from soka_tf.runs.gin_text import config_root

    root = config_root()
    return [
        [
            f"gin/{path.relative_to(root).as_posix()}",
            textwrap.fill(_first_sentence(path), _TEXT_COLUMNS),
        ]
        for path in sorted(root.rglob("*.gin"))
    ]


def _first_sentence(path: pathlib.Path) -> str:
    """Of the comment that a gin file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.strip("# ") for line in comment)
    return re.split(r"(?<=\.)\s", text)[0]


if __name__ == "__main__":
    cli.run(main, FLAGS)
