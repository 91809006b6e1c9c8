"""The similarity of teachers as a picture: a clustered matrix beside its dendrogram."""

from typing import Optional, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster import hierarchy

from soka_tf.evaluation.image_grid import write_png
from soka_tf.tasks import get_task

_COLORMAP = "YlGnBu"
_DPI = 120
_CELL_INCHES = 0.46
_LABEL_INCHES = 1.7
_TREE_INCHES = 1.1
_BAR_INCHES = 0.9
_TITLE_INCHES = 0.75
_TARGET_COLOUR = "#D55E00"
_AUXILIARY_COLOUR = "#AA3377"


def cluster_order(similarity: np.ndarray) -> np.ndarray:
    """Orders teachers so that similar ones are neighbours.

    Args:
      similarity: float [m, m].

    Returns:
      int [m]: the leaves of single-linkage clustering, the matrix' rows being points.
    """
    if len(similarity) < 2:
        return np.arange(len(similarity))
    return hierarchy.leaves_list(_linkage(similarity))


def _linkage(similarity: np.ndarray) -> np.ndarray:
    return hierarchy.linkage(similarity, method="single")


def draw_similarity(
    similarity: np.ndarray,
    names: Sequence[str],
    targets: Sequence[str] = (),
    auxiliary: Optional[str] = None,
    path: Optional[str] = None,
    heading: str = "",
) -> np.ndarray:
    """Draws a matrix of similarities in clustered order, as the supplement's Fig. 1.

    Args:
      similarity: float [m, m], of `soka_tf.teachers.rdm.compute_similarity`.
      names: the m tasks.
      targets: tasks to mark as targets.
      auxiliary: the task to mark as the chosen auxiliary teacher.
      path: a PNG to write or replace, None for none.
      heading: a line under the title, what was compared.

    Returns:
      uint8 [height, width, 3].
    """
    similarity = np.asarray(similarity, np.float64)
    count = len(names)
    order = cluster_order(similarity)
    side = max(count * _CELL_INCHES, 3.0)
    widths = {"tree": _TREE_INCHES, "label": _LABEL_INCHES, "bar": _BAR_INCHES}
    width = sum(widths.values()) + side + 0.15
    height = _TITLE_INCHES + side + _LABEL_INCHES
    figure = Figure(figsize=(width, height), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)

    def axes_at(left: float, across: float, high: float = side):
        """Axes from inches, level with the matrix."""
        bottom = _LABEL_INCHES + (side - high) / 2
        return figure.add_axes(
            (left / width, bottom / height, across / width, high / height)
        )

    matrix_left = _TREE_INCHES + _LABEL_INCHES + 0.1
    axis = axes_at(matrix_left, side)
    image = _draw_cells(axis, similarity[np.ix_(order, order)], side / count)
    _label(axis, [names[i] for i in order], targets, auxiliary)
    _mark(axis, [names[i] for i in order], targets, auxiliary)
    if count > 1:
        _draw_tree(axes_at(0.1, _TREE_INCHES - 0.1), similarity)
    bar = axes_at(matrix_left + side + 0.15, 0.18, min(side, 5.0))
    figure.colorbar(image, cax=bar).outline.set_visible(False)
    bar.tick_params(labelsize=9, length=3)

    left = 0.1 / width
    figure.text(
        left,
        1 - 0.3 / height,
        "Similarity of the teachers' representations",
        fontsize=13,
        fontweight="bold",
    )
    figure.text(left, 1 - 0.55 / height, heading, fontsize=9, color="#555555")
    _draw_legend(figure, bool(targets), auxiliary)
    canvas.draw()
    drawn = np.array(canvas.buffer_rgba())[..., :3]
    if path is not None:
        write_png(path, drawn)
    return drawn


def _draw_cells(axis, similarity: np.ndarray, cell_inches: float):
    low = min(0.0, float(np.floor(similarity.min() * 10) / 10))
    image = axis.imshow(similarity, cmap=_COLORMAP, vmin=low, vmax=1, aspect="auto")
    size = min(10.0, cell_inches * 72 * 0.29)
    for (row, column), value in np.ndenumerate(similarity):
        share = (value - low) / (1 - low)
        axis.text(
            column,
            row,
            f"{value:.2f}".replace("-0.00", "0.00"),
            ha="center",
            va="center",
            fontsize=size,
            color="white" if share > 0.55 else "#1e1e1e",
        )
    return image


def _label(axis, names, targets, auxiliary) -> None:
    titles = [get_task(name).title for name in names]
    axis.set_xticks(range(len(names)), titles, rotation=55, ha="right")
    axis.set_yticks(range(len(names)), titles)
    for tick in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        tick.set_rotation_mode("anchor")
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        for name, tick in zip(names, ticks):
            tick.set_fontsize(10)
            colour = _colour(name, targets, auxiliary)
            if colour:
                tick.set_color(colour)
                tick.set_fontweight("bold")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _mark(axis, names, targets, auxiliary) -> None:
    """Frames what decides: the targets' cells, the auxiliary's with the targets."""
    for row, one in enumerate(names):
        for column, other in enumerate(names):
            if one == other:
                continue
            both = {one, other}
            if both <= set(targets):
                colour = _TARGET_COLOUR
            elif auxiliary in both and both & set(targets):
                colour = _AUXILIARY_COLOUR
            else:
                continue
            axis.add_patch(
                Rectangle(
                    (column - 0.46, row - 0.46),
                    0.92,
                    0.92,
                    fill=False,
                    edgecolor=colour,
                    linewidth=2,
                )
            )


def _colour(name, targets, auxiliary) -> Optional[str]:
    if name == auxiliary:
        return _AUXILIARY_COLOUR
    return _TARGET_COLOUR if name in targets else None


def _draw_tree(axis, similarity: np.ndarray) -> None:
    tree = hierarchy.dendrogram(_linkage(similarity), no_plot=True)
    for places, distances in zip(tree["icoord"], tree["dcoord"]):
        # Leaves stand at 5, 15, 25, ...: to the rows of the matrix.
        rows = (np.array(places) - 5) / 10
        axis.plot(distances, rows, color="#444444", linewidth=1.1)
    axis.set_ylim(len(similarity) - 0.5, -0.5)
    axis.set_xlim(np.max(tree["dcoord"]) * 1.05, 0)
    axis.axis("off")


def _draw_legend(figure: Figure, has_targets: bool, auxiliary: Optional[str]) -> None:
    lines = []
    if has_targets:
        lines.append(("targets", _TARGET_COLOUR))
        caption = (
            f"auxiliary: {get_task(auxiliary).title}" if auxiliary else "no auxiliary"
        )
        lines.append((caption, _AUXILIARY_COLOUR if auxiliary else "#555555"))
    width, height = figure.get_size_inches()
    for number, (text, colour) in enumerate(lines):
        figure.text(
            0.1 / width,
            (0.45 - 0.22 * number) / height,
            text,
            color=colour,
            fontsize=10,
            fontweight="bold",
        )
