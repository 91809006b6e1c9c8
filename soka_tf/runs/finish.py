"""A run from where it stands to its end: trained, measured, exported."""

import dataclasses
import os
from typing import Any, Sequence

from absl import logging

from soka_tf.errors import counted
from soka_tf.evaluation.table import format_table
from soka_tf.runs.auxiliary import log_selection
from soka_tf.runs.build_run import Run
from soka_tf.runs.callbacks.draw_panels import PanelCallback
from soka_tf.runs.folder import open_folder, training_in
from soka_tf.runs.next_command import export_command, predict_command
from soka_tf.runs.report import REPORT_FILE, Measured, write_report
from soka_tf.runs.run_evaluation import evaluate_run, fixed_batch
from soka_tf.runs.run_origin import origin_of
from soka_tf.runs.strategy import describe_devices, describe_machine
from soka_tf.runs.training_loop import train
from soka_tf.serving.origin import write_origin
from soka_tf.serving.saved_model import export_student


def complete(run: Run, model_dir: str, callbacks: Sequence[Any] = ()) -> str:
    """Trains a run to its last step, measures it and exports its student.

    Args:
      run: of `soka_tf.runs.build_run.build_run`.
      model_dir: the run's folder.
      callbacks: Keras callbacks beside the run's own.

    Returns:
      Its table and where everything is, as text.

    Raises:
      UserError: if another process trains there, and as `train`.
    """
    with training_in(model_dir):
        return _complete(run, model_dir, callbacks)


def _complete(run: Run, model_dir: str, callbacks: Sequence[Any]) -> str:
    folder = run.output_dir  # the run's, but for workers beside the chief
    writer = open_folder(model_dir, run.config, run.fingerprints, folder)
    log_selection(run.selection, folder, writer)
    settings, student = run.settings, run.model.student
    panels = PanelCallback(
        student,
        run.model.teachers.answers,
        fixed_batch(run.data, settings),
        settings.targets,
        os.path.join(folder, "panels"),
        settings.panel_every_steps,
        writer,
    )
    origin = origin_of(run)
    write_origin(origin, folder)
    train(run, model_dir, [panels, *callbacks], writer)
    count = counted(len(run.data.validation), "image")
    logging.info("Measuring teachers and student on %s ...", count)
    result = evaluate_run(run, folder)
    export_dir = os.path.join(folder, "saved_model")
    following = export_command(model_dir)
    if settings.export:
        following = predict_command(export_dir, run.data.validation)
    heading = (
        "Next (--images may be other photographs):" if settings.export else "Next:"
    )
    lines = ["", format_table(result), "", heading, f"  {following}"]
    lines += [
        "",
        f"Everything is in {model_dir}:",
        f"  pictures      {os.path.join(model_dir, 'panels')}, "
        f"{os.path.join(model_dir, 'curves.png')}",
        f"  TensorBoard   tensorboard --logdir={model_dir}",
    ]
    if settings.export:
        logging.info("Exporting the student ...")
        export_student(
            student,
            settings.targets,
            settings.image_size,
            export_dir,
            settings.antialias,
            settings.export_precision,
            dataclasses.replace(origin, step=result["step"], metrics=result),
        )
        lines.append(f"  SavedModel    {export_dir}")
    measured = Measured(
        student,
        run.model.teachers,
        run.data,
        settings,
        run.config,
        result,
        _devices(run),
    )
    page = write_report(measured, model_dir, folder, folder)
    if page is not None:
        lines.append(f"  all on a page {os.path.join(model_dir, REPORT_FILE)}")
    return "\n".join(lines)


def _devices(run: Run) -> str:
    if run.strategy.num_replicas_in_sync == 1:
        return describe_machine()
    return describe_devices(run.strategy, run.settings.batch_size)
