"""How good a teacher is on rooms that it has not seen, beside a constant answer."""

from typing import Any, Dict, Mapping

import numpy as np
import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.data.image_files import RGB
from soka_tf.data.pipeline import preprocess_images
from soka_tf.evaluation.class_metrics import ClassAccumulator
from soka_tf.evaluation.evaluator import evaluate, to_units
from soka_tf.evaluation.metrics import angle_deg
from soka_tf.tasks import Task
from soka_tf.teachers.teacher import Teacher
from tools.teachers.rooms import SEGMENTATION

_BATCH = 64
_NEAREST_M = 0.1  # of a predicted depth, before its logarithm is taken


def measure(
    teacher: Teacher, head: tf.keras.Model, arrays: Mapping[str, np.ndarray]
) -> Dict[str, Any]:
    """Scores of a teacher and of what answers the same for every image.

    Args:
      teacher: as its file is loaded.
      head: that was trained with it; asked where the teacher predicts no image.
      arrays: of `rooms.draw`.

    Returns:
      {"teacher": {metric: value}, "median": {metric: value}}, and "skill" where there
      is an rmse: 1 - rmse / rmse of the median image.
    """
    if not teacher.has_prediction:
        return _directions(teacher, head, arrays)
    if teacher.task.name == SEGMENTATION:
        return _classes(teacher, arrays)
    return _maps(teacher, arrays)


def _maps(teacher: Teacher, arrays: Mapping[str, np.ndarray]) -> Dict[str, Any]:
    task = teacher.task
    result = evaluate(
        lambda images, training: {task.name: teacher(images, ())["prediction"]},
        {task.name: lambda images: teacher(images, ())},
        _labelled(task, arrays),
        [task],
        split="unseen rooms",
        step=0,
        parameters={},
    )["tasks"][task.name]
    scores = {"teacher": result["teacher"], "median": result["baseline_median"]}
    scores["skill"] = scores["teacher"].pop("skill")
    if task.encoding.kind == "log_depth":
        correlation = _gradient_correlation(teacher, arrays)
        scores["teacher"]["gradient_correlation"] = correlation
    return scores


def _labelled(task: Task, arrays: Mapping[str, np.ndarray]) -> tf.data.Dataset:
    """Batches as `labelled_dataset` makes them; every pixel of a room is known."""

    def batch(images, labels):
        there = tf.ones([tf.shape(images)[0]], tf.bool)
        return {
            RGB: _as_input(images),
            task.name: labels,
            "mask": tf.ones_like(labels[..., :1]),
            f"valid/{task.name}": there,
        }

    parts = arrays[RGB], arrays[task.name]
    return tf.data.Dataset.from_tensor_slices(parts).batch(_BATCH).map(batch)


def _answers(teacher: Teacher, arrays: Mapping[str, np.ndarray], output: str):
    """Yields batch by batch what a teacher says, and which rows it was asked of."""
    for start in range(0, len(arrays[RGB]), _BATCH):
        rows = slice(start, start + _BATCH)
        layers = () if output == "prediction" else (output,)
        yield teacher(_as_input(arrays[RGB][rows]), layers)[output], rows


def _as_input(images: Any) -> tf.Tensor:
    """Pixels as networks are shown them; they have the size already."""
    return preprocess_images(images, images.shape[1])


def _gradient_correlation(teacher: Teacher, arrays: Mapping[str, np.ndarray]) -> float:
    """Pearson correlation of the sizes of the gradients of log-depth, over all pixels.

    0 for a map that has nothing of the scene's outlines, however near its depths are.
    """
    task, predicted, wanted = teacher.task, [], []
    for answer, rows in _answers(teacher, arrays, "prediction"):
        depths = np.asarray(to_units(task, answer))
        predicted.append(_gradient_size(depths))
        wanted.append(_gradient_size(encodings.decode(task, arrays[task.name][rows])))
    predicted, wanted = (np.concatenate(v).ravel() for v in (predicted, wanted))
    # The same everywhere, or not finite somewhere: no correlation.
    return float(np.nan_to_num(np.corrcoef(predicted, wanted)[0, 1]))


def _gradient_size(depth: np.ndarray) -> np.ndarray:
    logs = np.log(np.maximum(np.asarray(depth, np.float64)[..., 0], _NEAREST_M))
    down = logs[:, 1:, :-1] - logs[:, :-1, :-1]
    return np.hypot(down, logs[:, :-1, 1:] - logs[:, :-1, :-1])


def _classes(teacher: Teacher, arrays: Mapping[str, np.ndarray]) -> Dict[str, Any]:
    """Share of the pixels with the right class, and the mean IoU of the classes."""
    seen = ClassAccumulator(teacher.task)
    for answer, rows in _answers(teacher, arrays, "prediction"):
        seen.count(np.asarray(tf.argmax(answer, -1)), arrays[SEGMENTATION][rows])
    return {"teacher": seen.result(), "median": seen.commonest()}


def _directions(
    teacher: Teacher, head: tf.keras.Model, arrays: Mapping[str, np.ndarray]
) -> Dict[str, Any]:
    """Mean angle of the three vanishing directions."""
    wanted = np.asarray(arrays[teacher.task.name]).reshape(-1, 3, 3)
    answers = [
        np.asarray(head(representation, training=False))
        for representation, _ in _answers(teacher, arrays, "representation")
    ]
    predicted = np.concatenate(answers).reshape(-1, 3, 3)
    constant = np.broadcast_to(np.median(wanted, axis=0), wanted.shape)
    named = {"teacher": predicted, "median": constant}
    return {
        name: {"mean_angle_deg": float(angle_deg(values, wanted).mean())}
        for name, values in named.items()
    }
