"""`tools/reproduce.py --study=comparison`: trains what is left, writes the page."""

import pathlib
import sys
import threading
import time
from typing import Dict, List, NamedTuple, Optional, Sequence

from absl import logging

from soka_tf.errors import UserError
from soka_tf.runs.gin_text import read_gin
from tools.studies import documents
from tools.studies.comparison import page
from tools.studies.comparison import run_records as records
from tools.studies.comparison.plan import Plan, batches, hours
from tools.studies.comparison.protocol import FINAL, PORTIONS, TUNE, Job, Protocol
from tools.studies.records import commit
from tools.studies.training import Order, Runs, Training

PROTOCOL = Protocol()
NAME = "comparison"
# A run is begun only where this many times what it is likely to take is left.
_CARE = 1.3


class Limits(NamedTuple):
    """What a call may do.

    Attributes:
      portion: "tune" or "final".
      hours: after which all runs are to have ended; None for no end.
      report_only: whether nothing is trained.
    """

    portion: str = TUNE
    hours: Optional[float] = None
    report_only: bool = False


def run(runs: Runs, folder: pathlib.Path, limits: Limits) -> int:
    """Trains what is left within the limits, and writes the page; 1 if a run failed.

    Args:
      runs: where runs are trained.
      folder: of the records; the page is written beside it, and its answer into the
        results.md of the folder above where they are documents.
      limits: of this call.

    Raises:
      UserError: if a record is of another run, or the test rooms must not be opened.
    """
    until = None if limits.hours is None else time.time() + 3600 * limits.hours
    plan = Plan(PROTOCOL, runs, folder, limits.report_only)
    plan.refuse_strangers()
    failed: Dict[str, str] = {}
    if not limits.report_only:
        if limits.portion == FINAL:
            plan.check_costs()
            plan.open_test_rooms()
        failed = _train(plan, plan.left(limits.portion), until)
    path = page.write(plan, folder.parent)
    written = [path]
    results = folder.parent.parent / documents.RESULTS
    if folder.parent.name == documents.PAGES and documents.is_results(results):
        documents.assemble(results.parent)
        written.append(results)
    _print_left(plan)
    print(f"Records are in {folder}, to be committed.")
    print(f"Written: {', '.join(map(str, written))}.")
    for name, why in failed.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _train(plan: Plan, jobs: Sequence[Job], until: Optional[float]) -> Dict[str, str]:
    """Trains jobs and records them; returns name -> why, of those that failed."""
    # Code and gin files may be edited while runs are trained: what records say of them
    # is read now.
    commit()
    for job in jobs:
        plan.identity(job)
    jobs_left = [job for job in jobs if plan.take(job) is not None]
    for job in jobs:
        plan.take_reference(job)
    by_run = {(plan.training(job), job.seed): job for job in jobs_left}
    by_training = {training: job for (training, _), job in by_run.items()}
    reasons: Dict[str, Optional[str]] = {}
    lock = threading.Lock()

    def ended(training: Training, seed: int) -> None:
        job = by_run[(training, seed)]
        with lock:  # several runs may end at once
            plan.take_reference(job)
            reasons[job.name] = plan.take(job)

    order = Order(
        until,
        lambda training: _CARE * plan.cpu_seconds(by_training[training]),
        lambda training: str(plan.raw_reference(by_training[training])),
        ended,
        threads=1,  # CPU seconds of more are no measure
    )
    wanted = [(t, [job.seed for job in some]) for t, some in batches(plan, jobs_left)]
    stopped = plan.runs.train_missing(wanted, order)
    failed = {}
    for job in jobs_left:
        why = reasons.get(job.name) or stopped.get(plan.training(job))
        if why and not plan.path(job).exists():  # a run that is not finite has a record
            failed[job.name] = why
    return failed


def _print_left(plan: Plan) -> None:
    lines: List[str] = []
    for portion in PORTIONS:
        jobs, left = plan.jobs(portion), plan.left(portion)
        if not jobs:
            lines.append(f"{portion}: its runs follow from the portion before")
        elif left:
            lines.append(
                f"{portion}: {len(left)} of {len(jobs)} runs, about "
                f"{hours(plan, left):.1f} CPU hours"
            )
    print("\nLeft: " + ("; ".join(lines) or "nothing") + ".")
    if plan.jobs(FINAL) and plan.opened() is None:
        print("Next: --portion=final, which opens the test rooms.")
    logging.flush()


def check(
    names: Sequence[str], values: Dict[str, object], params: Sequence[str]
) -> None:
    """Refuses flags and bindings that the comparison does not have.

    Args:
      names: of studies, as given.
      values: flag -> its value, None where it was not given.
      params: bindings, as given.

    Raises:
      UserError: naming what excludes each other.
    """
    if list(names) != [NAME]:
        others = ", ".join(name for name in names if name != NAME)
        raise UserError(
            f"--study={NAME} is run by itself. Received beside it: {others or NAME}."
        )
    given = [name for name, value in values.items() if value]
    if given:
        raise UserError(
            f"--study={NAME} is of docs/study/protocol.md, which has its own value of "
            f"{', '.join(f'--{name}' for name in given)}. Leave that out."
        )
    others = sorted(set(read_gin((), params)) - set(records.OF_THE_MACHINE))
    if others:
        raise UserError(
            f"--study={NAME} is of docs/study/protocol.md, which has its own value of "
            f"{', '.join(others)}. Only these can be bound: "
            f"{', '.join(sorted(records.OF_THE_MACHINE))}."
        )
