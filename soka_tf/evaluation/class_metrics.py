"""Metrics of maps of classes, pooled over all valid pixels of a split.

Every metric is defined in docs/metrics.md; this file is its arithmetic.
"""

from typing import Any, Dict, Mapping, Optional

import numpy as np

from soka_tf.tasks import Task


def pixels_to_count(
    task: Task,
    prediction: np.ndarray,
    reference: np.ndarray,
    valid: Optional[np.ndarray] = None,
) -> np.ndarray:
    """The valid pixels of a batch, bool [B, H, W], an array of its own.

    Args:
      task: whose maps these are.
      prediction: [B, H, W, C].
      reference: [B, H, W, C].
      valid: bool [B, H, W] or [B, H, W, 1]; None for all.

    Raises:
      ValueError: if shapes differ.
    """
    expected = (*np.shape(reference)[:3], task.channels)
    if np.shape(prediction) != expected or np.shape(reference) != expected:
        raise ValueError(
            f"{task.name}: prediction and reference must both be [B, H, W, "
            f"{task.channels}]. Received: {np.shape(prediction)} and "
            f"{np.shape(reference)}."
        )
    if valid is None:
        return np.ones(expected[:3], bool)
    return np.array(valid, bool).reshape(expected[:3])


class ClassAccumulator:
    """Compares the likeliest classes of one task with a reference, batch after batch.

    The counts are whole numbers, so that the result does not depend on how images were
    batched.
    """

    def __init__(self, task: Task):
        self._task = task
        count = task.channels
        # True class, predicted class; behind the last one, a prediction of none.
        self._confusion = np.zeros((count, count + 1), np.int64)
        self._nonfinite_pixels = 0

    def update(
        self,
        prediction: np.ndarray,
        reference: np.ndarray,
        valid: Optional[np.ndarray] = None,
    ) -> None:
        """Adds a batch.

        Args:
          prediction: [B, H, W, C], a probability a class.
          reference: [B, H, W, C]: truth, or another prediction.
          valid: bool [B, H, W] or [B, H, W, 1], pixels to count; None for all.

        Raises:
          ValueError: if shapes differ.
        """
        chosen = pixels_to_count(self._task, prediction, reference, valid)
        predicted, wanted = np.asarray(prediction), np.asarray(reference)
        chosen &= np.isfinite(wanted).all(-1)
        finite = np.isfinite(predicted).all(-1)
        self._nonfinite_pixels += int(np.count_nonzero(chosen & ~finite))
        likeliest = np.where(finite, predicted.argmax(-1), self._task.channels)
        self.count(likeliest[chosen], wanted.argmax(-1)[chosen])

    def count(self, predicted: np.ndarray, wanted: np.ndarray) -> None:
        """Adds pixels by the indices of their classes, two arrays of one shape."""
        rows, columns = self._confusion.shape
        pairs = np.ravel(wanted).astype(np.int64) * columns + np.ravel(predicted)
        counts = np.bincount(pairs, minlength=rows * columns)
        self._confusion += counts.reshape(rows, columns)

    def result(self) -> Optional[Dict[str, Any]]:
        """Returns the task's metrics over everything seen so far.

        Returns:
          Name to value, in the order of `task.metrics`; None if no valid pixel was
          seen. A prediction that was not finite counts as wrong, and the number of such
          pixels stands under "nonfinite_pixels".
        """
        found = self._scores(self._confusion)
        if found and self._nonfinite_pixels:
            found["nonfinite_pixels"] = self._nonfinite_pixels
        return found

    def commonest(self) -> Optional[Dict[str, Any]]:
        """The metrics of the constant answer, the most frequent class of the truth."""
        true = self._confusion.sum(1)
        constant = np.zeros_like(self._confusion)
        constant[:, true.argmax()] = true
        return self._scores(constant)

    def _scores(self, confusion: np.ndarray) -> Optional[Dict[str, Any]]:
        if not confusion.any():
            return None
        right, true = np.diag(confusion), confusion.sum(1)
        there = true > 0
        union = true + confusion.sum(0)[: len(true)] - right
        scores = {
            "accuracy": float(right.sum() / true.sum()),
            "mean_iou": float((right[there] / union[there]).mean()),
        }
        return {name: scores[name] for name in self._task.metrics}


def class_error(metrics: Mapping[str, Any]) -> Optional[float]:
    """What the accuracy, else the mean IoU, lacks of 1; None without either."""
    for name in ("accuracy", "mean_iou"):
        if metrics.get(name) is not None:
            return 1.0 - metrics[name]
    return None
