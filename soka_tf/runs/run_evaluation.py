"""A run's evaluation: its validation images, its pictures, evaluation.json."""

import os
from typing import Any, Dict, Mapping, Optional

import tensorflow as tf
from absl import logging

from soka_tf.data.pipeline import Batches, labelled_dataset
from soka_tf.data.samples import Data, spread
from soka_tf.errors import UserError
from soka_tf.evaluation.curves import draw_curves
from soka_tf.evaluation.evaluator import evaluate, write_evaluation
from soka_tf.runs.build_networks import count_trainable
from soka_tf.runs.build_run import Run, build_schedule
from soka_tf.runs.settings import Settings
from soka_tf.serving.origin import read_origin, without_folders
from soka_tf.soka.student import Student
from soka_tf.teachers.pool import TeacherPool

EVALUATION_FILE = "evaluation.json"
CURVES_FILE = "curves.png"
METRICS_FILE = "metrics.csv"


def fixed_batch(data: Data, settings: Settings) -> Mapping[str, tf.Tensor]:
    """The validation images of the panels, spread evenly and always the same."""
    samples = spread(data.validation, settings.panel_images)
    dataset = labelled_dataset(
        samples,
        settings.targets,
        Batches(settings.image_size, len(samples), settings.antialias),
    )
    return next(iter(dataset))


def evaluate_run(run: Run, model_dir: str) -> Dict[str, Any]:
    """Measures a trained run on its validation images; see `evaluate_student`."""
    return evaluate_student(
        run.model.student,
        run.model.teachers,
        run.data,
        run.settings,
        int(run.model.step.numpy()),
        model_dir,
    )


def evaluate_student(
    student: Student,
    teachers: TeacherPool,
    data: Data,
    settings: Settings,
    step: int,
    model_dir: str,
    out_dir: Optional[str] = None,
) -> Dict[str, Any]:
    """Measures student and teachers; writes evaluation.json and curves.png.

    Args:
      student: in its trained state.
      teachers: of its tasks.
      data: whose validation images are measured on.
      settings: of the run.
      step: that the student has come to.
      model_dir: the run's folder, with metrics.csv.
      out_dir: where both are written, made if need be; None for `model_dir`.

    Returns:
      The content of evaluation.json: of `soka_tf.evaluation.evaluator.evaluate`, and
      "source", where the images come from, in words, if they are not the run's own.
    """
    origin = read_origin(model_dir, step)  # what is damaged is refused before minutes
    dataset = labelled_dataset(
        data.validation,
        settings.targets,
        Batches(
            settings.image_size, settings.evaluation_batch_size, settings.antialias
        ),
    )
    result = evaluate(
        student,
        teachers.answers,
        dataset,
        settings.targets,
        split="validation",
        step=step,
        parameters={
            "teachers": teachers.count_parameters(),
            "smallest_teacher": teachers.count_smallest(),
            "student": count_trainable(student),
        },
    )
    out_dir = out_dir or model_dir
    os.makedirs(out_dir, exist_ok=True)
    source = without_folders(data.measured_on)
    if origin is not None and source != origin.measured_on:
        result["source"] = source
    write_evaluation(os.path.join(out_dir, EVALUATION_FILE), result)
    metrics = os.path.join(model_dir, METRICS_FILE)
    if os.path.exists(metrics):
        curves = os.path.join(out_dir, CURVES_FILE)
        try:
            draw_curves(metrics, curves, build_schedule(settings).settle_step)
        except UserError as error:  # such as of a run that was stopped very early
            logging.warning("%s was not drawn: %s", curves, error)
    return result
