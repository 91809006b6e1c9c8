"""Measures teachers, student and a constant answer by the same code."""

from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Union

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from soka_tf.atomic import write_json
from soka_tf.data import encodings
from soka_tf.errors import UserError
from soka_tf.evaluation.class_metrics import ClassAccumulator
from soka_tf.evaluation.metrics import MetricAccumulator, accumulator_of, skill
from soka_tf.tasks import Task

# Ground truth kept in memory for the median image, per task.
_KEPT_BYTES = 2**28
_MEDIAN_CHUNK_BYTES = 2**25
_CONSTANTS = ("baseline_median", "baseline_commonest_class")


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
    comparisons = {
        task.name: {
            name: accumulator_of(task)
            for name in ("teacher", "student", "student_vs_teacher")
        }
        for task in tasks
    }
    constants = {task.name: _constant_answer(task) for task in tasks if baseline}
    of_teachers = {task.name: _constant_answer(task) for task in tasks if baseline}
    labelled = {task.name: 0 for task in tasks}
    images = 0
    for batch in _progress(dataset, split):
        images += int(batch["rgb"].shape[0])
        outputs = predict(batch["rgb"])
        for task in tasks:
            output = {k: v.numpy() for k, v in outputs[task.name].items()}
            entries = comparisons[task.name]
            entries["student_vs_teacher"].update(output["student"], output["teacher"])
            truth, valid = read_truth(task, batch)
            if truth is None:
                if baseline and not labelled[task.name]:
                    everywhere = np.ones(output["teacher"].shape[:3] + (1,), bool)
                    of_teachers[task.name].update(output["teacher"], everywhere)
                continue
            labelled[task.name] += int(np.count_nonzero(valid.any(axis=(1, 2, 3))))
            entries["teacher"].update(output["teacher"], truth, valid)
            entries["student"].update(output["student"], truth, valid)
            if baseline:
                constants[task.name].update(truth, valid)
    if not images:
        raise UserError(
            f"There is nothing to evaluate: split {split!r} holds no image. "
            "Give more images or a larger validation fraction."
        )
    result = {
        "step": int(step),
        "split": split,
        "images": images,
        "labelled_images": labelled,
        "parameters": {name: int(count) for name, count in parameters.items()},
        "tasks": {},
    }
    for task in tasks:
        entries = {name: m.result() for name, m in comparisons[task.name].items()}
        if baseline:
            constant = constants[task.name]
            entries[constant.name] = constant.result()
            _add_skill(entries)
            if not labelled[task.name]:
                entries[f"{constant.name}_of_teacher"] = of_teachers[task.name].result()
        result["tasks"][task.name] = entries
        _warn_of_nonfinite(task, entries)
    return result


def _add_skill(entries: Mapping[str, Optional[Dict[str, Any]]]) -> None:
    """Adds how much smaller an error is than the constant answer's: 1 is perfect."""
    constant = next(entries[name] for name in _CONSTANTS if name in entries)
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


def _constant_answer(task: Task) -> Union["_MedianImage", "_CommonestClass"]:
    return _CommonestClass(task) if task.has_classes else _MedianImage(task)


class _CommonestClass:
    """The most frequent class of all truths of one task, on these very truths."""

    name = _CONSTANTS[1]

    def __init__(self, task: Task):
        self._truths = ClassAccumulator(task)

    def update(self, truths: np.ndarray, valid: np.ndarray) -> None:
        self._truths.update(truths, truths, valid)

    def result(self) -> Optional[Dict[str, Optional[float]]]:
        return self._truths.commonest()


class _MedianImage:
    """The per-pixel median of all truths of one task, and how far they are from it.

    It has seen the very images it is measured on, which favours it. At most
    `_KEPT_BYTES` of truth are kept; of a larger split every second, fourth, ... image.
    Of a single image it would be that image itself: there is none.
    """

    name = _CONSTANTS[0]

    def __init__(self, task: Task):
        self._task = task
        self._truths = []
        self._stride = 1
        self._seen = 0

    def update(self, truths: np.ndarray, valid: np.ndarray) -> None:
        for truth, mask in zip(truths, valid):
            if not mask.any():
                continue
            if self._seen % self._stride == 0:
                self._truths.append(np.where(mask, truth, np.nan).astype(np.float32))
                if len(self._truths) * self._truths[0].nbytes > _KEPT_BYTES:
                    self._truths = self._truths[::2]
                    self._stride *= 2
            self._seen += 1

    def result(self) -> Optional[Dict[str, Optional[float]]]:
        if len(self._truths) < 2:
            return None
        median = median_image(self._truths)[None]
        measured = MetricAccumulator(self._task)
        for truth in self._truths:
            valid = ~np.isnan(truth).any(axis=-1)[None]
            measured.update(median, truth[None], valid)
        return measured.result()


def median_image(truths: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the per-pixel, per-channel median of images.

    Args:
      truths: images [H, W, C] of one shape, NaN where there is no reading.

    Returns:
      [H, W, C] float32; 0 where no image has a reading.
    """
    rows_bytes = len(truths) * truths[0][:1].nbytes
    rows = max(1, _MEDIAN_CHUNK_BYTES // rows_bytes)
    parts = []
    for start in range(0, len(truths[0]), rows):
        # np.nanmedian does the same pixel by pixel in Python: far slower.
        part = np.sort([truth[start : start + rows] for truth in truths], axis=0)
        count = np.count_nonzero(~np.isnan(part), axis=0)
        lower = np.take_along_axis(part, np.maximum(count - 1, 0)[None] // 2, axis=0)
        upper = np.take_along_axis(part, count[None] // 2 * (count > 0), axis=0)
        parts.append(np.where(count > 0, (lower[0] + upper[0]) / 2, 0.0))
    return np.concatenate(parts).astype(np.float32)


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
