"""Differences over seeds and rooms: intervals, two one-sided tests, Holm's adjustment.

A statistic is a number a seed, given how often each room counts. Its mean over the
seeds is estimated; seeds and rooms are drawn anew together, crossed, by
`scipy.stats.bootstrap`. What two methods share, seeds and rooms, is paired by giving
the difference as the statistic.
"""

from typing import Callable, List, NamedTuple, Optional, Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 5000
# Two errors whose ratio lies within are called the same.
SAME = (0.99, 1.01)

# [resamples, rooms], how often a room counts -> [resamples, seeds].
Statistic = Callable[[np.ndarray], np.ndarray]


class TwoLevel(NamedTuple):
    """A mean over seeds and rooms.

    Attributes:
      value: as measured.
      error: its standard error; None for a single seed.
      freedom: degrees of freedom of that, by Welch and Satterthwaite.
    """

    value: float
    error: Optional[float]
    freedom: float

    def interval(self, confidence: float = CONFIDENCE) -> Optional[tuple]:
        """Both ends of Student's interval; None without an error."""
        if self.error is None:
            return None
        half = stats.t.ppf(0.5 + confidence / 2, self.freedom) * self.error
        return self.value - half, self.value + half

    def p_above(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the mean is at most `bound`."""
        if not self.error:
            return 1.0 if self.error is None else float(self.value <= bound)
        return float(stats.t.sf((self.value - bound) / self.error, self.freedom))

    def p_difference(self, of: float = 0.0) -> float:
        """Two-sided p-value of the hypothesis that the mean is `of`."""
        if self.error is None:
            return 1.0
        return min(1.0, 2 * min(self.p_above(of), self._mirrored().p_above(-of)))

    def p_same(self, low: float, high: float) -> float:
        """Two one-sided tests: p-value of the mean lying outside of [low, high]."""
        return max(self.p_above(low), self._mirrored().p_above(-high))

    def _mirrored(self) -> "TwoLevel":
        return self._replace(value=-self.value)


def two_level(
    statistic: Statistic, seeds: int, rooms: int, resamples: int = RESAMPLES
) -> TwoLevel:
    """Estimates the mean of a statistic over seeds and rooms.

    A bootstrap of n seeds sees (n - 1) / n of the variance of their mean; the rest is
    added. What seeds and rooms have together counts three times when both are drawn
    (Owen, 2007): where that is much, intervals are too wide rather than too narrow.

    Args:
      statistic: of all seeds.
      seeds: how many there are.
      rooms: how many there are.
      resamples: of the bootstrap.
    """
    by_seed = statistic(np.ones((1, rooms)))[0]
    value = float(by_seed.mean())
    if seeds < 2:
        return TwoLevel(value, None, 0.0)

    def mean(seed: np.ndarray, room: np.ndarray, axis: int = -1) -> np.ndarray:
        values = statistic(_counts(room, rooms))
        return np.take_along_axis(values, seed, axis).mean(axis)

    drawn = stats.bootstrap(
        (np.arange(seeds), np.arange(rooms)),
        mean,
        paired=False,  # seeds and rooms: each drawn for itself
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        batch=500,
        random_state=0,
    )
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    of_rooms = max(drawn.standard_error**2 - of_seeds * (seeds - 1) / seeds, 0.0)
    variance = of_seeds + of_rooms
    terms = of_seeds**2 / (seeds - 1) + of_rooms**2 / max(rooms - 1, 1)
    return TwoLevel(value, variance**0.5, variance**2 / terms if terms else np.inf)


def _counts(room: np.ndarray, rooms: int) -> np.ndarray:
    """How often each room was drawn, [resamples, rooms], from numbers of rooms."""
    offsets = np.arange(len(room))[:, None] * rooms
    drawn = np.bincount((room + offsets).ravel(), minlength=len(room) * rooms)
    return drawn.reshape(len(room), rooms).astype(np.float64)


def holm(p_values: Sequence[float]) -> List[float]:
    """Holm's adjusted p-values, in the order given; at most 1."""
    order = np.argsort(p_values, kind="stable")
    count, least, adjusted = len(p_values), 0.0, [0.0] * len(p_values)
    for place, index in enumerate(order):
        least = max(least, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = float(least)
    return adjusted
