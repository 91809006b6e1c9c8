"""From finished runs to estimates: what a study's tables hold, as plain data."""

import pathlib
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence

from soka_tf.errors import UserError
from soka_tf.evaluation import constant_answers
from soka_tf.evaluation.metrics import main_error, skill
from tools.studies.comparisons import Finding, compare
from tools.studies.intervals import Estimate, ordering
from tools.studies.study import Column, Row, Study, Table
from tools.studies.training import Outcome, Runs, Training

MEDIAN = "median image"
_CONSTANT = "constant"


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
      skills: task -> 1 - error / that of the median image, docs/metrics.md.
      log_rmse: the same of depth -> its log_rmse.
      relative: mean over the tasks of error against truth over the teacher's.
      paper_parameters: the paper's count, as printed.
      steps: of each run; None for teachers and where not run.
      cpu_seconds: of all runs of the row with one seed.
      parameters: our trainable scalars.
      missing: why there are no numbers, or not all; None if all are there.
    """

    title: str
    cells: Mapping[Column, Cell]
    imitation: Mapping[str, Optional[Estimate]]
    skills: Mapping[str, Optional[Estimate]]
    log_rmse: Mapping[str, Estimate]
    relative: Optional[Estimate]
    paper_parameters: str
    steps: Optional[int] = None
    cpu_seconds: Optional[Estimate] = None
    parameters: Optional[int] = None
    missing: Optional[str] = None


class ResultTable(NamedTuple):
    """A table of results, the median image its last row, and its comparisons."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[ResultRow]
    findings: Sequence[Finding]

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
            rows.append(_constant_row(row, of_row, teachers, table.tasks))
    relative = {row.title: row.relative for row in rows}
    found = [compare(pair, *map(relative.get, pair)) for pair in table.comparisons]
    if any(found.get(_CONSTANT) for found in teachers.values()):
        rows.append(_median_row(table, teachers))
    return ResultTable(table.title, table.columns, rows, [f for f in found if f])


def _median_row(table: Table, teachers: Mapping[str, Mapping[str, Any]]) -> ResultRow:
    cells = {
        column: Cell(None, _constant(teachers, *column, _CONSTANT), None, False)
        for column in table.columns
    }
    return _constant_row(Row(MEDIAN), cells, teachers, table.tasks, _CONSTANT)


def _constant_row(
    row: Row,
    cells: Mapping[Column, Cell],
    teachers: Mapping[str, Mapping[str, Any]],
    tasks: Sequence[str],
    entry: str = "teacher",
) -> ResultRow:
    """The row of what is the same whatever the seed: the teachers, the median image."""
    entries = [teachers.get(task, {}) for task in tasks]
    ratios = [error_ratio(found.get(entry), found.get("teacher")) for found in entries]
    relative = None if None in ratios else _once(sum(ratios) / len(ratios))
    logs = {task: _constant(teachers, task, "log_rmse", entry) for task in tasks}
    skills = {task: _constant(teachers, task, "skill", entry) for task in tasks}
    known_logs = {task: value for task, value in logs.items() if value}
    return ResultRow(row.title, cells, {}, skills, known_logs, relative, row.parameters)


def _constant(
    teachers: Mapping[str, Mapping[str, Any]],
    task: str,
    metric: str,
    entry: str = "teacher",
) -> Optional[Estimate]:
    value = (teachers.get(task, {}).get(entry) or {}).get(metric)
    return None if value is None else _once(value)


def _once(value: float) -> Estimate:
    return Estimate(value, 0.0, [value])


def error_ratio(
    entry: Optional[Mapping[str, Any]], teacher: Optional[Mapping[str, Any]]
) -> Optional[float]:
    """The error of an entry of evaluation.json over the teacher's; None without."""
    error, reference = main_error(entry), main_error(teacher)
    return error / reference if error is not None and reference else None


def _teachers(outcomes: Iterable[Outcome]) -> Dict[str, Mapping[str, Any]]:
    """Task -> numbers of "teacher" and "constant", the same in whatever run has it.

    Raises:
      UserError: if they are not: the runs are of different teachers or images.
    """
    entries: Dict[str, Mapping[str, Any]] = {}
    folders: Dict[str, pathlib.Path] = {}
    for outcome in outcomes:
        for task, found in outcome.evaluation["tasks"].items():
            entries.setdefault(task, found)
            first = folders.setdefault(task, outcome.folder)
            of_both = (entries[task], found)
            old, new = (main_error(e.get("teacher")) or 0.0 for e in of_both)
            # Processors round differently.
            if abs(old - new) > 1e-3 * old:
                raise UserError(
                    f"{outcome.folder}: the teacher of {task} has error {new:#.4g} "
                    f"there, {old:#.4g} in {first}: teachers or images have changed "
                    "since. Remove the older of the two, or give another --model_dir."
                )
    return {
        task: {"teacher": found.get("teacher"), _CONSTANT: _constant_answer(found)}
        for task, found in entries.items()
    }


def _constant_answer(entries: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    answer = next(filter(None, map(entries.get, constant_answers.NAMES)), None)
    return answer and {**answer, "skill": skill(answer, answer)}


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
    return any(student and main_error(student) is None for student in students)


def _estimate(
    row: Row, by_seed: BySeed, teachers: Mapping[str, Any], column: Column
) -> Optional[Estimate]:
    task, metric = column
    if not row.trainings:
        return _constant(teachers, task, metric)
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
    logs = {t: _over_seeds(by_seed, t, "student", "log_rmse") for t in tasks}
    return ResultRow(
        row.title,
        cells,
        {t: _over_seeds(by_seed, t, "student_vs_teacher", "rmse") for t in tasks},
        {t: _over_seeds(by_seed, t, "student", "skill") for t in tasks},
        {t: value for t, value in logs.items() if value},
        Estimate.of(_relative(by_seed, tasks)),
        row.parameters,
        first and first[0].evaluation["step"],
        Estimate.of(costs),
        first and sum(o.evaluation["parameters"]["student"] for o in first),
        missing,
    )


def _relative(by_seed: BySeed, tasks: Sequence[str]) -> Dict[int, float]:
    """Seed -> error over the teacher's, mean over the tasks; where all have both."""
    relative = {}
    for seed, outcomes in by_seed.items():
        measured = {}
        for outcome in outcomes:
            for task, entries in outcome.evaluation["tasks"].items():
                ratio = error_ratio(entries["student"], entries["teacher"])
                if task in tasks and ratio is not None:
                    measured[task] = ratio
        if len(measured) == len(tasks):
            relative[seed] = sum(measured.values()) / len(measured)
    return relative


def clause(message: str) -> str:
    """An error message for a page: its first sentence, without folders."""
    text = re.sub(r"(?<![\w:/])/(?:[^\s/:,;'\"]+/)*", "", message)
    text = re.split(r"(?<=[^.])[.;]\s", text.strip(), maxsplit=1)[0]
    return text if len(text) <= 120 else text[:119].rstrip() + "…"


def as_json(tables: Sequence[ResultTable]) -> List[Dict[str, Any]]:
    """Tables of results for JSON."""

    def estimate(value: Optional[Estimate]) -> Optional[Dict[str, Any]]:
        return value and value._asdict()

    return [
        {
            "title": table.title,
            "findings": [
                {**f._asdict(), "difference": estimate(f.difference)}
                for f in table.findings
            ],
            "rows": [
                {
                    "title": row.title,
                    "missing": row.missing,
                    "steps": row.steps,
                    "parameters": row.parameters,
                    "paper_parameters": row.paper_parameters,
                    "mean_relative_rmse": estimate(row.relative),
                    "skill": {t: estimate(value) for t, value in row.skills.items()},
                    "log_rmse": {
                        task: estimate(value) for task, value in row.log_rmse.items()
                    },
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
