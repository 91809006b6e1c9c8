"""An evaluation as a table to read."""

import textwrap
from itertools import zip_longest
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from tabulate import SEPARATING_LINE, tabulate

from soka_tf.errors import counted
from soka_tf.evaluation.metrics import main_error, skill
from soka_tf.task_rows import CLASS_METRICS
from soka_tf.tasks import Task, get_task

_ROWS = {
    "teacher": "teacher",
    "student": "student",
    "student_vs_teacher": "student vs teacher",
    "baseline_median": "median image",
    "baseline_commonest_class": "commonest class",
    "baseline_median_of_teacher": "teacher's median",
    "baseline_commonest_class_of_teacher": "teacher's commonest",
}
_COLUMNS = {
    "rmse": "rmse",
    "rel": "rel",
    "delta1": "<1.25",
    "delta2": "<1.25²",
    "delta3": "<1.25³",
    "mean_absolute_error": "mae",
    "mean_angle_deg": "angle",
    "accuracy": "acc.",
    "mean_iou": "mIoU",
}
_SKILL, _SHARE = "skill", "vs teacher"
_OF_UNITS = ("rmse", "mean_absolute_error")
_UNDEFINED = "-"
_NOTE_WIDTH = 88


class Row(NamedTuple):
    """One row of a task.

    Attributes:
      title: who was measured against what.
      cells: a number a column; "-" where it is undefined, "" where the task has none.
      skill: as measured, "" for none.
      share: the error in percent of the teacher's, "" for none.
    """

    title: str
    cells: Tuple[str, ...]
    skill: str
    share: str


class TaskRows(NamedTuple):
    """The rows of a task; its title, and the unit of its errors, "" for none."""

    title: str
    unit: str
    rows: Tuple[Row, ...]


class Table(NamedTuple):
    """An evaluation in words and numbers that are ready to be shown.

    Attributes:
      heading: what was measured, and the parameters, a line each.
      columns: their titles, without the last ones.
      last_columns: titles of skill and share; of skill alone without any labels.
      tasks: the rows.
      notes: sentences on how it is read.
    """

    heading: Tuple[str, ...]
    columns: Tuple[str, ...]
    last_columns: Tuple[str, ...]
    tasks: Tuple[TaskRows, ...]
    notes: Tuple[str, ...]


def evaluation_table(result: Mapping[str, Any]) -> Table:
    """Returns an evaluation as a table.

    Args:
      result: what `soka_tf.evaluation.evaluator.evaluate` returned, or the content of
        evaluation.json.
    """
    reported = {
        metric
        for entries in result["tasks"].values()
        for entry in entries.values()
        for metric in entry or ()
    }
    columns = [name for name in _COLUMNS if name in reported]
    return Table(
        _heading(result),
        tuple(_COLUMNS[name] for name in columns),
        (_SKILL, _SHARE) if any(_labelled(result)) else (_SKILL,),
        tuple(
            _task_rows(get_task(name), entries, columns)
            for name, entries in result["tasks"].items()
        ),
        tuple(_notes(result, columns)),
    )


def format_table(result: Mapping[str, Any]) -> str:
    """Returns an evaluation as a text table, four rows a task, two without labels.

    Args:
      result: as in `evaluation_table`.

    Returns:
      Several lines without a final newline, at most 100 characters wide with
      Taskonomy's tasks.
    """
    table = evaluation_table(result)
    # The names of the columns are the first row: tabulate pads true headers widely.
    rows: List[Any] = [["task", "", *table.columns, *table.last_columns]]
    for task in table.tasks:
        rows.append(SEPARATING_LINE)
        # The task and the unit of its errors stand in the first two rows only.
        first = (task.title, f"({task.unit})" if task.unit else "")
        empty = Row("", ("",) * len(table.columns), "", "")
        for row, text in zip_longest(task.rows, filter(None, first)):
            title, cells, *last = row or empty
            last = last[: len(table.last_columns)]
            rows.append([text or "", title, *cells, *last])
    text = tabulate(
        rows,
        tablefmt="simple",
        colalign=("left", "left", *("right" for _ in rows[0][2:])),
        disable_numparse=True,
    )
    remarks = filter(None, (*table.notes, barely_trained(result)))
    notes = [textwrap.fill(note, _NOTE_WIDTH) for note in remarks]
    return "\n".join([*table.heading, "", text, "", *notes])


def _labelled(result: Mapping[str, Any]) -> List[int]:
    """How many images have a label of each task."""
    counts = result.get("labelled_images", {})
    return [counts.get(name, result["images"]) for name in result["tasks"]]


def barely_trained(result: Mapping[str, Any]) -> str:
    """Names the tasks whose student errs as much as the constant answer, or more.

    Against the truth, or the teacher where no image has a label; a task without a
    constant answer is none of them.

    Returns:
      A sentence; "" if there is no such task.
    """
    titles = []
    for name, entries in result["tasks"].items():
        values = [(entries.get("student") or {}).get("skill"), _skill_of_copy(entries)]
        known = [value for value in values if value is not None]
        if known and known[0] <= 0:
            titles.append(get_task(name).title)
    if not titles:
        return ""
    return (
        f"Barely trained: no better at {', '.join(titles)} than one answer for all "
        "images (the median or the commonest class)."
    )


def _heading(result: Mapping[str, Any]) -> Tuple[str, str]:
    parameters = result["parameters"]
    teachers, student = parameters["teachers"], parameters["student"]
    share = f"{student / teachers:.0%}" if teachers else ""
    smallest = parameters.get("smallest_teacher")
    if smallest:
        share += f"; {student / smallest:.0%} of the smallest teacher"
    images = counted(result["images"], "image")
    return (
        f"{result['split']}: {images}, step {result['step']:,}",
        f"parameters: teachers {teachers:,}, student {student:,}"
        + (f" ({share})" if share else ""),
    )


def _task_rows(
    task: Task, entries: Mapping[str, Any], columns: Sequence[str]
) -> TaskRows:
    rows = []
    for key, title in _ROWS.items():
        entry = entries.get(key)
        if entry is None:  # against labels, of which there are none
            continue
        cells = [_number(c, entry.get(c)) if c in task.metrics else "" for c in columns]
        rows.append(
            Row(title, tuple(cells), _skill(key, entries), _share(key, entries))
        )
    has_unit = any(name in task.metrics for name in _OF_UNITS)
    return TaskRows(task.title, task.unit if has_unit else "", tuple(rows))


def _number(metric: str, value: Optional[float]) -> str:
    if value is None:
        return _UNDEFINED
    if metric.startswith("delta") or metric in CLASS_METRICS:
        return f"{value:.3f}"
    if metric == "mean_angle_deg":
        return f"{value:.1f}°"
    # Three significant digits, without exponents for the ranges that occur.
    return f"{value:#.3g}" if 1e-4 <= value < 1000 or value == 0 else f"{value:.2e}"


def _skill(key: str, entries: Mapping[str, Any]) -> str:
    """As measured; of the student against its teacher where no image has a label."""
    value = (entries[key] or {}).get("skill")
    if key == "student_vs_teacher":
        value = _skill_of_copy(entries)
    return "" if value is None else f"{value:.2f}"


def _skill_of_copy(entries: Mapping[str, Any]) -> Optional[float]:
    """Of the student against its teacher; None where an image has a label."""
    constants = [e for name, e in entries.items() if name.endswith("_of_teacher")]
    return skill(entries["student_vs_teacher"], constants[0]) if constants else None


def _share(key: str, entries: Mapping[str, Any]) -> str:
    """The error against truth, mostly rmse, in percent of the teacher's."""
    teacher, error = main_error(entries.get("teacher")), main_error(entries[key])
    if key in ("teacher", "student_vs_teacher") or not teacher or error is None:
        return ""
    return f"{error / teacher:.1%}"


def _constant(result: Mapping[str, Any]) -> str:
    """What skill compares with, by the titles of its rows."""
    shown = [
        title
        for key, title in _ROWS.items()
        if key.startswith("baseline")
        and any(entries.get(key) for entries in result["tasks"].values())
    ]
    return " or ".join(shown) or "best constant answer"


def _notes(result: Mapping[str, Any], columns: List[str]) -> List[str]:
    notes = [
        "Lower is better for rmse (in the task's unit), rel and angle; higher for "
        "<1.25, its powers and skill (1: no error; 0: that of the "
        f"{_constant(result)}). Definitions: docs/metrics.md.",
    ]
    if "mean_absolute_error" in columns:
        notes.append("mae: mean absolute error, in the task's unit; lower is better.")
    if set(CLASS_METRICS) & set(columns):
        notes.append(
            "acc.: share of pixels with the right class; mIoU: mean intersection over "
            "union; higher is better; their skill is that of the share of wrong pixels."
        )
    labelled = dict(zip(result["tasks"], _labelled(result)))
    if not any(labelled.values()):
        notes.append("No labels: the student is compared with its teachers only.")
    for name, count in labelled.items():
        if count == 0 and any(labelled.values()):
            notes.append(
                f"{get_task(name).title}: no labels, so only student vs teacher."
            )
        elif 0 < count < result["images"]:
            notes.append(
                f"{get_task(name).title}: {count:,} of {result['images']:,} images "
                f"{'has' if count == 1 else 'have'} a label."
            )
    for name, entries in result["tasks"].items():
        alone = (labelled[name] or result["images"]) == 1
        if alone and any(key.startswith("baseline_median") for key in entries):
            notes.append(
                f"{get_task(name).title}: a single image was compared, and the median "
                "image of that would be itself: there is none."
            )
        for key, row_title in _ROWS.items():
            count = (entries.get(key) or {}).get("nonfinite_pixels")
            if count:
                notes.append(
                    f"{get_task(name).title}, {row_title}: {count:,} pixels are NaN or "
                    "infinite, errors are undefined."
                )
    return notes
