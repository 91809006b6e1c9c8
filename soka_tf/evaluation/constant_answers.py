"""The best of what always answers the same: the median image, the commonest class."""

from typing import Dict, Optional, Sequence, Union

import numpy as np

from soka_tf.evaluation.class_metrics import ClassAccumulator
from soka_tf.evaluation.metrics import MetricAccumulator
from soka_tf.tasks import Task

# Ground truth kept in memory for the median image, per task.
_KEPT_BYTES = 2**28
_MEDIAN_CHUNK_BYTES = 2**25
NAMES = ("baseline_median", "baseline_commonest_class")


def constant_answer(task: Task) -> Union["MedianImage", "CommonestClass"]:
    """The constant answer that fits a task's metrics."""
    return CommonestClass(task) if task.has_classes else MedianImage(task)


class CommonestClass:
    """The most frequent class of all truths of one task, on these very truths."""

    name = NAMES[1]

    def __init__(self, task: Task):
        """Of a task whose map has classes."""
        self._truths = ClassAccumulator(task)

    def update(self, truths: np.ndarray, valid: np.ndarray) -> None:
        """Adds truths [B, H, W, C] at valid [B, H, W, 1] pixels."""
        self._truths.update(truths, truths, valid)

    def result(self) -> Optional[Dict[str, Optional[float]]]:
        """Its metrics; None without any truth."""
        return self._truths.commonest()


class MedianImage:
    """The per-pixel median of all truths of one task, and how far they are from it.

    It has seen the very images it is measured on, which favours it. At most
    `_KEPT_BYTES` of truth are kept; of a larger split every second, fourth, ... image.
    Of a single image it would be that image itself: there is none.
    """

    name = NAMES[0]

    def __init__(self, task: Task):
        """Of a task whose map has values."""
        self._task = task
        self._truths = []
        self._stride = 1
        self._seen = 0

    def update(self, truths: np.ndarray, valid: np.ndarray) -> None:
        """Adds truths [B, H, W, C] at valid [B, H, W, 1] pixels."""
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
        """Its metrics; None without two truths."""
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
