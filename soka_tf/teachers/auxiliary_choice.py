"""Whether two targets need an auxiliary teacher, and which (Sec. 3.2)."""

import dataclasses
import itertools
import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from soka_tf.errors import UserError

# The paper names none; docs/deviations.md.
DEFAULT_THRESHOLD = 0.4


class Pair(NamedTuple):
    """Two targets.

    Attributes:
      first: a task.
      second: another.
      similarity: S of their teachers.
      similar: whether that reaches the threshold.
    """

    first: str
    second: str
    similarity: float
    similar: bool


class Candidate(NamedTuple):
    """What a teacher would add.

    Attributes:
      name: its task.
      gains: (S(i, x) - S(i, j)) + (S(j, x) - S(i, j)), one for each pair of targets
        below the threshold; for every pair where none is.
      gain: their sum.
      similarities: S to each target, in the targets' order.
    """

    name: str
    gains: Tuple[float, ...]
    gain: float
    similarities: Tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Whether the targets need an auxiliary teacher, and which.

    Attributes:
      targets: the student's tasks.
      threshold: the gate (delta of the paper).
      pairs: every two targets.
      ranking: all other teachers, the largest gain first.
      auxiliary: the chosen one, None for none.
    """

    targets: Tuple[str, ...]
    threshold: float
    pairs: Tuple[Pair, ...]
    ranking: Tuple[Candidate, ...]
    auxiliary: Optional[str]

    @property
    def _low(self) -> List[Pair]:
        return [pair for pair in self.pairs if not pair.similar]

    @property
    def summary(self) -> str:
        """What was chosen and why, in one line."""
        low = self._low
        if not low:
            return (
                f"no auxiliary teacher: {', '.join(map(_told, self.pairs))}, "
                f"not below the threshold {self.threshold:g}"
            )
        why = f"{', '.join(map(_told, low))}, below the threshold {self.threshold:g}"
        if not self.ranking:
            return f"no auxiliary teacher: {why}, but there is no other teacher"
        best = self.ranking[0]
        if self.auxiliary is None:
            return (
                f"no auxiliary teacher: {why}, but the best of {len(self.ranking)}, "
                f"{best.name}, gains {best.gain:+.3f}, which is not above 0"
            )
        return (
            f"auxiliary teacher {best.name}: {why}; its gain {best.gain:+.3f} is the "
            f"largest of {len(self.ranking)}"
        )

    def explain(self) -> str:
        """The arithmetic in words, several lines, every number in it."""
        lines = []
        for pair in self.pairs:
            verdict = (
                f"not below the threshold {self.threshold:g}: similar enough."
                if pair.similar
                else f"below the threshold {self.threshold:g}: an auxiliary teacher is "
                "looked for."
            )
            lines.append(f"{_told(pair)}, {verdict}")
        counted = self._low or self.pairs
        if self.ranking:
            lines.append(
                "Gain of x: (S(i, x) - S(i, j)) + (S(j, x) - S(i, j))"
                + (", summed over the pairs" if len(counted) > 1 else "")
                + (" below the threshold" if len(counted) < len(self.pairs) else "")
                + (":" if self._low else " (none is needed):")
            )
        for candidate in self.ranking:
            near = dict(zip(self.targets, candidate.similarities))
            terms = " + ".join(
                f"({near[one]:.3f} - {pair.similarity:.3f})".replace("- -", "+ ")
                for pair in counted
                for one in (pair.first, pair.second)
            )
            if not self._low:
                verdict = "not needed"
            elif candidate.name == self.auxiliary:
                verdict = "chosen"
            else:
                verdict = "not above 0" if candidate.gain <= 0 else "not the largest"
            lines.append(
                f"  {candidate.name}: {terms} = {candidate.gain:+.3f}, {verdict}"
            )
        lines.append(f"Decision: {self.summary}.")
        return "\n".join(lines)


def _told(pair: Pair) -> str:
    return f"S({pair.first}, {pair.second}) = {pair.similarity:.3f}"


def check_choice(
    names: Sequence[str], targets: Sequence[str], threshold: float
) -> None:
    """Refuses, before any work, what `choose_auxiliary` would refuse after it.

    Raises:
      UserError: if the threshold is out of range, or a target is unknown, named twice,
        or the only one.
    """
    if not -1.0 <= threshold <= 1.0:
        raise UserError(
            f"A threshold of similarity must lie in [-1, 1]. Received: {threshold}."
        )
    missing = [name for name in targets if name not in names]
    if missing:
        raise UserError(
            f"There is no teacher of the target {', '.join(missing)}. Teachers: "
            f"{', '.join(names)}."
        )
    if len(targets) < 2 or len(set(targets)) != len(targets):
        raise UserError(
            "An auxiliary teacher is chosen for two or more different targets. "
            f"Received: {', '.join(targets) or 'none'}."
        )


def choose_auxiliary(
    similarity: np.ndarray,
    names: Sequence[str],
    targets: Sequence[str],
    threshold: float = DEFAULT_THRESHOLD,
) -> Choice:
    """Decides whether targets need an auxiliary teacher, and which (Sec. 3.2).

    For two targets i, j: where S(i, j) < threshold, the teacher x of largest gain
    (S(i, x) - S(i, j)) + (S(j, x) - S(i, j)), if that is above 0. For more: the sum of
    the gains over the pairs below the threshold.

    Args:
      similarity: float [m, m], of `compute_similarity`.
      names: the m tasks.
      targets: two or more of them.
      threshold: in [-1, 1].

    Raises:
      UserError: as `check_choice`.
    """
    similarity = np.asarray(similarity, np.float64)
    if similarity.shape != (len(names), len(names)):
        raise ValueError(f"{len(names)} names, similarities {similarity.shape}.")
    check_choice(names, targets, threshold)
    place = {name: i for i, name in enumerate(names)}

    def s(one: str, other: str) -> float:
        return float(similarity[place[one], place[other]])

    pairs = tuple(
        Pair(i, j, s(i, j), s(i, j) >= threshold)
        for i, j in itertools.combinations(targets, 2)
    )
    low = [pair for pair in pairs if not pair.similar]
    candidates = []
    for x in names:
        if x in targets:
            continue
        gains = tuple(
            (s(p.first, x) - p.similarity) + (s(p.second, x) - p.similarity)
            for p in low or pairs
        )
        near = tuple(s(target, x) for target in targets)
        candidates.append(Candidate(x, gains, math.fsum(gains), near))
    ranking = tuple(sorted(candidates, key=lambda candidate: -candidate.gain))
    needed = bool(low and ranking and ranking[0].gain > 0)
    return Choice(
        tuple(targets),
        float(threshold),
        pairs,
        ranking,
        ranking[0].name if needed else None,
    )
