"""A run's metrics.csv as curves to look at."""

from typing import Dict, List, Tuple

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
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_TRANSFER = "representation transfer"
_TRANSFER_COLOUR = "#777777"
_FEWEST_FOR_A_LINE = 10
_STAGE_TITLES = {
    "joint": "joint",
    "cycle": "cycles",
    "cycle_gan": "cycles + GAN",
    "tail": "decoders",
    "tail_gan": "decoders + GAN",
}


def draw_curves(metrics_csv_path: str, out_png: str) -> None:
    """Draws losses and task weights over steps, as the paper's Fig. 5 does.

    Args:
      metrics_csv_path: a table with a column "step" and any of "loss/soft/<task>",
        "loss/transfer", "task_weight/<task>" and "stage" (joint, cycle or
        cycle_gan); empty cells are left out.
      out_png: the picture to write or replace.

    Raises:
      UserError: if the file is missing or holds no such rows.
    """
    columns, stages = read_columns(metrics_csv_path)
    losses = {
        get_task(name[len("loss/soft/") :]).title: values
        for name, values in columns.items()
        if name.startswith("loss/soft/")
    }
    weights = {
        get_task(name[len("task_weight/") :]).title: values
        for name, values in columns.items()
        if name.startswith("task_weight/")
    }
    titles = list(dict.fromkeys([*losses, *weights]))
    colours = {t: _COLOURS[i % len(_COLOURS)] for i, t in enumerate(titles)}
    if "loss/transfer" in columns:
        losses[_TRANSFER] = columns["loss/transfer"]
        colours[_TRANSFER] = _TRANSFER_COLOUR

    figure = Figure(figsize=(10, 7 if weights else 4.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    heights = [3, 2] if weights else [1]
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]
    _draw_losses(axes[0], losses, colours)
    if weights:
        _draw_weights(axes[1], weights, colours)
    for axis in axes:
        _draw_stages(axis, stages, titled=axis is axes[0])
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e5e5e5", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.margins(x=0.01)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes[-1].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    figure.align_ylabels(list(axes))

    with replacing(out_png) as temporary:
        canvas.print_figure(temporary, format="png")


_Curve = Tuple[np.ndarray, np.ndarray]


def read_columns(path: str) -> Tuple[Dict[str, _Curve], List[Tuple[float, str]]]:
    """Reads a run's metrics.csv, without what is no number or not finite.

    Returns:
      Name of a column -> (steps, values), float [n] each; and (step, stage) of every
      stage's first row.

    Raises:
      UserError: if the file cannot be read or has no losses.
    """
    remedy = "Restore the file, or let the run train some steps."
    rows = read_csv(path, ["step"], remedy, "the metrics cannot be read")
    points: Dict[str, List[Tuple[float, float]]] = {}
    stages: List[Tuple[float, str]] = []
    for row in rows:
        step = finite(row["step"])
        if step is None:
            continue
        stage = row.get("stage")
        if stage and (not stages or stages[-1][1] != stage):
            stages.append((step, stage))
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


def _draw_losses(axis: Axes, losses: Dict[str, _Curve], colours: Dict[str, str]):
    for title, (steps, values) in losses.items():
        dashed = title == _TRANSFER
        smooth = _smooth(values)
        if smooth is not values:
            axis.plot(steps, values, color=colours[title], alpha=0.2, linewidth=0.8)
        axis.plot(
            steps,
            smooth,
            color=colours[title],
            linewidth=1.8,
            linestyle="--" if dashed else "-",
            marker=_marker(steps),
            label=title if dashed else f"soft targets: {title}",
        )
    if all(np.all(values > 0) for _, values in losses.values()):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axis.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
        axis.tick_params(axis="y", which="minor", labelsize=8)
    axis.set_ylabel("loss")
    axis.legend(frameon=False, loc="upper right", ncols=min(len(losses), 3))


def _minor_label(y: float, _: int) -> str:
    leading = round(y / 10 ** np.floor(np.log10(y)))
    return f"{y:g}" if leading in (2, 5) else ""


def _draw_weights(axis: Axes, weights: Dict[str, _Curve], colours: Dict[str, str]):
    for title, (steps, values) in weights.items():
        axis.plot(
            steps,
            values,
            color=colours[title],
            linewidth=1.8,
            marker=_marker(steps),
            label=title,
        )
    axis.set_ylim(0, max(1.0, *(v.max() for _, v in weights.values())))
    axis.set_ylabel("task weight")
    axis.legend(frameon=False, loc="upper right", ncols=min(len(weights), 3))


def _marker(steps: np.ndarray) -> str:
    # A single point makes no line.
    return "o" if len(steps) < _FEWEST_FOR_A_LINE else ""


def _draw_stages(axis: Axes, stages: List[Tuple[float, str]], titled: bool) -> None:
    for index, (step, stage) in enumerate(stages):
        if index:
            axis.axvline(step, color="#999999", linewidth=1, linestyle=":")
        if titled:
            axis.annotate(
                _STAGE_TITLES.get(stage, stage),
                xy=(step, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, 4),
                textcoords="offset points",
                color="#666666",
                fontsize=9,
            )


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred running mean over a fiftieth of the curve; itself if that is short."""
    half = len(values) // 100
    if half < 1:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
