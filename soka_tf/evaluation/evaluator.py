"""Measures teachers, student and a constant answer by the same code."""

from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from soka_tf.atomic import write_json
from soka_tf.data import encodings
from soka_tf.errors import UserError
from soka_tf.evaluation import constant_answers
from soka_tf.evaluation.metrics import accumulator_of, skill
from soka_tf.tasks import Task


def evaluate(
    student: Callable,
    teachers: Mapping[str, Callable],
    dataset: tf.data.Dataset,
    tasks: Sequence[Task],
    split: str,
    step: int,
    parameters: Mapping[str, int],
    baseline: bool = True,
) -> Dict[str, Any]:
    """Measures a student and its teachers against ground truth and each other.

    Args:
      student: images [B, S, S, 3] float32 in [-1, 1], training=False -> task name to
        prediction [B, S, S, C] in the network's range.
      teachers: task name -> (images -> dict with "prediction", as above).
      dataset: batches of `soka_tf.data.pipeline.labelled_dataset`.
      tasks: the tasks to measure.
      split: the split's name, for the report.
      step: the training step of the student, for the report.
      parameters: trainable parameters of "teachers" together, of the
        "smallest_teacher" and of the "student", for the report.
      baseline: whether to measure the median image of the split's own truth, or its
        commonest class.

    Returns:
      The content of evaluation.json, with plain Python values: "step", "split",
      "images", "labelled_images" per task, "parameters" and, per task, "teacher",
      "student", "baseline_median", of classes "baseline_commonest_class" (against
      truth; None without labels), and "student_vs_teacher", each with the task's
      metrics (docs/metrics.md); "teacher" and "student" with "skill" where there is a
      baseline. Without any label of a task also the constant answer of its teacher's
      maps against these, "baseline_median_of_teacher".

    Raises:
      UserError: if a teacher is missing or the split is empty.
    """
    missing = [task.name for task in tasks if task.name not in teachers]
    if missing:
        raise UserError(
            f"No teacher was given for {', '.join(missing)}. "
            f"Received teachers: {', '.join(teachers) or 'none'}."
        )
    predict = _prediction_function(student, teachers, dataset, tasks)
    measured = {task.name: _Measured(task, baseline) for task in tasks}
    images = 0
    for batch in _progress(dataset, split):
        images += int(batch["rgb"].shape[0])
        for name, output in predict(batch["rgb"]).items():
            output = {who: maps.numpy() for who, maps in output.items()}
            measured[name].update(output, batch)
    if not images:
        raise UserError(
            f"There is nothing to evaluate: split {split!r} holds no image. "
            "Give more images or a larger validation fraction."
        )
    return {
        "step": int(step),
        "split": split,
        "images": images,
        "labelled_images": {name: m.labelled for name, m in measured.items()},
        "parameters": {name: int(count) for name, count in parameters.items()},
        "tasks": {name: m.entries() for name, m in measured.items()},
    }


class _Measured:
    """The errors of one task, of all who answer, over a split's batches.

    Attributes:
      labelled: how many images had a label so far.
    """

    def __init__(self, task: Task, baseline: bool):
        self._task = task
        self._comparisons = {
            name: accumulator_of(task)
            for name in ("teacher", "student", "student_vs_teacher")
        }
        self._baseline = baseline
        self._constant = constant_answers.constant_answer(task)
        self._of_teacher = constant_answers.constant_answer(task)
        self.labelled = 0

    def update(
        self, output: Mapping[str, np.ndarray], batch: Mapping[str, tf.Tensor]
    ) -> None:
        """Adds a batch: maps of "student" and "teacher" in units, and its labels."""
        student, teacher = output["student"], output["teacher"]
        self._comparisons["student_vs_teacher"].update(student, teacher)
        truth, valid = read_truth(self._task, batch)
        if truth is None:
            if self._baseline and not self.labelled:
                everywhere = np.ones(teacher.shape[:3] + (1,), bool)
                self._of_teacher.update(teacher, everywhere)
            return
        self.labelled += int(np.count_nonzero(valid.any(axis=(1, 2, 3))))
        self._comparisons["teacher"].update(teacher, truth, valid)
        self._comparisons["student"].update(student, truth, valid)
        if self._baseline:
            self._constant.update(truth, valid)

    def entries(self) -> Dict[str, Optional[Dict[str, Any]]]:
        """The task's part of evaluation.json."""
        entries = {name: m.result() for name, m in self._comparisons.items()}
        if self._baseline:
            name = self._constant.name
            entries[name] = self._constant.result()
            _add_skill(entries)
            if not self.labelled:
                entries[f"{name}_of_teacher"] = self._of_teacher.result()
        _warn_of_nonfinite(self._task, entries)
        return entries


def _add_skill(entries: Mapping[str, Optional[Dict[str, Any]]]) -> None:
    """Adds how much smaller an error is than the constant answer's: 1 is perfect."""
    constant = next(entries[name] for name in constant_answers.NAMES if name in entries)
    for name in ("teacher", "student"):
        entry = entries[name]
        if entry is not None:
            entry["skill"] = skill(entry, constant)


def _prediction_function(student, teachers, dataset, tasks) -> Callable:
    """Returns one graph: images -> task name -> {"teacher", "student"} in units."""
    images = dataset.element_spec["rgb"].shape
    # Any batch size: the last batch of a split may be small.
    signature = tf.TensorSpec([None, *images[1:]], tf.float32)

    @tf.function(input_signature=[signature], autograph=False)
    def predict(images):
        predictions = student(images, training=False)
        return {
            task.name: {
                "student": to_units(task, predictions[task.name]),
                "teacher": to_units(task, teachers[task.name](images)["prediction"]),
            }
            for task in tasks
        }

    return predict


def to_units(task: Task, prediction: tf.Tensor) -> tf.Tensor:
    """A prediction in the task's unit, float32 [B, H, W, C]."""
    # float32 first: under mixed precision a network may predict in 16 bits.
    return encodings.decode(task, tf.cast(prediction, tf.float32))


def read_truth(task: Task, batch: Mapping[str, tf.Tensor]):
    """Returns the truth of a batch in physical units and which pixels count.

    Args:
      task: the task.
      batch: an element of `soka_tf.data.pipeline.labelled_dataset`.

    Returns:
      truth [B, H, W, C] float32 and valid bool [B, H, W, 1]; (None, None) if no
      image of the batch has a label of this task.
    """
    if task.name not in batch or not np.any(batch[f"valid/{task.name}"]):
        return None, None
    truth = np.asarray(encodings.decode(task, np.asarray(batch[task.name])), np.float32)
    valid = np.asarray(batch[f"valid/{task.name}"], bool)[:, None, None, None]
    if task.masked:
        valid = valid & (np.asarray(batch["mask"]) > 0)
    else:
        valid = np.broadcast_to(valid, truth.shape[:3] + (1,))
    if task.encoding is not None and task.encoding.gaps:
        valid = valid & np.isfinite(truth).all(-1, keepdims=True)
    return truth, valid


def _progress(dataset, split: str):
    total = int(dataset.cardinality())
    return tqdm(
        dataset,
        desc=f"evaluating {split}",
        total=total if total >= 0 else None,
        unit="batch",
        leave=False,
        disable=None,
    )


def _warn_of_nonfinite(task: Task, entries: Mapping[str, Optional[dict]]) -> None:
    for name, entry in entries.items():
        count = (entry or {}).get("nonfinite_pixels", 0)
        if count:
            logging.warning(
                "%s, %s: %d pixels are not finite; errors are undefined and such "
                "pixels count as wrong.",
                task.name,
                name,
                count,
            )


def write_evaluation(path: str, result: Mapping[str, Any]) -> None:
    """Writes an evaluation as JSON, completely or not at all.

    Args:
      path: the file to write or replace; its folder is made if need be.
      result: what `evaluate` returned.

    Raises:
      ValueError: if a value is NaN or infinite, which JSON cannot hold.
    """
    write_json(path, result, indent=2)
