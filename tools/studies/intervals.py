"""Means over seeds, their 95 % intervals, and comparisons of two of them."""

import statistics
from typing import Mapping, NamedTuple, Optional, Sequence

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


HOLDS, LIKELY, OPEN, CONTRADICTED = "yes", "on average", "in noise", "no"
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
      The least favourable verdict of its pairs with cells that both have, without ties
      of the paper: HOLDS if the order is the paper's and the intervals apart; LIKELY if
      the order of the means is; ONE_SEED without an interval; OPEN if the means have
      the other order; CONTRADICTED if the intervals are apart, too. None without pairs.
    """
    verdicts = set()
    for other, printed in enumerate(paper):
        if None in (printed, paper[index], ours[index], ours[other]):
            continue
        if printed == paper[index]:  # itself, or a tie
            continue
        difference = ours[index].mean - ours[other].mean
        agrees = difference * (paper[index] - printed) > 0
        if None in (ours[index].half_width, ours[other].half_width):
            verdicts.add(ONE_SEED)
        elif apart(ours[index], ours[other]):
            verdicts.add(HOLDS if agrees else CONTRADICTED)
        else:
            verdicts.add(LIKELY if agrees else OPEN)
    order = (CONTRADICTED, OPEN, ONE_SEED, LIKELY, HOLDS)
    return next((verdict for verdict in order if verdict in verdicts), None)
