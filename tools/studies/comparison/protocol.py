"""What the comparison trains, in which order: docs/study/protocol.md as data.

Whatever changes a number here makes another `VERSION`, and its records others.
"""

import hashlib
import itertools
from typing import Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from tools.studies.comparison.inference import CONFIDENCE, SAME
from tools.studies.methods import DEPTH, EDGE2D, PAIR, SCALES
from tools.studies.training import Training

VERSION = 2
TUNE, FINAL = "tune", "final"
PORTIONS = (TUNE, FINAL)
MAIN_SEEDS, OTHER_SEEDS = 10, 5

# scipy.stats.qmc.Sobol(4, scramble=True, seed=20).random(8), on the scales of `trial`:
# learning rate, soft_weight, settle share, the first task's weight.
TRIALS = (
    (0.002315, 0.03878, 0.1865, 0.68),
    (0.01169, 0.3615, 0.3639, 0.394),
    (0.007325, 0.05118, 0.1696, 0.547),
    (0.003548, 0.1355, 0.273, 0.224),
    (0.004316, 0.08566, 0.3482, 0.281),
    (0.005091, 0.1519, 0.2443, 0.641),
    (0.007682, 0.02376, 0.289, 0.487),
    (0.002662, 0.3307, 0.1114, 0.737),
)
_FROM_TEACHERS = (
    "initialize_student.encoder = 'edge_texture'",
    "initialize_student.leading = True",
    "initialize_student.decoders = True",
)


# What an error is of: a task, and "units" or "network" range, in which depth's is of
# logarithms: in metres a single saturated pixel counts as 128 m.
Part = Tuple[str, str]
DEPTH_LOG, DEPTH_M, EDGES = (DEPTH, "network"), (DEPTH, "units"), (EDGE2D, "units")


class Endpoint(NamedTuple):
    """An error that methods are compared by: the geometric mean of its parts' rmse."""

    title: str
    parts: Sequence[Part]


ENDPOINTS = (
    Endpoint("geometric mean of the tasks' rmse", (DEPTH_LOG, EDGES)),
    Endpoint("depth: log-rmse", (DEPTH_LOG,)),
    Endpoint("2D edges: rmse", (EDGES,)),
)


class Method(NamedTuple):
    """A row of the tables.

    Attributes:
      name: in the names of records.
      title: in the tables.
      file: of gin/methods/.
      params: bindings on top of it.
      seeds: of its final runs: 0, 1, ...
      one_task: whether it is a student a task, each a run.
      weighted: whether it has fixed weights, of tasks and L_A, that are tuned.
      soft_scale: of a trial's soft_weight, where its L_A is of another size.
      against: name of the method whose error its own is shown over.
    """

    name: str
    title: str
    file: str
    params: Sequence[str] = ()
    seeds: int = OTHER_SEEDS
    one_task: bool = False
    weighted: bool = False
    soft_scale: float = 1.0
    against: str = "kd_mia"


_SINGLE = SCALES["small"].single_student
_WHOLE, _STARTED = "soka", "kd_mia_started"
_MENDED, _JOINTLY, _TUNED = "soka_mended", "kd_mia_mended", "kd_mia_fixed"
METHODS = (
    Method(_WHOLE, "the whole method", "soka", seeds=MAIN_SEEDS),
    Method("kd_mia", "KD + MIA", "kd_mia", seeds=MAIN_SEEDS),
    Method(_MENDED, "whole, mended", "soka_mended", (), MAIN_SEEDS, against=_JOINTLY),
    Method(_JOINTLY, "KD + MIA, mended", "kd_mia_mended", seeds=MAIN_SEEDS),
    Method("kd", "KD", "kd", seeds=MAIN_SEEDS),
    Method("kd_hints", "KD + hints", "kd_hints", soft_scale=20.0),
    Method(
        _TUNED, "KD + MIA, tuned weights", "kd_mia_fixed", (), MAIN_SEEDS, weighted=True
    ),
    Method("uncertainty", "whole, uncertainty", "uncertainty", against=_WHOLE),
    Method("upgrad", "whole, UPGrad", "upgrad", against=_WHOLE),
    Method("dmtl", "multi-task from labels", "dmtl"),
    Method("n_to_n", "KD, a student a task", "n_to_n", _SINGLE, one_task=True),
    Method("frozen", "frozen teacher encoder", "frozen_encoder", against=_STARTED),
    Method("soka_started", "whole, started", "soka", _FROM_TEACHERS, against=_STARTED),
    Method(_STARTED, "KD + MIA, started", "kd_mia", _FROM_TEACHERS, against=_STARTED),
)


# Added after the test rooms were opened, because of what these showed: methods at the
# confirmation's budget, with its seeds. Not of the protocol, nor of its digest.
AFTERWARDS = ("kd_hints", _JOINTLY)


class Rooms(NamedTuple):
    """Drawn rooms: the seed, how many, views of each."""

    seed: int
    count: int
    views: int


class Protocol(NamedTuple):
    """All that is decided before anything is run.

    Attributes:
      methods: compared.
      unit: name of the method whose cost is the unit of budgets.
      train: rooms to train on.
      tune: rooms that trials are chosen on.
      test: rooms opened after all choices.
      steps: of that method within a budget of 1.
      budgets: multiples of the CPU seconds of these steps.
      tuning_steps: of trials, of every method: what a step costs, which is measured on
        them, decides no choice.
      confirmation: a budget beyond those, and how many seeds of the first pair's
        methods have it.
      trials: tuned bindings, see `TRIALS`.
      tuning_seed: of the trials' runs.
      pairs: names of methods whose difference is tested, at the largest budget.
      files: gin files of all runs.
      params: bindings of all runs, before those of the methods.
    """

    methods: Sequence[Method] = METHODS
    unit: str = "kd"
    train: Rooms = Rooms(11, 1000, 20)
    tune: Rooms = Rooms(12, 100, 5)
    test: Rooms = Rooms(13, 400, 5)
    steps: int = 250
    budgets: Sequence[int] = (1, 4, 16)
    confirmation: Tuple[int, int] = (80, 3)
    tuning_steps: int = 1000
    trials: Sequence[Tuple[float, ...]] = TRIALS
    tuning_seed: int = 100
    pairs: Sequence[Tuple[str, str]] = (
        (_WHOLE, "kd_mia"),
        (_WHOLE, _TUNED),
        (_MENDED, _JOINTLY),
        (_JOINTLY, "kd_mia"),
        ("kd_mia", "kd"),
    )
    files: Sequence[str] = tuple(SCALES["small"].files)
    params: Sequence[str] = (
        "build_data.check_files = False",
        "run.checkpoint_every_steps = 500",
    )

    def rooms_of(self, portion: str) -> Rooms:
        """The rooms that the runs of a portion are measured on."""
        return self.test if portion == FINAL else self.tune

    @property
    def digest(self) -> str:
        """A sha256 of all this and of how methods are compared."""
        rules = (VERSION, self, ENDPOINTS, SAME, CONFIDENCE)
        return hashlib.sha256(repr(rules).encode()).hexdigest()

    @property
    def titles(self) -> Mapping[str, str]:
        """Name of a method -> its title."""
        return {method.name: method.title for method in self.methods}

    def main(self) -> List[str]:
        """The methods of the tested pairs."""
        return list(dict.fromkeys(name for pair in self.pairs for name in pair))


class Job(NamedTuple):
    """One run. `task` is that of a student of one task; trials have a budget of 0."""

    portion: str
    method: Method
    task: Optional[str]
    budget: int
    trial: int
    seed: int

    @property
    def name(self) -> str:
        """Of its record, without suffix."""
        words = [self.portion, self.method.name, self.task]
        words += [f"x{self.budget}" if self.budget else None]
        words += [f"trial{self.trial}" if self.portion == TUNE else None]
        return "-".join([*filter(None, words), f"seed{self.seed}"])


def versions_of(portion: str) -> Sequence[int]:
    """The versions of the protocol whose runs of a portion are the present ones."""
    return (1, VERSION) if portion == TUNE else (VERSION,)


def parts(method: Method) -> Sequence[Optional[str]]:
    """The tasks of its students of one task; (None,) of one student of all."""
    return PAIR if method.one_task else (None,)


def tune_jobs(protocol: Protocol) -> Iterator[Job]:
    """Every trial of every method, trial by trial."""
    trials = range(len(protocol.trials))
    for trial, method in itertools.product(trials, protocol.methods):
        for task in parts(method):
            yield Job(TUNE, method, task, 0, trial, protocol.tuning_seed)


def final_jobs(protocol: Protocol, chosen: Mapping[str, int]) -> Iterator[Job]:
    """The chosen trial of every method with all seeds: those of the pairs first.

    The long runs of the confirmation come last, and those of `AFTERWARDS`.

    Args:
      protocol: of the study.
      chosen: name of a method -> its trial; others have no jobs.
    """
    methods = [method for method in protocol.methods if method.name in chosen]
    main = [method for method in methods if method.name in protocol.main()]
    others = [method for method in methods if method not in main]
    for group in (main, others):
        for budget, method in itertools.product(protocol.budgets, group):
            for task, seed in itertools.product(parts(method), range(method.seeds)):
                yield Job(FINAL, method, task, budget, chosen[method.name], seed)
    budget, seeds = protocol.confirmation
    for method in (*main, *others):
        if method.name in (*protocol.pairs[0], *AFTERWARDS):
            for task, seed in itertools.product(parts(method), range(seeds)):
                yield Job(FINAL, method, task, budget, chosen[method.name], seed)


def all_jobs(protocol: Protocol) -> Iterator[Job]:
    """The jobs of all portions, the final ones of any trial: their names have none."""
    yield from tune_jobs(protocol)
    yield from final_jobs(protocol, {method.name: 0 for method in protocol.methods})


def trial_bindings(method: Method, values: Sequence[float]) -> List[str]:
    """What a trial binds; all methods have the first three."""
    rate, soft_weight, settle_share, weight = values
    bound = [
        f"build_optimizers.learning_rate = {rate}",
        f"objective.soft_weight = {round(method.soft_scale * soft_weight, 6)}",
        f"schedule.settle_share = {settle_share}",
    ]
    if method.weighted:  # L_A's share stays at a third: soft_weight is its balance
        of_tasks = [round(share * 2 / 3, 4) for share in (weight, 1 - weight)]
        weights = (*of_tasks, round(1 - sum(of_tasks), 4))
        bound.append(f"Fixed.weights = {weights}")
    return bound


def trial_of(point: Sequence[float]) -> Tuple[float, ...]:
    """A point of the unit cube on the scales of a trial, before it is rounded.

    Returns:
      The learning rate, log-uniform in [0.002, 0.012]; soft_weight, log-uniform in
      [0.02, 0.5]; the settle share, uniform in [0.1, 0.4]; the first task's weight,
      uniform in [0.2, 0.8].
    """
    rate, soft_weight, settle_share, weight = map(float, point)
    return (
        0.002 * 6**rate,
        0.02 * 25**soft_weight,
        0.1 + 0.3 * settle_share,
        0.2 + 0.6 * weight,
    )


def training_of(protocol: Protocol, job: Job, steps: int) -> Training:
    """What a job trains, on the rooms that its portion measures on."""
    measured = protocol.rooms_of(job.portion)
    train = protocol.train
    bound = [
        *protocol.params,
        f"rooms.seed = {train.seed}",
        f"rooms.count = {train.count}",
        f"rooms.train_views = {train.views}",
        f"rooms.validation_seed = {measured.seed}",
        f"rooms.validation_count = {measured.count}",
        f"rooms.validation_views = {measured.views}",
        *job.method.params,
        *trial_bindings(job.method, protocol.trials[job.trial]),
    ]
    return Training(
        job.name.rsplit("-", 1)[0],
        (job.task,) if job.task else PAIR,
        (f"gin/methods/{job.method.file}.gin",),
        tuple(bound),
        float(steps),  # of `Setting.steps` = 1
    )
