r"""Trains the small teachers for the procedural rooms that come with soka_tf.

Example (hours on two cores; it can be stopped, and called again it goes on):

    python tools/train_teachers.py --gin_file=gin/rooms/teachers.gin \
        --out_dir=runs/teachers

One encoder with a decoder a task learns several tasks at once from exact labels; every
teacher begins from that and goes on with its task alone. Each is measured on rooms
never seen and written as <task>.safetensors in float16 beside manifest.json (sha256,
command, minutes of processor time, scores beside those of a constant answer).
"""

import datetime
import json
import os
import pathlib
import sys
from typing import Any, Dict, Mapping, Sequence

from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from soka_tf import cli
from soka_tf.atomic import locked, write_json
from soka_tf.data.documents import read_json
from soka_tf.errors import UserError

FLAGS = flags.FlagValues()
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", ["gin/rooms/teachers.gin"], "gin files", flag_values=FLAGS
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param",
    [],
    'single bindings, e.g. "train_teachers.steps = 100"',
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", "runs/teachers", "folder of the teachers", flag_values=FLAGS
)
_TASK = flags.DEFINE_multi_string(
    "task", [], "only these tasks; all of the gin file otherwise", flag_values=FLAGS
)
_ROOMS = flags.DEFINE_enum(
    "measure_on",
    "test",
    ["tune", "test"],
    "rooms that the scores are of; tune: to choose settings by",
    flag_values=FLAGS,
)


def main() -> None:
    """Trains, measures and writes every teacher asked for."""
    from soka_tf.tasks import get_task
    from tools.teachers import training
    from tools.teachers.settings import read_settings

    settings = read_settings(_GIN_FILE.value, _GIN_PARAM.value)
    tasks = [get_task(name).name for name in _TASK.value or settings.tasks]
    together = training.together_tasks(settings) if settings.together_steps else []
    for task in {*together, *tasks}:
        training.loss_of(task, settings.losses)  # refused before anything is done
    work = pathlib.Path(os.path.expanduser(_OUT_DIR.value)) / "work"
    _claim(work, settings._asdict())
    with locked(work / "lock", f"trains teachers in {work.parent}"):
        _train_all(tasks, together, settings, work)


def _train_all(
    tasks: Sequence[str], together: Sequence[str], settings: Any, work: pathlib.Path
) -> None:
    """Trains the common encoder, if there is one, then every task's teacher."""
    from tools.teachers import rooms, training

    size, data_dir = settings.image_size, settings.data_dir
    domains = list(dict.fromkeys([*together, *tasks]))
    arrays = rooms.draw(data_dir, settings.train, size, domains)
    unseen = rooms.draw(data_dir, getattr(settings, _ROOMS.value), size, tasks)
    first, first_minutes = None, 0.0
    if together:
        first = training.build_networks(together, settings)
        first_minutes = training.train_together(
            first, arrays, settings, work / "together"
        )
    for task in tasks:
        networks, minutes = training.train_teacher(
            task, first, arrays, settings, work / task
        )
        spent = {"alone": round(minutes, 1), "together": round(first_minutes, 1)}
        _write(work.parent, task, networks, unseen, {"processor_minutes": spent})


def _claim(work: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Refuses to go on with the checkpoints of other settings."""
    path, wanted = work / "settings.json", json.loads(json.dumps(settings))
    if path.exists():
        remedy = f"Remove {work} or choose another --out_dir."
        found = read_json(path, {}, remedy, "not the settings of teachers")
        other = [name for name in wanted if found.get(name) != wanted[name]]
        if other:
            raise UserError(
                f"{work} holds teachers half trained with other settings: "
                + "; ".join(f"{n}: {found.get(n)} -> {wanted[n]}" for n in other)
                + ". Bind the former values, remove it, or choose another --out_dir."
            )
    work.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def _write(
    out_dir: pathlib.Path,
    task: str,
    networks: Any,
    unseen: Mapping[str, Any],
    details: Dict[str, Any],
) -> None:
    """Writes a teacher's file, measures it, and enters both into the manifest."""
    from soka_tf.teachers.finding import read_teachers_manifest
    from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
    from soka_tf.teachers.taskonomy.teacher_file import load_teacher, save_teacher
    from tools.teachers.scores import measure

    head, size = networks.heads[task], unseen["rgb"].shape[1]
    decoder = None if task == "vanishing_point" else head
    teacher = TaskonomyTeacher(task, networks.encoder, decoder, size)
    words = [f"--gin_file={name}" for name in _GIN_FILE.value]
    words += [f'--gin_param="{param}"' for param in _GIN_PARAM.value]
    words.append(f"--task={task}")
    details = {
        "source": "procedural rooms of soka_tf",
        "command": " ".join(["python tools/train_teachers.py", *words]),
        "date": datetime.date.today().isoformat(),
        **details,
    }
    path = out_dir / f"{task}.safetensors"
    sha256 = save_teacher(teacher, path, dtype="float16", details=details)
    # The file's own weights are measured: float16 is what users get.
    scores = measure(load_teacher(path, sha256), head, unseen)
    rows = {"measured_on": f"{_ROOMS.value} rooms", "views": len(unseen["rgb"])}
    entry = {"file": path.name, "sha256": sha256, **details, "scores": scores, **rows}
    logging.info("%s: %s", task, json.dumps(scores))
    path = out_dir / "manifest.json"
    entries = read_teachers_manifest(path) if path.exists() else {}
    entries[task] = entry
    write_json(path, {"teachers": dict(sorted(entries.items()))}, indent=2)


if __name__ == "__main__":
    cli.run(main, FLAGS)
