"""Two rows of a table against each other, seed by seed."""

from typing import NamedTuple, Optional, Sequence

from tools.studies.intervals import Estimate, paired_difference


class Finding(NamedTuple):
    """How two rows differ.

    Attributes:
      first: title of a row.
      second: of the other.
      difference: of their mean relative rmse, first - second, over the seeds that both
        have; below 0 the first is better.
      reading: in a word or two.
    """

    first: str
    second: str
    difference: Estimate
    reading: str


def compare(
    titles: Sequence[str], first: Optional[Estimate], second: Optional[Estimate]
) -> Optional[Finding]:
    """Compares the estimates of two rows; None where they have no seed in common.

    Args:
      titles: of the two.
      first: mean relative rmse of the first row; None where it has none.
      second: that of the second.
    """
    if first is None or second is None:
        return None
    if not second.seeds:  # the teachers, the same for every seed
        second = Estimate.of(dict.fromkeys(first.seeds, second.mean))
    difference = second and paired_difference(first, second)
    if difference is None:
        return None
    return Finding(titles[0], titles[1], difference, _reading(difference))


def _reading(difference: Estimate) -> str:
    word = "better" if difference.mean < 0 else "worse"
    if not any(difference.values):
        return "equal"
    if difference.half_width is None:
        return f"{word}, one seed"
    return word if abs(difference.mean) > difference.half_width else "undecided"
