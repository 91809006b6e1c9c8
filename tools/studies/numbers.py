"""Estimates as text."""

from typing import Optional

from tools.studies.intervals import Estimate


def number(estimate: Optional[Estimate]) -> str:
    """A mean with its half width, rounded to two significant digits of the latter."""
    if estimate is None:
        return "-"
    if not estimate.half_width:
        return f"{estimate.mean:#.3g}"
    digits = digits_of(estimate.half_width)
    return f"{estimate.mean:.{digits}f} ± {estimate.half_width:.{digits}f}"


def digits_of(half_width: float) -> int:
    """Decimals that show two significant digits of an interval's half, at most 7."""
    digits = 0
    while digits < 7 and half_width * 10**digits < 9.5:
        digits += 1
    return digits
