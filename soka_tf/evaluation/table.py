"""An evaluation as a table to read."""

from typing import Any, List, Mapping, Optional

from tabulate import SEPARATING_LINE, tabulate

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
_OF_UNITS = ("rmse", "mean_absolute_error")
_UNDEFINED = "-"


def format_table(result: Mapping[str, Any]) -> str:
    """Returns an evaluation as a text table, four rows a task, two without labels.

    Args:
      result: what `soka_tf.evaluation.evaluator.evaluate` returned, or the content of
        evaluation.json.

    Returns:
      Several lines without a final newline, at most 100 characters wide with
      Taskonomy's tasks.
    """
    reported = {
        metric
        for entries in result["tasks"].values()
        for entry in entries.values()
        for metric in entry or ()
    }
    columns = [name for name in _COLUMNS if name in reported]
    ratios = ["skill", "vs teacher"] if any(_labelled(result)) else ["skill"]
    # The names of the columns are the first row: tabulate pads true headers widely.
    rows: List[Any] = [["task", "", *(_COLUMNS[c] for c in columns), *ratios]]
    for name, entries in result["tasks"].items():
        rows.append(SEPARATING_LINE)
        for row in _task_rows(get_task(name), entries, columns):
            rows.append(row[: len(rows[0])])
    table = tabulate(
        rows,
        tablefmt="simple",
        colalign=("left", "left", *("right" for _ in (*columns, *ratios))),
        disable_numparse=True,
    )
    return "\n".join([_heading(result), "", table, "", *_notes(result, columns)])


def _labelled(result: Mapping[str, Any]) -> List[int]:
    """How many images have a label of each task."""
    counts = result.get("labelled_images", {})
    return [counts.get(name, result["images"]) for name in result["tasks"]]


def _heading(result: Mapping[str, Any]) -> str:
    parameters = result["parameters"]
    teachers, student = parameters["teachers"], parameters["student"]
    share = f"{student / teachers:.0%}" if teachers else ""
    smallest = parameters.get("smallest_teacher")
    if smallest:
        share += f"; {student / smallest:.0%} of the smallest teacher"
    return (
        f"{result['split']}: {result['images']:,} images, step {result['step']:,}\n"
        f"parameters: teachers {teachers:,}, student {student:,}"
        + (f" ({share})" if share else "")
    )


def _task_rows(task: Task, entries: Mapping[str, Any], columns: List[str]) -> List[Any]:
    rows: List[Any] = []
    for key, row_title in _ROWS.items():
        entry = entries.get(key)
        if entry is None:  # against labels, of which there are none
            continue
        cells = [_number(c, entry.get(c)) if c in task.metrics else "" for c in columns]
        rows.append(["", row_title, *cells, _skill(key, entries), _share(key, entries)])
    # The task and the unit of its errors stand in the first two rows only.
    has_unit = task.unit and any(name in task.metrics for name in _OF_UNITS)
    names = [task.title, f"({task.unit})" if has_unit else ""]
    if has_unit and len(rows) == 1:
        rows.append([""] * len(rows[0]))
    for row, text in zip(rows, names):
        row[0] = text
    return rows


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
        constants = [e for name, e in entries.items() if name.endswith("_of_teacher")]
        value = skill(entries[key], constants[0]) if constants else None
    return "" if value is None else f"{value:.2f}"


def _share(key: str, entries: Mapping[str, Any]) -> str:
    """The error against truth, mostly rmse, in percent of the teacher's."""
    teacher, error = main_error(entries.get("teacher")), main_error(entries[key])
    if key in ("teacher", "student_vs_teacher") or not teacher or error is None:
        return ""
    return f"{error / teacher:.1%}"


def _notes(result: Mapping[str, Any], columns: List[str]) -> List[str]:
    notes = [
        "Lower is better for rmse (in the task's unit), rel and angle; higher for "
        "<1.25, its powers",
        "and skill (1: no error; 0: that of the constant answer). Definitions: "
        "docs/metrics.md.",
    ]
    if "mean_absolute_error" in columns:
        notes.append("mae: mean absolute error, in the task's unit; lower is better.")
    if set(CLASS_METRICS) & set(columns):
        notes.append(
            "acc.: share of pixels with the right class; mIoU: mean intersection over "
            "union;",
        )
        notes.append(
            "higher is better; their skill is that of the share of wrong pixels."
        )
    counts = dict(zip(result["tasks"], _labelled(result)))
    if not any(counts.values()):
        notes.append("No labels: the student is compared with its teachers only.")
        counts = {}
    for name, count in counts.items():
        if count == 0:
            notes.append(
                f"{get_task(name).title}: no labels, so only student vs teacher."
            )
        elif count < result["images"]:
            notes.append(
                f"{get_task(name).title}: {count:,} of {result['images']:,} images "
                "have a label."
            )
    for name, entries in result["tasks"].items():
        for key, row_title in _ROWS.items():
            count = (entries.get(key) or {}).get("nonfinite_pixels")
            if count:
                notes.append(
                    f"{get_task(name).title}, {row_title}: {count:,} pixels are NaN or "
                    "infinite, errors are undefined."
                )
    return notes
