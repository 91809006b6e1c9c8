"""A study's pictures: estimates with their intervals, curves over steps."""

import pathlib
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from soka_tf.atomic import replacing
from soka_tf.evaluation.curves import COLOURS, read_columns
from soka_tf.tasks import get_task
from tools.studies.intervals import Estimate
from tools.studies.report import column_title
from tools.studies.results import MEDIAN, ResultRow, ResultTable

_GREY = "#777777"
_DRAWN = ("rmse", "accuracy")
# Methods of one cost are drawn beside each other, or intervals hide each other.
_APART = 1.015
_MARKERS = "os^Dv*PX<>dhp8"


def draw_table(table: ResultTable, path: pathlib.Path) -> None:
    """Draws every row's rmse, or accuracy, one panel a task and the mean.

    Args:
      table: with at least one row that was run.
      path: the PNG to write or replace.
    """
    # The median image would leave no room to tell students apart.
    rows = [row for row in table.rows if row.title != MEDIAN]
    panels: List[Tuple[str, List[Optional[Estimate]]]] = []
    for column in table.columns:
        if column[1] in _DRAWN:
            panels.append((column_title(*column), [r.cells[column].ours for r in rows]))
    panels.append(("error / teacher's, mean", [row.relative for row in rows]))
    height = 1.1 + 0.36 * len(rows)
    figure = Figure(figsize=(3.4 * len(panels) + 1.2, height), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, estimates) in zip(axes, panels):
        _draw_estimates(axis, title, rows, estimates)
    axes[0].set_yticks(range(len(rows)), [row.title for row in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    _save(figure, path)


def _draw_estimates(
    axis, title: str, rows: Sequence[ResultRow], estimates: Sequence[Optional[Estimate]]
) -> None:
    for place, (row, estimate) in enumerate(zip(rows, estimates)):
        if estimate is None:
            continue
        if row.steps is None:  # a teacher
            axis.axvline(estimate.mean, color=_GREY, linestyle=":", linewidth=1.2)
        colour = _GREY if row.steps is None else COLOURS[0]
        axis.plot(
            estimate.values,
            [place] * len(estimate.values),
            "o",
            color=colour,
            alpha=0.35,
            markersize=4,
            markeredgewidth=0,
        )
        axis.errorbar(
            estimate.mean,
            place,
            xerr=estimate.half_width or 0,
            fmt="D",
            color=colour,
            markersize=5,
            capsize=3,
        )
    # The interval of two seeds may be many times as wide as all that was measured.
    values = [value for estimate in estimates if estimate for value in estimate.values]
    margin = max(values) - min(values) if values else 0.0
    if margin:
        left, right = axis.get_xlim()
        axis.set_xlim(max(left, min(values) - margin), min(right, max(values) + margin))
    axis.set_title(title, fontsize=10)
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.locator_params(axis="x", nbins=5)


def draw_curves(runs: Mapping[str, Sequence[pathlib.Path]], path: pathlib.Path) -> None:
    """Draws losses and task weights over steps, a column a configuration.

    Lines are means over the seeds; bands go from the least to the largest.

    Args:
      runs: title -> metrics.csv of its seeds.
      path: the PNG to write or replace.
    """
    figure = Figure(figsize=(5.2 * len(runs), 5.6), dpi=120, layout="constrained")
    axes = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    for (title, files), (losses, weights) in zip(runs.items(), axes.T):
        columns = [read_columns(str(file))[0] for file in files]
        names = [n[len("loss/soft/") :] for n in columns[0] if "loss/soft/" in n]
        for number, task in enumerate(names):
            colour = COLOURS[number % len(COLOURS)]
            for axis, kind in ((losses, "loss/soft/"), (weights, "task_weight/")):
                steps, values = _together(columns, kind + task)
                axis.fill_between(
                    steps, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0
                )
                axis.plot(
                    steps, values.mean(0), color=colour, label=get_task(task).title
                )
        losses.set_yscale("log")
        losses.set_title(title, fontsize=10)
        weights.set_ylim(0, 1)
        weights.set_xlabel("step")
        for axis in (losses, weights):
            axis.grid(axis="y", color="#e5e5e5", linewidth=0.8)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("soft-target loss")
    axes[1, 0].set_ylabel("task weight")
    axes[0, 0].legend(frameon=False)
    _save(figure, path)


class CostCurve(NamedTuple):
    """A method's error against its budget: points (x, value, low, high), by x."""

    title: str
    points: Sequence[Tuple[float, float, float, float]]
    is_main: bool


def draw_costs(
    panels: Mapping[str, Sequence[CostCurve]],
    levels: Mapping[str, Mapping[str, float]],
    path: pathlib.Path,
) -> None:
    """Draws errors against budgets, a panel an error, with intervals.

    Args:
      panels: title -> curves, the same methods in each.
      levels: title of a panel -> name -> a constant error, drawn as a line.
      path: the PNG to write or replace.
    """
    figure = Figure(figsize=(4.2 * len(panels) + 2.6, 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items()):
        for style, (name, level) in zip((":", "--"), levels[title].items()):
            axis.axhline(level, color=_GREY, linestyle=style, linewidth=1.2, label=name)
        for number, curve in enumerate(sorted(curves, key=lambda c: not c.is_main)):
            x, value, low, high = np.array(curve.points, float).T
            axis.errorbar(
                x * _APART ** (number - len(curves) / 2),
                value,
                np.array([value - low, high - value]),
                color=COLOURS[number % len(COLOURS)],
                linestyle="-"
                if curve.is_main
                else ("--", ":", "-.")[number // len(COLOURS) % 3],
                marker=_MARKERS[number % len(_MARKERS)],
                linewidth=2.0 if curve.is_main else 1.0,
                markersize=5,
                fillstyle="full" if curve.is_main else "none",
                capsize=2,
                label=curve.title,
            )
        # The interval of a run that has lost a task would leave no height to others.
        known = [*levels[title].values()]
        low = min([*known, *(y for curve in curves for _, y, *_ in curve.points)])
        axis.set_ylim(0.9 * low, min(axis.get_ylim()[1], 1.25 * max(known)))
        axis.set_xscale("log")
        costs = sorted({x for curve in curves for x, *_ in curve.points})
        axis.set_xticks(costs, [f"{x:.0f}" for x in costs])
        axis.minorticks_off()
        axis.set_xlabel("budget in CPU seconds, teachers given\n(points moved apart)")
        axis.set_title(f"{title} / teachers'", fontsize=10)
        axis.grid(color="#e5e5e5", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    _save(figure, path)


def _together(
    columns: Sequence[Dict[str, Tuple[np.ndarray, np.ndarray]]], name: str
) -> Tuple[np.ndarray, np.ndarray]:
    """Steps that all seeds know, and the values, [seeds, steps]."""
    curves = [dict(zip(*c[name])) for c in columns]
    steps = sorted(set.intersection(*map(set, curves)))
    return np.array(steps), np.array([[curve[s] for s in steps] for curve in curves])


def _save(figure: Figure, path: pathlib.Path) -> None:
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=120)
