"""A run's metrics.csv as curves to look at."""

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from soka_tf.atomic import replacing
from soka_tf.data.documents import finite, read_csv
from soka_tf.errors import UserError
from soka_tf.tasks import get_task

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_TRANSFER = "representation transfer"
_TRANSFER_STYLE = {"color": "#777777", "linestyle": "--"}
_LINES = ("-", "--", "-.", ":")
_FEWEST_WITHOUT_MARKS = 10
_STAGE_TITLES = {
    "joint": "joint start",
    "cycle": "cycles begin",
    "cycle_gan": "cycles with GAN begin",
    "tail": "decoders alone",
    "tail_gan": "decoders alone, with GAN",
}
_SETTLING = "BatchNorm settles"
_LABEL_POINTS = 9
_Styles = Dict[str, Dict[str, Any]]


def draw_curves(
    metrics_csv_path: str, out_png: str, settle_step: Optional[int] = None
) -> None:
    """Draws losses and task weights over steps, as the paper's Fig. 5 does.

    Between them the errors on validation images (`evaluation.soft_errors`), where they
    were measured more than once.

    Args:
      metrics_csv_path: a table with a column "step" and any of "loss/soft/<task>",
        "loss/transfer", "task_weight/<task>", "validation/soft/<task>" and "stage"
        (joint, cycle or cycle_gan); empty cells are left out.
      out_png: the picture to write or replace.
      settle_step: `Schedule.settle_step`, to be marked if it was reached.

    Raises:
      UserError: if the file is missing or holds no such rows.
    """
    columns, stages = read_columns(metrics_csv_path)
    all_steps = columns["step"][0]
    marks = [(step, _STAGE_TITLES.get(stage, stage)) for step, stage in stages]
    if settle_step is not None and settle_step < all_steps.max():
        marks = sorted([*marks, (settle_step, _SETTLING)], key=lambda mark: mark[0])
    losses, validation, weights = (
        {
            _title(name[len(prefix) :]): values
            for name, values in columns.items()
            if name.startswith(prefix)
        }
        for prefix in ("loss/soft/", "validation/soft/", "task_weight/")
    )
    titles = list(dict.fromkeys([*losses, *weights]))
    styles = {t: _styles(i) for i, t in enumerate(titles)}
    if "loss/transfer" in columns:
        losses[_TRANSFER] = columns["loss/transfer"]
        styles[_TRANSFER] = _TRANSFER_STYLE
    losses, weights = (_from_report_before(c, all_steps) for c in (losses, weights))
    panels = [(_draw_losses, losses, 3)]
    if any(len(steps) > 1 for steps, _ in validation.values()):
        panels.append((_draw_validation, validation, 2))
    panels += [(_draw_weights, weights, 2)] if weights else []

    heights = [height for _, _, height in panels]
    size = (10, 1.5 + 1.25 * sum(heights))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]
    for axis, (draw, curves, _) in zip(axes, panels):
        draw(axis, curves, styles)
        _finish(axis, marks, len(curves))
    title = f"{all_steps.max():,.0f} steps of training"
    figure.suptitle(title, x=0.01, horizontalalignment="left", weight="bold")
    axes[-1].set_xlabel("step")
    axes[-1].set_xlim(0, 1.01 * all_steps.max())
    axes[-1].xaxis.set_major_formatter(FuncFormatter(_whole))
    axes[-1].xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    figure.align_ylabels(list(axes))
    figure.draw_without_rendering()  # only then do texts know where they are
    for axis in axes:
        _separate_labels(axis)

    with replacing(out_png) as temporary:
        canvas.print_figure(temporary, format="png")


_Curve = Tuple[np.ndarray, np.ndarray]


def read_columns(path: str) -> Tuple[Dict[str, _Curve], List[Tuple[float, str]]]:
    """Reads a run's metrics.csv, without what is no number or not finite.

    Returns:
      Name of a column -> (steps, values), float [n] each; and of every stage (step,
      stage), the step being that of the row before its first one, 0 without one. A row
      is of the steps since the row before.

    Raises:
      UserError: if the file cannot be read or has no losses.
    """
    remedy = "Restore the file, or let the run train some steps."
    rows = read_csv(path, ["step"], remedy, "the metrics cannot be read")
    points: Dict[str, List[Tuple[float, float]]] = {}
    stages: List[Tuple[float, str]] = []
    before = 0.0
    for row in rows:
        step = finite(row["step"])
        if step is None:
            continue
        stage = row.get("stage")
        if stage and (not stages or stages[-1][1] != stage):
            stages.append((before, stage))
        before = step
        for name, text in row.items():
            value = finite(text)
            if value is not None:
                points.setdefault(name, []).append((step, value))
    curves = {name: tuple(np.array(p).T) for name, p in points.items() if name}
    if not any(name.startswith("loss/") for name in curves):
        raise UserError(
            f"{path}: there is nothing to draw. It needs a column 'step' and columns "
            "'loss/soft/<task>' with numbers; let the run train some steps first."
        )
    return curves, stages


def _title(task: str) -> str:
    """As it is: Matplotlib would read what stands between two dollars as formulas."""
    return get_task(task).title.replace("$", r"\$")


def _styles(index: int) -> Dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        # Two weights mirror each other, or are the same: both shall be seen.
        "linestyle": _LINES[index % len(_LINES)],
    }


def _from_report_before(curves: Dict[str, _Curve], steps: np.ndarray):
    """Curves of a single row become lines over the steps that it is the mean of."""
    longer = {}
    for title, (own, values) in curves.items():
        if len(own) == 1:
            before = steps[steps < own[0]].max(initial=0.0)
            own, values = np.array([before, own[0]]), values.repeat(2)
        longer[title] = own, values
    return longer


def _draw_losses(axis: Axes, losses: Dict[str, _Curve], styles: _Styles) -> None:
    for title, (steps, values) in losses.items():
        dashed = title == _TRANSFER
        colour, smooth = styles[title]["color"], _smooth(values)
        if smooth is not values:
            axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        axis.plot(
            steps,
            smooth,
            color=colour,
            linewidth=1.8,
            linestyle="--" if dashed else "-",
            marker=_marker(steps),
            label=title if dashed else f"soft targets: {title}",
        )
    if all(np.all(values > 0) for _, values in losses.values()):
        _logarithmic(axis)
    axis.set_ylabel("loss")


def _draw_validation(axis: Axes, errors: Dict[str, _Curve], styles: _Styles) -> None:
    for title, (steps, values) in errors.items():
        colour = styles.get(title, _TRANSFER_STYLE)["color"]
        label = f"validation: {title}"
        axis.plot(steps, values, "o-", color=colour, markersize=4, label=label)
    if all(np.all(values > 0) for _, values in errors.values()):
        _logarithmic(axis)
    axis.set_ylabel("validation error\n/ variance of the teacher")


def _draw_weights(axis: Axes, weights: Dict[str, _Curve], styles: _Styles) -> None:
    for title, (steps, values) in weights.items():
        axis.plot(
            steps,
            values,
            linewidth=1.8,
            marker=_marker(steps),
            label=f"weight: {title}",
            **styles[title],
        )
    axis.set_ylim(0, max(1.0, *(v.max() for _, v in weights.values())))
    axis.set_ylabel("task weight")


def _logarithmic(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
    axis.tick_params(axis="y", which="minor", labelsize=8)


def _minor_label(y: float, _: int) -> str:
    leading = round(y / 10 ** np.floor(np.log10(y)))
    return f"{y:g}" if leading in (2, 5) else ""


def _whole(x: float, _: int) -> str:
    # Of a few steps there are ticks between them.
    return f"{x:,.0f}" if x == round(x) else ""


def _marker(steps: np.ndarray) -> str:
    return "o" if len(steps) < _FEWEST_WITHOUT_MARKS else ""


def _finish(axis: Axes, marks: List[Tuple[float, str]], curves: int) -> None:
    """Adds the legend, above the curves, and marks: where every stage begins."""
    for step, label in marks:
        axis.axvline(step, color="#999999", linewidth=1, linestyle=":")
        axis.annotate(
            label,
            xy=(step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            verticalalignment="top",
            color="#595959",
            fontsize=_LABEL_POINTS,
        )
    axis.legend(
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2,
        handlelength=3,
        ncols=min(curves, 3),
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axis.set_axisbelow(True)


def _separate_labels(axis: Axes) -> None:
    """Lowers labels of marks by lines until none is on another one."""
    placed: List[Any] = []
    for label in axis.texts:
        while any(label.get_window_extent().overlaps(other) for other in placed):
            x, y = label.xyann
            label.xyann = x, y - 1.4 * _LABEL_POINTS
        placed.append(label.get_window_extent())


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred running mean over a fiftieth of the curve; itself if that is short."""
    half = len(values) // 100
    if half < 1:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
