"""From finished runs to estimates: what a study's tables hold, as plain data."""

import pathlib
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence

from soka_tf.errors import UserError
from soka_tf.tasks import get_task
from tools.studies.intervals import Estimate, apart, ordering, paired_difference
from tools.studies.study import Column, Row, Study, Table
from tools.studies.training import Outcome, Runs, Training


class Cell(NamedTuple):
    """One number of a table.

    Attributes:
      paper: its value in the paper; None where there is none.
      ours: our estimate; None where not run.
      ordering: whether it stands to its column as in the paper, see
        `intervals.ordering`.
      unlabelled: whether it was run on images without labels of the task.
    """

    paper: Optional[float]
    ours: Optional[Estimate]
    ordering: Optional[str]
    unlabelled: bool


class ResultRow(NamedTuple):
    """A row of a table of results.

    Attributes:
      title: as in the definition.
      cells: column -> its number.
      imitation: task -> rmse of the student against its teacher.
      relative: mean over the tasks of rmse against truth over the teacher's.
      paper_parameters: the paper's count, as printed.
      steps: of each run; None for teachers and where not run.
      cpu_seconds: of all runs of the row with one seed.
      parameters: our trainable scalars.
      missing: why there are no numbers, or not all; None if all are there.
    """

    title: str
    cells: Mapping[Column, Cell]
    imitation: Mapping[str, Optional[Estimate]]
    relative: Optional[Estimate]
    paper_parameters: str
    steps: Optional[int] = None
    cpu_seconds: Optional[Estimate] = None
    parameters: Optional[int] = None
    missing: Optional[str] = None


class ResultTable(NamedTuple):
    """A table of results, and its comparisons in words."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[ResultRow]
    findings: Sequence[str]

    @property
    def tasks(self) -> List[str]:
        """The columns' tasks, each once."""
        return list(dict.fromkeys(task for task, _ in self.columns))


def collect(
    study: Study, runs: Runs, seeds: Sequence[int], reasons: Mapping[Training, str]
) -> List[ResultTable]:
    """Reads what a study's runs left.

    Args:
      study: whose tables.
      runs: where they are.
      seeds: of the runs.
      reasons: training -> why some of its runs are not there.
    """
    return [_table(table, runs, seeds, reasons) for table in study.tables]


def _table(
    table: Table, runs: Runs, seeds: Sequence[int], reasons: Mapping[Training, str]
) -> ResultTable:
    read = [_read(row, runs, seeds) for row in table.rows]
    teachers = _teachers(
        outcome
        for found in read
        for outcomes in found.by_seed.values()
        for outcome in outcomes
    )
    cells: List[Dict[Column, Cell]] = [{} for _ in table.rows]
    for column in table.columns:
        paper = [row.paper.get(column) for row in table.rows]
        ours = [
            _estimate(row, found.by_seed, teachers, column)
            for row, found in zip(table.rows, read)
        ]
        entries = teachers.get(column[0])
        without_labels = entries is not None and not entries.get("teacher")
        for index, (row, found) in enumerate(zip(table.rows, read)):
            cells[index][column] = Cell(
                paper[index],
                ours[index],
                ordering(paper, ours, index),
                without_labels and bool(found.by_seed or not row.trainings),
            )
    rows = []
    for row, found, of_row in zip(table.rows, read, cells):
        if row.trainings:
            missing = _missing(row, found, of_row, seeds, reasons)
            rows.append(_row(row, found.by_seed, of_row, table.tasks, missing))
        else:
            there = any(cell.ours for cell in of_row.values())
            one = Estimate(1.0, 0.0, [1.0]) if there else None
            rows.append(ResultRow(row.title, of_row, {}, one, row.parameters))
    findings = [
        finding
        for titles in table.comparisons
        for finding in _findings(*titles, rows, table.tasks)
    ]
    return ResultTable(table.title, table.columns, rows, findings)


def _teachers(outcomes: Iterable[Outcome]) -> Dict[str, Mapping[str, Any]]:
    """Task -> a teacher's numbers, the same in whatever run has its task.

    Raises:
      UserError: if they are not: the runs are of different teachers or images.
    """
    entries: Dict[str, Mapping[str, Any]] = {}
    folders: Dict[str, pathlib.Path] = {}
    for outcome in outcomes:
        for task, found in outcome.evaluation["tasks"].items():
            entries.setdefault(task, found)
            first = folders.setdefault(task, outcome.folder)
            old, new = (_rmse(e.get("teacher")) for e in (entries[task], found))
            # Processors round differently.
            if abs(old - new) > 1e-3 * old:
                raise UserError(
                    f"{outcome.folder}: the teacher of {task} has rmse {new:#.4g} "
                    f"there, {old:#.4g} in {first}: teachers or images have changed "
                    "since. Remove the older of the two, or give another --model_dir."
                )
    return entries


def _rmse(entry: Optional[Mapping[str, Any]]) -> float:
    value = (entry or {}).get("rmse")
    return 0.0 if value is None else value


BySeed = Mapping[int, Sequence[Outcome]]


class _Read(NamedTuple):
    """What was read of a row.

    Attributes:
      by_seed: the seeds that count.
      diverged: how many others ended, but with answers that are not finite.
      failures: messages of those that did not end.
    """

    by_seed: BySeed
    diverged: int
    failures: Sequence[str]


def _read(row: Row, runs: Runs, seeds: Sequence[int]) -> _Read:
    """The outcomes of a row's runs, of those seeds where all are there and finite."""
    by_seed, diverged, failures = {}, 0, []
    for seed in seeds:
        outcomes = [runs.outcome(training, seed) for training in row.trainings]
        if not row.trainings or not all(outcomes):
            reasons = (runs.failure(training, seed) for training in row.trainings)
            failures += filter(None, reasons)
        elif any(map(_diverged, outcomes)):
            diverged += 1
        else:
            by_seed[seed] = outcomes
    return _Read(by_seed, diverged, failures)


def _diverged(outcome: Outcome) -> bool:
    """Whether a run's student answers with what has no error."""
    students = [entries["student"] for entries in outcome.evaluation["tasks"].values()]
    return any(student and student["rmse"] is None for student in students)


def _estimate(
    row: Row, by_seed: BySeed, teachers: Mapping[str, Any], column: Column
) -> Optional[Estimate]:
    task, metric = column
    if not row.trainings:
        value = ((teachers.get(task) or {}).get("teacher") or {}).get(metric)
        # The same whatever the seed.
        return None if value is None else Estimate(value, 0.0, [value])
    return _over_seeds(by_seed, task, "student", metric)


def _over_seeds(
    by_seed: BySeed, task: str, entry: str, metric: str
) -> Optional[Estimate]:
    values = {}
    for seed, outcomes in by_seed.items():
        found = [o.evaluation["tasks"].get(task) for o in outcomes]
        measured = [tasks[entry] for tasks in found if tasks and tasks.get(entry)]
        if measured and measured[0].get(metric) is not None:
            values[seed] = measured[0][metric]
    return Estimate.of(values)


def _missing(
    row: Row,
    read: _Read,
    cells: Mapping[Column, Cell],
    seeds: Sequence[int],
    reasons: Mapping[Training, str],
) -> Optional[str]:
    """Why a row has no numbers, or not all; None if all are there."""
    notes = []
    missing = len(seeds) - len(read.by_seed) - read.diverged
    if missing:
        why = [reasons[t] for t in row.trainings if t in reasons] or read.failures
        reason = clause(why[0]) if why else "not run"
        notes.append(f"{missing} of {len(seeds)} seeds missing: {reason}")
    if read.diverged:
        notes.append(f"{read.diverged} not finite, and in no mean")
    unlabelled = {task for (task, _), cell in cells.items() if cell.unlabelled}
    if unlabelled:
        notes.append(f"needs labels of {', '.join(sorted(unlabelled))}")
    return "; ".join(notes) or None


def _row(
    row: Row,
    by_seed: BySeed,
    cells: Mapping[Column, Cell],
    tasks: Sequence[str],
    missing: Optional[str],
) -> ResultRow:
    costs = {
        seed: sum(outcome.cpu_seconds for outcome in outcomes)
        for seed, outcomes in by_seed.items()
        if all(outcome.cpu_seconds is not None for outcome in outcomes)
    }
    first = next(iter(by_seed.values()), None)
    return ResultRow(
        row.title,
        cells,
        {t: _over_seeds(by_seed, t, "student_vs_teacher", "rmse") for t in tasks},
        Estimate.of(_relative(by_seed, tasks)),
        row.parameters,
        first and first[0].evaluation["step"],
        Estimate.of(costs),
        first and sum(o.evaluation["parameters"]["student"] for o in first),
        missing,
    )


def _relative(by_seed: BySeed, tasks: Sequence[str]) -> Dict[int, float]:
    """Seed -> rmse over the teacher's, mean of a table's tasks; where all have both."""
    relative = {}
    for seed, outcomes in by_seed.items():
        measured = {}
        for outcome in outcomes:
            for task, entries in outcome.evaluation["tasks"].items():
                teacher = (entries["teacher"] or {}).get("rmse")
                if task in tasks and entries["student"] and teacher:
                    measured[task] = entries["student"]["rmse"] / teacher
        if len(measured) == len(tasks):
            relative[seed] = sum(measured.values()) / len(measured)
    return relative


def _findings(
    better: str, worse: str, rows: Sequence[ResultRow], tasks: Sequence[str]
) -> List[str]:
    """Compares two rows, by title: a sentence for every quantity that both have."""
    one, other = (next(r for r in rows if r.title == t) for t in (better, worse))
    pairs = []
    for task in tasks:
        title, column = get_task(task).title, (task, "rmse")
        pairs += [
            (f"{title}, rmse", one.cells[column].ours, other.cells[column].ours),
            (
                f"{title}, rmse against the teacher",
                one.imitation.get(task),
                other.imitation.get(task),
            ),
        ]
    pairs.append(("mean relative rmse", one.relative, other.relative))
    return [
        f"{better} against {worse}, {what}: {number(a)} against {number(b)}: "
        f"{_verdict(a, b)}"
        for what, a, b in pairs
        if a is not None and b is not None
    ]


def _verdict(a: Estimate, b: Estimate) -> str:
    if a.mean == b.mean:
        return "equal."
    word = "better" if a.mean < b.mean else "worse"
    if apart(a, b):
        return f"{word}, the intervals apart."
    difference = paired_difference(a, b)
    if difference and difference.half_width is not None:
        if abs(difference.mean) > difference.half_width:
            # Where they do not have the same seeds, the means may lie otherwise.
            word = "better" if difference.mean < 0 else "worse"
            pairs = f"{number(difference)}, {len(difference.values)} seeds"
            return f"{word} seed by seed ({pairs}); the intervals meet."
    if a.half_width is None or b.half_width is None:
        return f"{word}, one seed."
    return f"{word} on average, within the noise."


def clause(message: str) -> str:
    """An error message for a page: its first sentence, without folders."""
    text = re.sub(r"(?<![\w:/])/(?:[^\s/:,;'\"]+/)*", "", message)
    text = re.split(r"(?<=[^.])[.;]\s", text.strip(), maxsplit=1)[0]
    return text if len(text) <= 120 else text[:119].rstrip() + "…"


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


def as_json(tables: Sequence[ResultTable]) -> List[Dict[str, Any]]:
    """Tables of results for JSON."""

    def estimate(value: Optional[Estimate]) -> Optional[Dict[str, Any]]:
        return value and value._asdict()

    return [
        {
            "title": table.title,
            "findings": list(table.findings),
            "rows": [
                {
                    "title": row.title,
                    "missing": row.missing,
                    "steps": row.steps,
                    "parameters": row.parameters,
                    "paper_parameters": row.paper_parameters,
                    "mean_relative_rmse": estimate(row.relative),
                    "cpu_seconds": estimate(row.cpu_seconds),
                    "rmse_against_teacher": {
                        task: estimate(value) for task, value in row.imitation.items()
                    },
                    "cells": [
                        {
                            "task": task,
                            "metric": metric,
                            "paper": cell.paper,
                            "ours": estimate(cell.ours),
                            "ordering_as_in_paper": cell.ordering,
                        }
                        for (task, metric), cell in row.cells.items()
                    ],
                }
                for row in table.rows
            ],
        }
        for table in tables
    ]
