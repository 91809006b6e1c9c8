"""Means over seeds, their 95 % intervals, and what may be said of two of them."""

import statistics
from typing import List, NamedTuple, Optional, Sequence

from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
      mean: of the values.
      half_width: of Student's 95 % interval around it; None for a single value.
      values: one a seed.
    """

    mean: float
    half_width: Optional[float]
    values: Sequence[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Optional["Estimate"]:
        """The estimate of these values; None of none."""
        if not values:
            return None
        mean, count = statistics.fmean(values), len(values)
        if count == 1:
            return cls(mean, None, list(values))
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)
        half_width = quantile * statistics.stdev(values) / count**0.5
        return cls(mean, float(half_width), list(values))


def apart(a: Estimate, b: Estimate) -> bool:
    """Whether the intervals of both are known and do not meet."""
    if a.half_width is None or b.half_width is None:
        return False
    return abs(a.mean - b.mean) > a.half_width + b.half_width


def paired_difference(a: Estimate, b: Estimate) -> Optional[Estimate]:
    """The mean of a - b seed by seed; None where they have other numbers of seeds."""
    if len(a.values) != len(b.values):
        return None
    return Estimate.of([x - y for x, y in zip(a.values, b.values)])


HOLDS, LIKELY, OPEN, CONTRADICTED = "yes", "on average", "not told", "no"


def ordering(
    paper: Sequence[Optional[float]], ours: Sequence[Optional[Estimate]], index: int
) -> Optional[str]:
    """Whether one cell stands to the others of its column as it does in the paper.

    Args:
      paper: the column's values in the paper; None where it has none.
      ours: our estimates of the same cells; None where not run.
      index: of the cell in question.

    Returns:
      HOLDS if all other cells that both know lie on the paper's side, their intervals
      apart (ties of the paper say nothing); LIKELY if all means do; CONTRADICTED if an
      interval lies apart on the other side; else OPEN. None if there is no pair.
    """
    verdicts: List[str] = []
    for other in range(len(paper)):
        pair = (paper[index], paper[other], ours[index], ours[other])
        if other == index or any(value is None for value in pair):
            continue
        if paper[index] == paper[other]:
            continue
        below = ours[index].mean < ours[other].mean
        agrees = below == (paper[index] < paper[other])
        if apart(ours[index], ours[other]):
            verdicts.append(HOLDS if agrees else CONTRADICTED)
        else:
            verdicts.append(LIKELY if agrees else OPEN)
    for verdict in (CONTRADICTED, OPEN, LIKELY, HOLDS):
        if verdict in verdicts:
            return verdict
    return None
