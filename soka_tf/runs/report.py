"""report.html: what a run has left behind, gathered for its page."""

import math
import os
import platform
import shlex
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.atomic import write_text
from soka_tf.data.documents import Number, read_json
from soka_tf.data.samples import Data, spread
from soka_tf.errors import UserError, counted, reason
from soka_tf.evaluation import report_page
from soka_tf.evaluation.curves import read_columns
from soka_tf.evaluation.panels import compute_panel
from soka_tf.evaluation.table import barely_trained, evaluation_table
from soka_tf.networks.multiply_adds import total_multiply_adds
from soka_tf.runs.auxiliary import CHOICE_FILE
from soka_tf.runs.build_networks import count_trainable
from soka_tf.runs.callbacks.step import FAILURES
from soka_tf.runs.folder import CONFIG_FILE
from soka_tf.runs.gin_text import bindings_of
from soka_tf.runs.movement import MOVEMENT_FILE, StageMovement, read_movement
from soka_tf.runs.next_command import command
from soka_tf.runs.run_evaluation import CURVES_FILE, METRICS_FILE, fixed_batch
from soka_tf.runs.settings import Settings
from soka_tf.runs.strategy import raise_if_worker_lost
from soka_tf.serving.origin import FILE as ORIGIN_FILE
from soka_tf.serving.origin import read_origin
from soka_tf.soka.student import Student
from soka_tf.stack import describe_keras, versions
from soka_tf.tasks import get_task
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher

REPORT_FILE = "report.html"
_STAGE_TITLES = {
    "joint": "Joint start",
    "cycle": "Cycle",
    "cycle_gan": "Cycle with the GAN term",
    "tail": "Decoders alone",
    "tail_gan": "Decoders alone, with the GAN term",
}
_STAGES = {
    "joint": "in the joint start",
    "cycle": "a cycle",
    "cycle_gan": "with GAN",
    "tail": "of decoders alone",
    "tail_gan": "of decoders alone, with GAN",
}
_CHOICE = {"summary": str, "teachers": [str], "similarity": [[Number(float, -2, 2)]]}
_REMEDY = "Restore it."


class Measured(NamedTuple):
    """What was measured, and where from.

    Attributes:
      student: in its trained state.
      teachers: of its tasks.
      data: whose validation images were measured on.
      settings: of the run.
      config: its gin bindings.
      result: the content of evaluation.json.
      devices: where it computed, in words.
    """

    student: Student
    teachers: TeacherPool
    data: Data
    settings: Settings
    config: str
    result: Mapping[str, Any]
    devices: str


def write_report(
    measured: Measured, model_dir: str, folder: str, out_dir: str
) -> Optional[str]:
    """Writes the page of a run; a failure is a warning.

    Args:
      measured: what the page is of.
      model_dir: the run's folder as the user named it, for the commands.
      folder: where the run's files are; the same, but for workers beside the chief.
      out_dir: where evaluation.json and curves.png were written, and the page is.

    Returns:
      The page's path; None if it was not written.
    """
    path = os.path.join(out_dir, REPORT_FILE)
    try:
        page = _gather(measured, model_dir, folder, out_dir)
        write_text(path, report_page.render(page))
    except (UserError, *FAILURES) as error:
        raise_if_worker_lost(error, "After training")
        logging.warning(
            "%s was not written (%s). Nothing else is missing; "
            "`python -m soka_tf.evaluate --model_dir=%s` tries again.",
            path,
            reason(error),
            model_dir,
        )
        return None
    return path


def _gather(
    measured: Measured, model_dir: str, folder: str, out_dir: str
) -> report_page.Page:
    settings, result = measured.settings, measured.result
    batch = fixed_batch(measured.data, settings)
    panel = compute_panel(
        measured.student, measured.teachers.answers, batch, settings.targets
    )
    shown = [s.key for s in spread(measured.data.validation, settings.panel_images)]
    if len(shown) != len(batch["rgb"]):  # one could not be read: which is whose?
        shown = []

    def picture(where: str, name: str, alt: str) -> Optional[report_page.Picture]:
        path = os.path.join(where, name)
        return _if_there(path, lambda: report_page.picture_of_file(path, alt))

    def movements() -> Tuple[report_page.Movement, ...]:
        return tuple(map(_movement, read_movement(moved)))

    moved = os.path.join(folder, MOVEMENT_FILE)
    auxiliary, similarity = _auxiliary(measured, folder, picture)
    return report_page.Page(
        name=os.path.basename(os.path.abspath(model_dir)),
        summary=_summary(measured),
        remarks=_remarks(result),
        table=evaluation_table(result),
        panels=report_page.task_panels(panel, settings.targets, shown),
        curves=picture(
            out_dir, CURVES_FILE, "Losses and task weights over the steps of training"
        ),
        movement=_if_there(moved, movements) or (),
        auxiliary=auxiliary,
        similarity=similarity,
        networks=_networks(measured),
        facts=_facts(measured, folder),
        config=measured.config.strip(),
        commands=_commands(model_dir, settings.export),
    )


def _if_there(path: str, read: Callable[[], Any]) -> Any:
    """What is read from a file; None without it, with a warning if it is damaged."""
    if not os.path.exists(path):
        return None
    try:
        return read()
    except (UserError, OSError) as error:
        logging.warning("The page of the run lacks %s (%s).", path, reason(error))
        return None


def _summary(measured: Measured) -> str:
    tasks = [task.title for task in measured.settings.targets]
    teachers, result = len(measured.teachers.targets), measured.result
    named = tasks[0] if len(tasks) == 1 else f"{', '.join(tasks[:-1])} and {tasks[-1]}"
    learnt = (
        "trained on labels and compared with"
        if measured.settings.by_labels
        else "distilled from"
    )
    return (
        f"One student for {named}, {learnt} "
        f"{counted(teachers, 'teacher')}, after {counted(result['step'], 'step')}; "
        f"measured on {counted(result['images'], 'image')} that it was not trained on."
    )


def _remarks(result: Mapping[str, Any]) -> Tuple[str, ...]:
    if not result["step"]:
        return ("Not trained: no step was taken, the student is as it was built.",)
    poor = barely_trained(result)
    return (poor,) if poor else ()


def _movement(moved: StageMovement) -> report_page.Movement:
    title = _STAGE_TITLES.get(moved.stage, moved.stage)
    return report_page.Movement(
        f"{title}, measured at step {moved.step:,}: change of each player's weights in "
        "a phase, relative to what they were",
        moved.phases,
        tuple(
            (_player(player), tuple(map(_change, changes)))
            for player, changes in moved.rows.items()
        ),
    )


def _player(name: str) -> str:
    """In words: "decoder/normal (statistics)" is that of the task's title."""
    kind, slash, rest = name.partition("/")
    if not slash:
        return name.replace("_", " ")
    task, blank, ending = rest.partition(" ")
    return f"{kind} of {get_task(task).title}{blank}{ending}"


def _change(change: Optional[float]) -> str:
    if change is None:
        return "unknown"
    return f"{100 * change:.2g} %" if change else "rests"


def _auxiliary(
    measured: Measured,
    folder: str,
    picture: Callable[..., Optional[report_page.Picture]],
) -> Tuple[str, Optional[report_page.Similarity]]:
    """Which auxiliary teacher the run has, and how it was chosen, where it was."""
    path = os.path.join(folder, CHOICE_FILE)
    choice = _if_there(path, lambda: _read_choice(path))
    if choice is None:
        titles = [get_task(name).title for name in _named_auxiliaries(measured.config)]
        if titles:
            return f"Named in the configuration: {', '.join(titles)}.", None
        return "The run has none: its configuration names none.", None
    summary, titles, rows = choice
    alt = f"Matrix of the similarities of {', '.join(titles)}"
    shown = picture(folder, "auxiliary.png", alt)
    return summary, report_page.Similarity(shown, titles, rows)


def _read_choice(path: str) -> Tuple[str, Tuple[str, ...], Tuple[Tuple[str, ...], ...]]:
    """The decision as a sentence, the teachers' titles and their similarities."""
    choice = read_json(path, _CHOICE, _REMEDY)
    names, summary = choice["teachers"], choice["summary"]
    return (
        f"{summary[:1].upper()}{summary[1:]}.",
        tuple(get_task(name).title for name in names),
        tuple(
            tuple(f"{value:.2f}" for value in row)
            for row in choice["similarity"][: len(names)]
        ),
    )


def _named_auxiliaries(config: str) -> Sequence[str]:
    bound = bindings_of(config, CONFIG_FILE)
    # Mostly a macro of the same name.
    values = bound.get("select_auxiliary.auxiliary"), bound.get("auxiliary")
    return next((value for value in values if isinstance(value, (list, tuple))), ())


def _networks(measured: Measured) -> Tuple[report_page.Network, ...]:
    side, student = measured.settings.image_size, measured.student
    counted = _multiply_adds(student.encoder, student.ordered_decoders, side)
    rows = [("student", count_trainable(student), counted)]
    pool = measured.teachers
    for role, teachers in (("teacher", pool.targets), ("auxiliary", pool.auxiliaries)):
        for name, teacher in teachers.items():
            counted = None
            if isinstance(teacher, TaskonomyTeacher):
                decoders = [teacher.decoder] if teacher.decoder is not None else []
                counted = _multiply_adds(teacher.encoder, decoders, side)
            title = f"{role} of {get_task(name).title}"
            rows.append((title, teacher.count_parameters(), counted))
    return tuple(
        report_page.Network(
            name, f"{parameters:,}", f"{count / 1e6:,.1f} M" if count else ""
        )
        for name, parameters, count in rows
    )


def _multiply_adds(
    encoder: Any, decoders: Sequence[tf.keras.Model], side: int
) -> Optional[int]:
    """Of one image; None of networks that do not take images of this size."""
    small = math.ceil(side / encoder.output_stride)
    shape = (small, small, encoder.representation_channels)
    try:
        total = total_multiply_adds(encoder, (side, side, encoder.image_channels))
        return total + sum(total_multiply_adds(decoder, shape) for decoder in decoders)
    except ValueError:
        return None


def _facts(measured: Measured, folder: str) -> Tuple[Tuple[str, str], ...]:
    settings, data, found = measured.settings, measured.data, versions()
    side, metrics = settings.image_size, os.path.join(folder, METRICS_FILE)
    # What was measured on may be from elsewhere.
    origin = _if_there(
        os.path.join(folder, ORIGIN_FILE),
        lambda: read_origin(folder, measured.result["step"]),
    )
    images = {"source": data.source, "train": len(data.train)}
    images = origin.images if origin else images
    rows = [
        ("trained on", f"{images['train']:,} images: {images['source']}"),
        ("measured on", f"{measured.result['images']:,} images: {data.measured_on}"),
        ("image size", f"{side} x {side} pixels"),
        ("batch", f"{settings.batch_size} images a step"),
        ("precision", settings.precision),
    ]
    speed = _if_there(metrics, lambda: _seconds_a_step(metrics))
    rows.insert(
        0, ("time of a step", speed or "not known: the run reported too rarely")
    )
    rows += [
        ("device", measured.devices),
        ("soka_tf", found["soka_tf"]),
        ("Python", f"{found['python']}, {platform.system()}"),
        ("TensorFlow", f"{found['tensorflow']}, with {describe_keras()}"),
        ("NumPy", found["numpy"]),
    ]
    return tuple(rows)


def _seconds_a_step(metrics: str) -> str:
    """The median between two rows of each stage, without the steps up to its first."""
    columns, stages = read_columns(metrics)
    steps, seconds = columns.get("seconds", (np.zeros(0), np.zeros(0)))
    each: List[str] = []
    ends = [step for step, _ in stages[1:]] + [np.inf]
    for (begin, stage), end in zip(stages, ends):
        own = (steps > begin) & (steps <= end)
        # Those before the first row are slow: graphs are traced.
        lasted = np.diff(seconds[own]) / np.diff(steps[own])
        lasted = lasted[lasted > 0]  # 0 or less: the run was resumed
        if lasted.size:
            title = _STAGES.get(stage, stage)
            each.append(f"{np.median(lasted):.2g} s {title}")
    return ", ".join(each)


def _commands(model_dir: str, exported: bool) -> Tuple[Tuple[str, str], ...]:
    beside = model_dir.rstrip("/")
    exporting = {"model_dir": model_dir, "export_dir": f"{beside}_export"}
    saved_model = f"{beside}/saved_model" if exported else f"{beside}_export"
    return (
        ("Measure it again:", command("evaluate", model_dir=model_dir)),
        (
            "Export it, for other runtimes, too:",
            command("export", **exporting, format="saved_model,tflite_float16"),
        ),
        (
            "Run it on images of yours"
            + (":" if exported else ", once it has been exported:"),
            command(
                "predict",
                saved_model=saved_model,
                images="path/to/images",
                out_dir=f"{beside}_maps",
            ),
        ),
        ("Look at the curves:", f"tensorboard --logdir={shlex.quote(model_dir)}"),
        ("Go on where it was stopped:", command("train", model_dir=model_dir)),
    )
