"""Trains a multi-talent student from frozen teachers, without annotations.

For example

    python -m soka_tf.train --gin_file=gin/rooms/demo.gin --model_dir=runs/demo

leaves in runs/demo: checkpoints, TensorBoard events, metrics.csv, curves.png, panels/,
evaluation.json, operative_config.gin and saved_model/. Called again, it goes on where
it was stopped. With --dry_run it prints what it would do, and stops.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Sequence

from absl import flags, logging

from soka_tf import cli

if TYPE_CHECKING:
    from soka_tf.training.run import Run

FLAGS = flags.FlagValues()
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "gin files, later ones win; repeatable", flag_values=FLAGS
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], 'single bindings: "max_steps = 500"', flag_values=FLAGS
)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "folder of the run", required=True, flag_values=FLAGS
)
_TEACHERS_DIR = flags.DEFINE_string(
    "teachers_dir",
    None,
    "folder of <task>.safetensors; short for the binding teachers_dir",
    flag_values=FLAGS,
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "print configuration, sizes and files only", flag_values=FLAGS
)


def main() -> None:
    """Builds, trains, evaluates and exports."""
    from soka_tf.training.config import parse_gin
    from soka_tf.training.dry_run import describe
    from soka_tf.training.folder import CONFIG_FILE
    from soka_tf.training.strategy import lost_workers

    model_dir = os.path.expanduser(_MODEL_DIR.value)
    stored = os.path.join(model_dir, CONFIG_FILE)
    resumed = [stored] if os.path.isfile(stored) else []
    params = list(_GIN_PARAM.value)
    if _TEACHERS_DIR.value is not None:
        params.append(f"teachers_dir = {os.path.expanduser(_TEACHERS_DIR.value)!r}")
    parse_gin([*resumed, *_GIN_FILE.value], params)
    if _DRY_RUN.value:
        print(describe())
        return

    with lost_workers("Before or after training"):
        _train(model_dir)


def _train(model_dir: str) -> None:
    from soka_tf.training.config import unused_bindings
    from soka_tf.training.run import build_run

    logging.info("Loading teachers, finding or drawing images ...")
    run = build_run(model_dir)
    for name in unused_bindings():
        logging.warning("The binding %s is used by nothing in this run.", name)
    print(complete(run, model_dir))


def complete(run: Run, model_dir: str, callbacks: Sequence[Any] = ()) -> str:
    """Trains a run to its last step, measures it and exports its student.

    Args:
      run: of `soka_tf.training.run.build_run`.
      model_dir: the run's folder.
      callbacks: Keras callbacks beside the run's own.

    Returns:
      Its table and where everything is, as text.
    """
    from soka_tf.evaluation.panels import PanelCallback
    from soka_tf.evaluation.report import format_table
    from soka_tf.evaluation.run import evaluate_run, fixed_batch
    from soka_tf.evaluation.similarity_figure import log_selection
    from soka_tf.serving.saved_model import export_student
    from soka_tf.training.folder import claim, summary_writer
    from soka_tf.training.train import train

    folder = run.output_dir  # the run's, but for workers beside the chief
    claim(model_dir, run.config, folder == model_dir)
    writer = summary_writer(folder)
    log_selection(run.selection, folder, writer)
    settings, student = run.settings, run.model.student
    panels = PanelCallback(
        student,
        run.model.teachers.targets,
        fixed_batch(run),
        settings.targets,
        os.path.join(folder, "panels"),
        settings.panel_every_steps,
        writer,
    )
    train(run, model_dir, [panels, *callbacks], writer)
    logging.info(
        "Measuring teachers and student on %d images ...", len(run.data.validation)
    )
    result = evaluate_run(run, folder)
    lines = ["", format_table(result), "", f"Everything is in {model_dir}:"]
    lines += [
        f"  pictures      {os.path.join(model_dir, 'panels')}, "
        f"{os.path.join(model_dir, 'curves.png')}",
        f"  TensorBoard   tensorboard --logdir={model_dir}",
    ]
    if settings.export:
        logging.info("Exporting the student ...")
        export_dir = os.path.join(folder, "saved_model")
        export_student(
            student,
            settings.targets,
            settings.image_size,
            export_dir,
            settings.antialias,
            settings.export_precision,
        )
        lines.append(f"  SavedModel    {export_dir}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, FLAGS)
