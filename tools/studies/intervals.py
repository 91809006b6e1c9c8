"""Means over seeds, their 95 % intervals, and what may be said of two of them."""

import statistics
from typing import List, Mapping, NamedTuple, Optional, Sequence

from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
      mean: of the values.
      half_width: of Student's 95 % interval around it; None for a single value.
      values: one a seed.
      seeds: whose values these are.
    """

    mean: float
    half_width: Optional[float]
    values: Sequence[float]
    seeds: Sequence[int] = ()

    @classmethod
    def of(cls, by_seed: Mapping[int, float]) -> Optional["Estimate"]:
        """The estimate of these values, by their seed; None of none."""
        if not by_seed:
            return None
        seeds, values = list(by_seed), list(by_seed.values())
        mean, count = statistics.fmean(values), len(values)
        if count == 1:
            return cls(mean, None, values, seeds)
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)
        half_width = quantile * statistics.stdev(values) / count**0.5
        return cls(mean, float(half_width), values, seeds)


def apart(a: Estimate, b: Estimate) -> bool:
    """Whether the intervals of both are known and do not meet."""
    if a.half_width is None or b.half_width is None:
        return False
    return abs(a.mean - b.mean) > a.half_width + b.half_width


def paired_difference(a: Estimate, b: Estimate) -> Optional[Estimate]:
    """The mean of a - b over the seeds that both have; None without any."""
    others = dict(zip(b.seeds, b.values))
    return Estimate.of(
        {s: value - others[s] for s, value in zip(a.seeds, a.values) if s in others}
    )


HOLDS, LIKELY, OPEN, CONTRADICTED = "yes", "on average", "not told", "no"
ONE_SEED = "one seed"


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
      interval lies apart on the other side; else OPEN. ONE_SEED where a cell of a pair
      has no interval and no other pair says less. None if there is no pair.
    """
    verdicts: List[str] = []
    for other in range(len(paper)):
        pair = (paper[index], paper[other], ours[index], ours[other])
        if other == index or any(value is None for value in pair):
            continue
        if paper[index] == paper[other]:
            continue
        if None in (ours[index].half_width, ours[other].half_width):
            verdicts.append(ONE_SEED)
            continue
        difference = ours[index].mean - ours[other].mean
        agrees = difference * (paper[index] - paper[other]) > 0
        if apart(ours[index], ours[other]):
            verdicts.append(HOLDS if agrees else CONTRADICTED)
        else:
            verdicts.append(LIKELY if agrees else OPEN)
    for verdict in (CONTRADICTED, OPEN, ONE_SEED, LIKELY, HOLDS):
        if verdict in verdicts:
            return verdict
    return None
