"""Squared errors of a run's maps, room by room: all that its statistics need."""

import time
from typing import Any, Callable, Dict, List, Mapping, Sequence

import numpy as np
import tensorflow as tf

from soka_tf.data.encodings import to_network_range
from soka_tf.data.pipeline import Batches, labelled_dataset
from soka_tf.data.samples import Sample
from soka_tf.errors import UserError
from soka_tf.evaluation.constant_answers import median_image
from soka_tf.evaluation.evaluator import read_truth, to_units
from soka_tf.tasks import Task
from tools.studies.comparison.run_records import NOT_FINITE

# Of sums in records: their errors are then below 1e-6 of them.
_DIGITS = 7

Sums = Dict[str, Dict[str, List[float]]]
Predict = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


class RoomSums:
    """Sums over the pixels with a truth, of each room (samples of one `point`)."""

    def __init__(self, samples: Sequence[Sample], tasks: Sequence[Task]):
        self._points = list(dict.fromkeys(sample.point for sample in samples))
        number = {point: i for i, point in enumerate(self._points)}
        self._rooms = np.array([number[sample.point] for sample in samples])
        self._tasks = tasks
        shape = len(self._points)
        self._sums = {
            task.name: {
                name: np.zeros(shape) for name in ("pixels", "units", "network")
            }
            for task in tasks
        }

    def measure(
        self, predict: Predict, dataset: tf.data.Dataset, what: str
    ) -> "RoomSums":
        """Adds all batches of `labelled_dataset` of the samples, in their order.

        Args:
          predict: images -> task name -> map in the network's range.
          dataset: of the samples.
          what: predicts, for errors.

        Raises:
          UserError: if a prediction is not finite where there is a truth.
        """
        seen = 0
        for batch in dataset:
            rooms = self._rooms[seen : seen + len(batch["rgb"])]
            seen += len(rooms)
            maps = predict(batch["rgb"])
            for task in self._tasks:
                truth, valid = read_truth(task, batch)
                if truth is None:
                    continue
                found, wanted = maps[task.name], np.asarray(batch[task.name])
                errors = {
                    "pixels": np.ones_like(truth, np.float64),
                    "units": np.asarray(to_units(task, found), np.float64) - truth,
                    "network": np.asarray(found, np.float64) - wanted,
                }
                for name, error in errors.items():
                    counted = np.square(np.where(valid, error, 0.0)).sum((1, 2, 3))
                    if not np.isfinite(counted).all():
                        raise UserError(
                            f"{what}: answers of {task.name} were {NOT_FINITE}."
                        )
                    np.add.at(self._sums[task.name][name], rooms, counted)
        return self

    def errors(self) -> Sums:
        """Task -> squared errors summed by room, in "units" and "network" range."""
        return {
            task: {name: _rounded(sums[name]) for name in ("units", "network")}
            for task, sums in self._sums.items()
        }

    def pixels(self) -> Dict[str, List[int]]:
        """Task -> values with a truth in each room."""
        return {
            task: sums["pixels"].astype(int).tolist()
            for task, sums in self._sums.items()
        }

    @property
    def rooms(self) -> List[str]:
        """The rooms, in the order of all lists."""
        return self._points


def student_sums(run: Any) -> Sums:
    """The sums of a trained run on its validation images."""
    student, samples = run.model.student, run.data.validation
    predict = tf.function(lambda images: student(images, training=False))
    sums = RoomSums(samples, run.settings.targets)
    return sums.measure(predict, _dataset(run), "The student").errors()


def reference_sums(run: Any) -> Dict[str, Any]:
    """The same of a run's teachers and of the median image of its validation images.

    Returns:
      "rooms", "pixels", sums of "teacher" and "median", and the CPU seconds an image
      that the teachers took.
    """
    samples, tasks = run.data.validation, run.settings.targets
    answers = {task.name: run.model.teachers.answers[task.name] for task in tasks}
    predict = tf.function(
        lambda images: {name: a(images)["prediction"] for name, a in answers.items()}
    )
    teacher = RoomSums(samples, tasks)
    teacher.measure(predict, _dataset(run), "A teacher")
    medians = _medians(_dataset(run), tasks)
    median = RoomSums(samples, tasks)
    median.measure(lambda images: medians, _dataset(run), "The median image")
    return {
        "rooms": teacher.rooms,
        "pixels": teacher.pixels(),
        "teacher": teacher.errors(),
        "median": median.errors(),
        "teachers_cpu_seconds_an_image": _seconds_an_image(predict, _dataset(run)),
    }


def _dataset(run: Any) -> tf.data.Dataset:
    settings = run.settings
    batches = Batches(
        settings.image_size, settings.evaluation_batch_size, settings.antialias
    )
    return labelled_dataset(run.data.validation, settings.targets, batches)


def _medians(dataset: tf.data.Dataset, tasks: Sequence[Task]) -> Dict[str, np.ndarray]:
    """Task -> the median image of all truths (docs/metrics.md), network range."""
    truths: Dict[str, List[np.ndarray]] = {task.name: [] for task in tasks}
    for batch in dataset:
        for task in tasks:
            truth, valid = read_truth(task, batch)
            if truth is not None:
                truths[task.name].extend(np.where(valid, truth, np.nan))
    return {
        task.name: to_network_range(task, median_image(truths[task.name])[None])
        for task in tasks
        if truths[task.name]
    }


def _seconds_an_image(predict: Predict, dataset: tf.data.Dataset) -> float:
    """CPU seconds of the fastest of some full batches, the first, traced, left out."""
    seconds = []
    for batch in dataset.take(10):
        images = batch["rgb"]
        start = time.process_time()
        predict(images)
        seconds.append((time.process_time() - start) / len(images))
    return float(f"{min(seconds):.3g}")


def _rounded(sums: np.ndarray) -> List[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in sums]
