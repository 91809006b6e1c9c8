"""Streaming metrics in physical units, pooled over all valid pixels of a split.

Every metric is defined in docs/metrics.md; this file is its arithmetic.
"""

from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

from soka_tf.evaluation.class_metrics import (
    ClassAccumulator,
    class_error,
    pixels_to_count,
)
from soka_tf.tasks import Task

_DELTA_BASE = 1.25
_DELTAS = {"delta1": 1, "delta2": 2, "delta3": 3}
_RATIOS = {"rel", "log_rmse", *_DELTAS}
_ERRORS = ("rmse", "mean_absolute_error", "mean_angle_deg")


def accumulator_of(task: Task) -> Union["MetricAccumulator", ClassAccumulator]:
    """What compares maps of a task: of values, or of classes."""
    return ClassAccumulator(task) if task.has_classes else MetricAccumulator(task)


def main_error(metrics: Optional[Mapping[str, Any]]) -> Optional[float]:
    """The error that a skill is of, the first that there is.

    Args:
      metrics: of `result`: rmse, mean absolute error, mean angle, or of classes the
        share of wrong pixels, or what the mean IoU lacks of 1; None for none.
    """
    metrics = metrics or {}
    for name in _ERRORS:
        if name in metrics:
            return metrics[name]
    return class_error(metrics)


def skill(
    metrics: Optional[Mapping[str, Any]], constant: Optional[Mapping[str, Any]]
) -> Optional[float]:
    """How much smaller an error is than a constant answer's: 1 is perfect.

    Args:
      metrics: of `result`.
      constant: those of the constant answer, against the same reference.

    Returns:
      At most 1; None where an error is missing, or the constant answer has none.
    """
    error, trivial = main_error(metrics), main_error(constant)
    return 1.0 - error / trivial if error is not None and trivial else None


class MetricAccumulator:
    """Compares maps of one task with a reference, batch after batch.

    Sums are kept in float64 over all valid pixels and channels of everything seen,
    so that the result does not depend on how images were batched, and every pixel
    counts alike whichever image it is in.
    """

    def __init__(self, task: Task):
        self._task = task
        self._pixels = 0
        self._nonfinite_pixels = 0
        self._squared = 0.0
        self._absolute = 0.0
        self._relative = 0.0
        self._squared_log = 0.0
        self._inside = dict.fromkeys(_DELTAS, 0)
        self._angle_deg = 0.0

    def update(
        self,
        prediction: np.ndarray,
        reference: np.ndarray,
        valid: Optional[np.ndarray] = None,
    ) -> None:
        """Adds a batch.

        Args:
          prediction: [B, H, W, C] in the task's unit.
          reference: [B, H, W, C] in the task's unit: truth, or another prediction.
          valid: bool [B, H, W] or [B, H, W, 1], pixels to count; None for all.

        Raises:
          ValueError: if shapes differ.
        """
        chosen = pixels_to_count(self._task, prediction, reference, valid)
        predicted = np.asarray(prediction, np.float64)
        wanted = np.asarray(reference, np.float64)
        finite = np.isfinite(predicted).all(-1) & np.isfinite(wanted).all(-1)
        self._nonfinite_pixels += int(np.count_nonzero(chosen & ~finite))
        self._pixels += int(np.count_nonzero(chosen))
        # [pixels, C] from here on.
        predicted, wanted = predicted[chosen & finite], wanted[chosen & finite]
        self._squared += float(np.sum((predicted - wanted) ** 2))
        self._absolute += float(np.sum(np.abs(predicted - wanted)))
        if _RATIOS & set(self._task.metrics):  # others may have values around 0
            self._add_ratios(predicted, wanted)
        if "mean_angle_deg" in self._task.metrics:
            self._angle_deg += float(np.sum(angle_deg(predicted, wanted)))

    def _add_ratios(self, predicted: np.ndarray, wanted: np.ndarray) -> None:
        # Both are shifted and raised to the floor: a ratio is undefined at zero.
        shift, floor = self._task.ratio_shift, self._task.ratio_floor
        predicted = np.maximum(predicted + shift, floor)
        wanted = np.maximum(wanted + shift, floor)
        self._relative += float(np.sum(np.abs(predicted - wanted) / wanted))
        self._squared_log += float(np.sum(np.log(predicted / wanted) ** 2))
        ratio = np.maximum(predicted / wanted, wanted / predicted)
        for name, power in _DELTAS.items():
            self._inside[name] += int(np.count_nonzero(ratio < _DELTA_BASE**power))

    def result(self) -> Optional[Dict[str, Optional[float]]]:
        """Returns the task's metrics over everything seen so far.

        Returns:
          Name to value, in the order of `task.metrics`; None if no valid pixel was
          seen. If a prediction was not finite, errors (rmse, rel, log_rmse,
          mean_absolute_error, mean_angle_deg) are None, such pixels count as outside
          every delta, and their number stands under "nonfinite_pixels".
        """
        if not self._pixels:
            return None
        values = self._pixels * self._task.channels
        metrics = {
            "rmse": (self._squared / values) ** 0.5,
            "rel": self._relative / values,
            "log_rmse": (self._squared_log / values) ** 0.5,
            "mean_absolute_error": self._absolute / values,
            "mean_angle_deg": self._angle_deg / self._pixels,
        }
        if self._nonfinite_pixels:
            metrics = dict.fromkeys(metrics)
        for name, inside in self._inside.items():
            metrics[name] = inside / values
        chosen = {name: metrics[name] for name in self._task.metrics}
        if self._nonfinite_pixels:
            chosen["nonfinite_pixels"] = self._nonfinite_pixels
        return chosen


def angle_deg(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the angle between vectors of any length.

    Args:
      first: [..., 3].
      second: [..., 3].

    Returns:
      [...] degrees in [0, 180]; 90 where a vector has no length.
    """
    # atan2 keeps its precision at small angles, where arccos loses it.
    cross = np.linalg.norm(np.cross(first, second), axis=-1)
    dot = np.sum(np.asarray(first) * second, axis=-1)
    undefined = (cross == 0) & (dot == 0)
    return np.where(undefined, 90.0, np.degrees(np.arctan2(cross, dot)))
