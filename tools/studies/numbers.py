"""Estimates as text."""

from typing import Optional

from tools.studies.intervals import Estimate


def number(estimate: Optional[Estimate]) -> str:
    """A mean with its half width, rounded to two significant digits of the latter."""
    if estimate is None:
        return "-"
    if not estimate.half_width:
        return f"{estimate.mean:#.3g}"
    digits = 0
    while digits < 6 and estimate.half_width * 10**digits < 9.5:
        digits += 1
    return f"{estimate.mean:.{digits}f} ± {estimate.half_width:.{digits}f}"
