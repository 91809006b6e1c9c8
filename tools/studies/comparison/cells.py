"""Estimates of the comparison as its tables print them."""

import math
from typing import Optional

from tools.studies.comparison.inference import TwoLevel
from tools.studies.numbers import digits_of


def ratio_text(estimate: Optional[TwoLevel], scale: float = 1.0) -> str:
    """The exponential of an estimate of a logarithm, with its interval."""
    if estimate is None:
        return "-"
    ends = estimate.interval() or ()
    return _with_interval(*(scale * math.exp(v) for v in (estimate.value, *ends)))


def number_text(estimate: TwoLevel) -> str:
    """An estimate with its interval."""
    return _with_interval(estimate.value, *(estimate.interval() or ()))


def _with_interval(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """Rounded to two digits of half the interval."""
    if not high - low > 1e-9 * abs(value):  # no interval, or one of rounding
        return f"{value:#.3g}"
    digits = digits_of((high - low) / 2)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
