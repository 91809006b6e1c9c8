"""From records to estimates: errors, skills and differences of methods."""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from tools.studies.comparison import inference
from tools.studies.comparison.inference import Statistic, TwoLevel
from tools.studies.comparison.plan import Plan
from tools.studies.comparison.protocol import ENDPOINTS, FINAL, Endpoint, Job, Part

_LOST = 3.0  # times the rmse of the median image


class Outcome(NamedTuple):
    """The final runs of a method within a budget, or what they are compared with.

    Attributes:
      seeds: of the runs that ended well.
      squares: part -> sums of squared errors, [seeds, rooms].
      cpu_seconds: of the steps, of those seeds where it is known.
      steps: of a run; of students of one task, of each.
      failed: how many runs were not finite.
      missing: how many are not recorded.
    """

    seeds: Sequence[int]
    squares: Mapping[Part, np.ndarray]
    cpu_seconds: Sequence[float] = ()
    steps: int = 0
    failed: int = 0
    missing: int = 0


class Outcomes:
    """All that is recorded of the final portion."""

    def __init__(self, plan: Plan):
        """Reads the records.

        Raises:
          UserError: if one of them, or the reference, does not fit.
        """
        self.plan = plan
        reference = plan.reference(FINAL)
        self.reference = reference
        self._pixels = {
            task: np.array(count, float) for task, count in reference["pixels"].items()
        }
        self.teacher = self._known(reference["teacher"])
        self.median = self._known(reference["median"])
        self._found: Dict[Tuple[str, int], Outcome] = {}
        groups: Dict[Tuple[str, int], List[Job]] = {}
        for job in plan.jobs(FINAL):
            groups.setdefault((job.method.name, job.budget), []).append(job)
        for key, jobs in groups.items():
            self._found[key] = self._outcome(jobs)

    def of(self, method: str, budget: int) -> Optional[Outcome]:
        """A method's outcome within a budget; None if it has no runs."""
        return self._found.get((method, budget))

    def lost(self) -> List[Tuple[str, int, int, str]]:
        """Runs that have lost a task: worse than `_LOST` times the median image.

        Returns:
          Method, budget, seed and task of each; such runs count like all others.
        """
        found = []
        for (method, budget), outcome in self._found.items():
            for (task, name), squares in outcome.squares.items():
                if name != "units":
                    continue
                most = _LOST**2 * self.median.squares[task, name][0].sum()
                lost = np.array(outcome.seeds)[squares.sum(axis=1) > most]
                found += [(method, budget, seed, task) for seed in lost.tolist()]
        return found

    def _known(self, sums: Mapping[str, Mapping[str, List[float]]]) -> Outcome:
        """What has no seeds, as two that are alike: its intervals are of rooms only."""
        squares = {
            (task, name): np.tile(np.array(values, float), (2, 1))
            for task, found in sums.items()
            for name, values in found.items()
        }
        return Outcome((0, 1), squares)

    def _outcome(self, jobs: Sequence[Job]) -> Outcome:
        by_seed: Dict[int, List[Any]] = {}
        for job in jobs:
            by_seed.setdefault(job.seed, []).append(self.plan.record(job))
        there = {s: found for s, found in by_seed.items() if all(found)}
        well = {s: f for s, f in there.items() if not any(r["failed"] for r in f)}
        squares: Dict[Part, List[List[float]]] = {}
        for found in well.values():
            for task, sums in ((t, s) for r in found for t, s in r["errors"].items()):
                for name, values in sums.items():
                    squares.setdefault((task, name), []).append(values)
        seconds = [
            [record["cpu_seconds"] for record in found] for found in well.values()
        ]
        return Outcome(
            list(well),
            {part: np.array(values, float) for part, values in squares.items()},
            [sum(some) for some in seconds if None not in some],
            self.plan.steps(jobs[0]),
            len(there) - len(well),
            len(by_seed) - len(there),
        )

    # -------------------------------------------------------------- estimates

    def log_error(self, outcome: Outcome, parts: Sequence[Part]) -> Statistic:
        """Mean over the parts of log rmse, as a statistic of rooms."""

        def statistic(weights: np.ndarray) -> np.ndarray:
            logs = [
                np.log(weights @ outcome.squares[part].T)
                - np.log(weights @ self._pixels[part[0]])[:, None]
                for part in parts
            ]
            return 0.5 * np.mean(logs, axis=0)

        return statistic

    def error(self, outcome: Outcome, parts: Sequence[Part]) -> TwoLevel:
        """Log of an error, over seeds and rooms."""
        return self._estimate(self.log_error(outcome, parts), outcome)

    def ratio(
        self, one: Outcome, other: Outcome, parts: Sequence[Part]
    ) -> Optional[TwoLevel]:
        """Log of an error over another's, paired by room and, of runs, by seed."""
        if other is self.teacher:
            other = self._repeated(other, len(one.seeds))
        else:
            one, other = _with_seeds(one, other)
        if not one.seeds:
            return None
        first, second = self.log_error(one, parts), self.log_error(other, parts)
        return self._estimate(lambda weights: first(weights) - second(weights), one)

    def share_of_skill(self, outcome: Outcome, part: Part) -> TwoLevel:
        """Of the teacher's skill: (median - error) / (median - teacher) of rmse."""
        count = len(outcome.seeds)
        error, median, teacher = (
            self.log_error(o, [part])
            for o in (
                outcome,
                self._repeated(self.median, count),
                self._repeated(self.teacher, count),
            )
        )

        def statistic(weights: np.ndarray) -> np.ndarray:
            trivial = np.exp(median(weights))
            gained = trivial - np.exp(error(weights))
            return gained / (trivial - np.exp(teacher(weights)))

        return self._estimate(statistic, outcome)

    def _repeated(self, known: Outcome, count: int) -> Outcome:
        squares = {p: np.tile(v[:1], (count, 1)) for p, v in known.squares.items()}
        return Outcome(range(count), squares)

    def _estimate(self, statistic: Statistic, outcome: Outcome) -> TwoLevel:
        rooms = len(self.reference["rooms"])
        return inference.two_level(statistic, len(outcome.seeds), rooms)


class Difference(NamedTuple):
    """A tested difference.

    Attributes:
      pair: names of the methods.
      endpoint: what is compared.
      ratio: `Outcomes.ratio`; None where too few runs of both ended well.
      failed: how many runs of both were not finite: those left are not chosen by
        chance, so that nothing is read from them.
      p_different: after Holm.
      p_same: after Holm.
    """

    pair: Tuple[str, str]
    endpoint: Endpoint
    ratio: Optional[TwoLevel]
    failed: int
    p_different: float
    p_same: float

    @property
    def reading(self) -> str:
        """What the adjusted p-values let one say, at 5 % a family."""
        if self.failed:
            return f"undecided, {self.failed} not finite"
        words = []
        if self.p_different < 1 - inference.CONFIDENCE:
            words.append("lower" if self.ratio.value < 0 else "higher")
        if self.p_same < 1 - inference.CONFIDENCE:
            words.append("the same within 1 %")
        return ", ".join(words) or "undecided"


def differences(outcomes: Outcomes) -> List[Difference]:
    """The protocol's pairs at its largest budget; none before all are there."""
    protocol = outcomes.plan.protocol
    found = []
    for one, other in protocol.pairs:
        both = [outcomes.of(name, protocol.budgets[-1]) for name in (one, other)]
        if any(o is None or o.missing for o in both):
            return []
        for endpoint in ENDPOINTS:
            ratio = outcomes.ratio(both[0], both[1], endpoint.parts)
            failed = sum(outcome.failed for outcome in both)
            found.append(((one, other), endpoint, ratio, failed))
    low, high = np.log(inference.SAME)
    ratios = [ratio for _, _, ratio, _ in found]
    different = inference.holm([r.p_difference() if r else 1.0 for r in ratios])
    same = inference.holm([r.p_same(low, high) if r else 1.0 for r in ratios])
    return [Difference(*f, p, q) for f, p, q in zip(found, different, same)]


def _with_seeds(one: Outcome, other: Outcome) -> Tuple[Outcome, Outcome]:
    """Both with the seeds that both have, in one order."""
    common = [seed for seed in one.seeds if seed in set(other.seeds)]

    def of_common(outcome: Outcome) -> Outcome:
        rows = [list(outcome.seeds).index(seed) for seed in common]
        squares = {part: v[rows] for part, v in outcome.squares.items()}
        return outcome._replace(seeds=common, squares=squares)

    return of_common(one), of_common(other)
