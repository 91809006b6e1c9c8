"""Where the teachers of a run are found, and how they are loaded."""

import os
import pathlib
from typing import Annotated, Any, Dict, Mapping, NamedTuple, Optional, Sequence

from absl import logging

from soka_tf.atomic import PathLike
from soka_tf.data.documents import read_json
from soka_tf.errors import UserError
from soka_tf.kinds import TEXT, Flag, list_of
from soka_tf.tasks import TASKS, get_targets, get_task
from soka_tf.teachers.loading import load_teacher
from soka_tf.teachers.pool import InputsShown, Precision, TeacherPool
from soka_tf.teachers.saved_model import manifest
from soka_tf.teachers.taskonomy import taskbank, visual_prior
from soka_tf.teachers.taskonomy.teacher_file import CONVERT_NPZ
from soka_tf.teachers.taskonomy.visual_prior import published_files_of
from soka_tf.teachers.teacher import Teacher
from soka_tf.tool_commands import tool_command

SHIPPED_DIR = pathlib.Path(__file__).parent / "weights" / "rooms64"
Folders = Annotated[
    Optional[Sequence[str]],
    list_of(TEXT, "a list of one or more folders of a teacher each, e.g. ['runs/hed']"),
]


class TeacherFiles(NamedTuple):
    """Where the teachers of a run are looked for; the files need not exist.

    Attributes:
      targets: task -> file, <task>.safetensors or the teacher.json of a folder, in the
        order of the student's tasks.
      auxiliaries: task -> file of a teacher whose features alone are used.
    """

    targets: Dict[str, pathlib.Path]
    auxiliaries: Dict[str, pathlib.Path]

    def require(self) -> None:
        """Checks that all files are there.

        Raises:
          UserError: naming every missing file, what the folder has, and where to get
            teachers.
        """
        _require({**self.targets, **self.auxiliaries})


def teachers_folder(teachers_dir: Optional[PathLike]) -> pathlib.Path:
    """The folder that teachers_dir names; None is that of the shipped teachers."""
    return pathlib.Path(teachers_dir or SHIPPED_DIR).expanduser()


def find_teachers(
    tasks: Sequence[str],
    auxiliaries: Sequence[str] = (),
    teachers_dir: Annotated[Optional[PathLike], TEXT] = None,
    folders: Folders = None,
) -> TeacherFiles:
    """Names the files of a run's teachers.

    Args:
      tasks: the student's tasks, in order, any alias.
      auxiliaries: tasks of whose teachers the features alone are used.
      teachers_dir: the folder with <task>.safetensors files and with teachers' folders;
        None for the teachers that come with soka_tf.
      folders: further folders of a teacher each (docs/teachers.md), by whose tasks they
        are found; they come before the teachers that come with soka_tf.

    Raises:
      UserError: if a task is unknown, cannot be a target or is named twice, a folder's
        manifest is wrong, or two teachers have one task.
    """
    others = teacher_folders(teachers_dir, folders)  # registers their tasks
    targets = [task.name for task in get_targets(tasks)]
    extra = [get_task(name).name for name in auxiliaries]
    names = [*targets, *extra]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            "An auxiliary teacher must be none of the targets' and be named once. "
            f"Received twice: {', '.join(repeated)}. Bind auxiliary = 'none' or others."
        )
    files = {name: others.get(name, _file_of(name, teachers_dir)) for name in names}
    return TeacherFiles(
        {name: files[name] for name in targets}, {name: files[name] for name in extra}
    )


def teacher_folders(
    teachers_dir: Optional[PathLike] = None, folders: Folders = None
) -> Dict[str, pathlib.Path]:
    """Reads the manifests of teachers that are folders, and registers their tasks.

    Args:
      teachers_dir: whose subfolders with a teacher.json are teachers.
      folders: of a teacher each.

    Returns:
      Task -> teacher.json.

    Raises:
      UserError: if a manifest is missing or wrong, or two teachers have one task.
    """
    paths = [pathlib.Path(manifest.manifest_path(folder)) for folder in folders or ()]
    if teachers_dir is not None:
        paths += sorted(teachers_folder(teachers_dir).glob(f"*/{manifest.FILE}"))
    found: Dict[str, pathlib.Path] = {}
    for path in paths:
        name = manifest.read_manifest(path).task.name
        beside = _file_of(name, teachers_dir)
        is_there = teachers_dir is not None and beside.is_file()
        other = found.get(name, beside if is_there else path)
        if not os.path.samefile(other, path):
            raise UserError(
                f"A task has one teacher. Received for {name}: {other} and {path}. "
                "Remove one of them, or leave out its --teacher."
            )
        found.setdefault(name, path)
    return found


def found_teachers(
    teachers_dir: Optional[PathLike] = None, folders: Folders = None
) -> Dict[str, pathlib.Path]:
    """Names every teacher that is there, files and folders.

    Files that are not named after a task are left out, in one warning.

    Args:
      teachers_dir: as of `find_teachers`.
      folders: as of `find_teachers`.

    Returns:
      Task -> <task>.safetensors or teacher.json, in the order of `TASKS`.

    Raises:
      UserError: as `teacher_folders`.
    """
    folder = teachers_folder(teachers_dir)
    found = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    found.update(teacher_folders(teachers_dir, folders))
    others = [path.name for name, path in found.items() if name not in TASKS]
    if others:
        told = "%s: left out what is not named after a task: %s."
        logging.warning(told, folder, ", ".join(others))
    return {name: found[name] for name in TASKS if name in found}


def load_pool(
    found: TeacherFiles,
    inputs: InputsShown = "training",
    precision: Precision = "float32",
    trust_saved_model: Flag = False,
) -> TeacherPool:
    """Loads the teachers of a run.

    Args:
      found: of `find_teachers`.
      inputs: what they are shown, see `TeacherPool`.
      precision: in which they compute, see `TeacherPool`.
      trust_saved_model: see `soka_tf.teachers.load_teacher`.

    Raises:
      UserError: as `load_teachers`, and if the precision is unknown.
    """
    loaded = _load({**found.targets, **found.auxiliaries}, trust_saved_model)
    return TeacherPool(
        {name: loaded[name] for name in found.targets},
        {name: loaded[name] for name in found.auxiliaries},
        inputs,
        precision,
    )


def load_teachers(
    names: Sequence[str],
    teachers_dir: Optional[PathLike] = None,
    folders: Folders = None,
    trust_saved_model: bool = False,
) -> Dict[str, Teacher]:
    """Loads single teachers from a folder, <task>.safetensors files or folders.

    Where the folder has a manifest.json, the sha256 of each file there is checked.

    Args:
      names: tasks, any alias.
      teachers_dir: the folder; None for the teachers that come with soka_tf.
      folders: further folders of a teacher each.
      trust_saved_model: see `soka_tf.teachers.load_teacher`.

    Raises:
      UserError: naming every missing file, what the folder has, and where to get
        teachers; or whatever is wrong with a file.
    """
    others = teacher_folders(teachers_dir, folders)
    tasks = [get_task(name).name for name in names]
    files = {t: others.get(t, _file_of(t, teachers_dir)) for t in tasks}
    return _load(files, trust_saved_model)


def _file_of(task: str, teachers_dir: Optional[PathLike]) -> pathlib.Path:
    return teachers_folder(teachers_dir) / f"{task}.safetensors"


def _load(
    files: Mapping[str, pathlib.Path], trust_saved_model: bool = False
) -> Dict[str, Teacher]:
    _require(files)
    folders = {path.parent for path in files.values()}
    hashes = {folder: _listed_hashes(folder) for folder in folders}
    loaded = {}
    for name, path in files.items():
        known = hashes[path.parent].get(path.name)
        teacher = load_teacher(path, known, trust_saved_model)
        if teacher.task.name != name:
            raise UserError(
                f"{path}: holds the teacher of {teacher.task.name!r}, its name says "
                f"{name!r}. Rename the file or fetch the right one."
            )
        loaded[name] = teacher
    return loaded


def _require(files: Mapping[str, pathlib.Path]) -> None:
    missing = {name: path for name, path in files.items() if not path.is_file()}
    if missing:
        raise UserError(_where_to_get(missing))


def _where_to_get(missing: Mapping[str, pathlib.Path]) -> str:
    folder = next(iter(missing.values())).parent
    there = sorted(path.stem for path in folder.glob("*.safetensors"))
    files = [file for name in missing for file in published_files_of(name)]
    published = (
        " Taskonomy's published networks are turned into such files by "
        f"{tool_command('convert_teacher')}, from PyTorch files ({', '.join(files)} at "
        f"{visual_prior.WHERE_TO_GET}) or from TensorFlow 1 checkpoints "
        f"({taskbank.WHERE_TO_GET})."
    )
    return (
        f"Missing teachers: {', '.join(map(str, missing.values()))}. The folder has: "
        f"{', '.join(there) or 'none'}.{_earlier_files(missing)} teachers_dir may be "
        "any local folder with one <task>.safetensors a task; None is the teachers for "
        f"drawn rooms that come with soka_tf. {tool_command('wrap_teacher')} makes a "
        "teacher of your SavedModel, which --teacher=FOLDER names."
        f"{published if files else ''}"
    )


def _earlier_files(missing: Mapping[str, pathlib.Path]) -> str:
    old = [path.with_suffix(".npz") for path in missing.values()]
    there = ", ".join(path.name for path in old if path.is_file())
    return f" Of an earlier version: {there}; {CONVERT_NPZ}." if there else ""


def _listed_hashes(folder: pathlib.Path) -> Dict[str, str]:
    manifest = folder / "manifest.json"
    if not os.path.exists(manifest):
        return {}
    entries = read_teachers_manifest(manifest)
    return {entry["file"]: entry["sha256"] for entry in entries.values()}


def read_teachers_manifest(path: PathLike, **fields: Any) -> Dict[str, Any]:
    """Reads manifest.json of tools/train_teachers.py.

    Args:
      path: of the file.
      **fields: what each entry must have beside "file" and "sha256", see
        `soka_tf.data.documents`.

    Returns:
      Task -> entry.

    Raises:
      UserError: if the file holds anything else.
    """
    shape = {"teachers": {str: {"file": str, "sha256": str, **fields}}}
    wrong = "not a manifest of teachers"
    return read_json(path, shape, "Restore or remove it.", wrong)["teachers"]
