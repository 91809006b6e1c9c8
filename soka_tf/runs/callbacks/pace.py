"""How long a run will take, from steps that were timed."""

import time
from typing import Callable, Optional

_FEWEST_STEPS = 10
_FEWEST_SECONDS = 2.0  # a GPU's steps return before they are done
_LEAST_LEFT = 10.0  # seconds; of less nobody asks
_CHANGED = 0.2  # of the time left; another stage is mentioned only then
_TRACED = 2  # steps at a stage's start: the first ones trace its graphs


class Pace:
    """Times the steps of each stage, and says what that means for the rest."""

    def __init__(
        self,
        last_step: int,
        joint_steps: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts with nothing known.

        Args:
          last_step: of the run.
          joint_steps: of the run, its first ones.
          clock: seconds, from any start.
        """
        self._last_step = last_step
        self._joint_steps = joint_steps
        self._clock = clock
        self._stage: Optional[str] = None
        self._seen = 0  # steps of this stage
        self._timed = False
        self._began = 0.0
        self._end: Optional[float] = None  # by the clock, as last told

    def after(self, step: int, stage: str) -> Optional[str]:
        """To be called after each step.

        Args:
          step: how many the run has done, those before it was resumed included.
          stage: that the step was of.

        Returns:
          A sentence once enough steps of a stage are timed, but of the joint start only
          if most of the steps left are of it, for a cycle takes longer; in later stages
          only where it changes the end by a fifth of the time left.
        """
        now = self._clock()
        if stage != self._stage:
            self._stage, self._seen, self._timed = stage, 0, False
        self._seen += 1
        if self._seen == _TRACED:
            self._began = now
        steps, seconds = self._seen - _TRACED, now - self._began
        if self._timed or steps < _FEWEST_STEPS or seconds < _FEWEST_SECONDS:
            return None
        self._timed = True
        remaining = self._last_step - step
        if stage == "joint" and step + remaining / 2 > self._joint_steps:
            return None
        left = remaining * seconds / steps
        told = None if self._end is None else self._end - now
        if left < _LEAST_LEFT or (told and abs(left - told) < _CHANGED * left):
            return None
        self._end = now + left
        return (
            f"About {in_words(left)} for the {remaining:,} steps that are left: "
            f"{seconds / steps:.2g} s a step ({stage}) on this machine."
        )


def in_words(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return f"{seconds:.0f} seconds"
