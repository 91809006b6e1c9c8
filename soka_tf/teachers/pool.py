"""The teachers of one run: those of the targets, and auxiliary ones."""

import json
import os
import pathlib
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.tasks import get_targets, get_task
from soka_tf.teachers.teacher import PathLike, Teacher, load_teacher

SHIPPED_DIR = pathlib.Path(__file__).parent / "weights" / "rooms64"
_HOW_TO_GET = (
    "Teachers for the procedural rooms come with soka_tf "
    "(teachers_dir = None). Taskonomy's published networks have to be converted "
    "first, one .npz a task, into the folder that teachers_dir names."
)


class TeacherOutputs(NamedTuple):
    """What the teachers say of a batch.

    Attributes:
      predictions: task -> soft target [B, H, W, C], network range (F_T of Eq. 5).
      features: layer -> the activations A_T [B, h, w, c] of every teacher, targets
        first, then auxiliaries (Eq. 1).
    """

    predictions: Dict[str, tf.Tensor]
    features: Dict[str, List[tf.Tensor]]


class TeacherPool:
    """The frozen teachers of a run.

    A plain object on purpose: what hangs on a Keras model is saved, counted and
    optimised with it, and teachers must never be.
    """

    def __init__(
        self,
        targets: Mapping[str, Teacher],
        auxiliaries: Optional[Mapping[str, Teacher]] = None,
    ):
        """Collects the teachers.

        Args:
          targets: task name -> its teacher, in the order of the student's tasks.
          auxiliaries: task name -> a teacher that only lends its features.

        Raises:
          UserError: if a target's teacher has no decoder.
        """
        self.targets = dict(targets)
        self.auxiliaries = dict(auxiliaries or {})
        for name, teacher in self.targets.items():
            if teacher.decoder is None:
                raise UserError(
                    f"The teacher of {name!r} has an encoder only: it can be an "
                    "auxiliary, not the teacher of a target."
                )

    @property
    def teachers(self) -> List[Teacher]:
        """All teachers, targets first."""
        return [*self.targets.values(), *self.auxiliaries.values()]

    def count_parameters(self) -> int:
        """Scalars of the targets' teachers, moving statistics left out."""
        return sum(teacher.count_parameters() for teacher in self.targets.values())

    def __call__(
        self, images: tf.Tensor, layers: Sequence[str] = ("block3", "representation")
    ) -> TeacherOutputs:
        """Runs every teacher once.

        Args:
          images: float32 [B, H, W, 3] in [-1, 1].
          layers: the activations wanted; with none, auxiliaries are not run.
        """
        predictions, features = {}, {layer: [] for layer in layers}
        for name, teacher in self.targets.items():
            outputs = teacher(images)
            predictions[name] = outputs["prediction"]
            for layer in layers:
                features[layer].append(outputs[layer])
        if layers:
            for teacher in self.auxiliaries.values():
                outputs = teacher(images)
                for layer in layers:
                    features[layer].append(outputs[layer])
        return TeacherOutputs(predictions, features)


class TeacherFiles(NamedTuple):
    """Where the teachers of a run are looked for; the files need not exist.

    Attributes:
      targets: task -> file, in the order of the student's tasks.
      auxiliaries: task -> file of a teacher that only lends its features.
    """

    targets: Dict[str, pathlib.Path]
    auxiliaries: Dict[str, pathlib.Path]


def find_teachers(
    tasks: Sequence[str],
    auxiliaries: Sequence[str] = (),
    teachers_dir: Optional[PathLike] = None,
) -> TeacherFiles:
    """Names the files of a run's teachers, <task>.npz each.

    Args:
      tasks: the student's tasks, in order, any alias.
      auxiliaries: tasks whose teachers only lend their features.
      teachers_dir: the folder; None for the teachers that come with soka_tf.

    Raises:
      UserError: if a task is unknown, cannot be a target or is named twice.
    """
    targets = [task.name for task in get_targets(tasks)]
    extra = [get_task(name).name for name in auxiliaries]
    names = [*targets, *extra]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            "An auxiliary teacher must be none of the targets' and be named once. "
            f"Received twice: {', '.join(repeated)}. Bind auxiliaries = [] or others."
        )
    folder = pathlib.Path(teachers_dir or SHIPPED_DIR)
    return TeacherFiles(
        {name: folder / f"{name}.npz" for name in targets},
        {name: folder / f"{name}.npz" for name in extra},
    )


def load_pool(found: TeacherFiles) -> TeacherPool:
    """Loads the teachers of a run.

    Where a file's folder has a manifest.json, its sha256 there is checked.

    Raises:
      UserError: naming every missing file, what the folder has, and where to get
        teachers; or whatever is wrong with a file.
    """
    files = {**found.targets, **found.auxiliaries}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        folder = next(iter(files.values())).parent
        there = sorted(path.stem for path in folder.glob("*.npz"))
        raise UserError(
            f"Missing teachers: {', '.join(missing)}. The folder has: "
            f"{', '.join(there) or 'none'}. {_HOW_TO_GET}"
        )
    hashes = _listed_hashes(next(iter(files.values())).parent)
    loaded = {}
    for name, path in files.items():
        teacher = load_teacher(path, hashes.get(path.name))
        if teacher.task.name != name:
            raise UserError(
                f"{path}: holds the teacher of {teacher.task.name!r}, its name says "
                f"{name!r}. Rename the file or fetch the right one."
            )
        loaded[name] = teacher
    return TeacherPool(
        {name: loaded[name] for name in found.targets},
        {name: loaded[name] for name in found.auxiliaries},
    )


def _listed_hashes(folder: pathlib.Path) -> Dict[str, str]:
    manifest = folder / "manifest.json"
    if not os.path.exists(manifest):
        return {}
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))["teachers"]
        return {entry["file"]: entry["sha256"] for entry in entries.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{manifest}: not a manifest of teachers ({error}). Restore or remove it."
        ) from error
