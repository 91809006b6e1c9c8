"""A run as one page of HTML: what it is told in, HTML out.

The page needs nothing beside itself: pictures are inlined, nothing is fetched, and no
script runs, which its Content-Security-Policy makes sure of. Every text is escaped.
"""

import base64
import io
import os
from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from soka_tf.evaluation.image_grid import Scale, colour_ramp, encoded
from soka_tf.evaluation.panels import Panel, Views, task_views
from soka_tf.evaluation.table import Table
from soka_tf.tasks import Task

MOST_ROWS = 6
_TEMPLATE = "report.html.jinja"
_MOST_PX = 256  # side of a picture
_SCALE_PX = 256
_QUALITY = 88


class Picture(NamedTuple):
    """A picture within the page.

    Attributes:
      address: "data:...".
      alt: what it shows, in words.
      width: pixels.
      height: pixels.
    """

    address: str
    alt: str
    width: int
    height: int


class ScaleBar(NamedTuple):
    """How colours are read.

    Attributes:
      bar: the colours from low to high; None where there is a sentence instead.
      low: value at the left end, in words.
      high: at the right end.
      label: the unit, or the sentence.
      names: what single colours stand for: (name, colour) each.
    """

    bar: Optional[Picture]
    low: str
    high: str
    label: str
    names: Tuple[Tuple[str, Tuple[int, int, int]], ...]


class View(NamedTuple):
    """One of a task's views of all images.

    Attributes:
      kind: "image", "teacher", "student", "truth" or "error".
      title: of the button.
      pictures: one an image; None without a label.
      scale: None for the images themselves.
    """

    kind: str
    title: str
    pictures: Tuple[Optional[Picture], ...]
    scale: Optional[ScaleBar]


class TaskPanel(NamedTuple):
    """The views of a task to switch between; `names` are those of the images."""

    title: str
    names: Tuple[str, ...]
    views: Tuple[View, ...]


class Movement(NamedTuple):
    """Who moved in a stage: a row a player, a cell a phase, "" where unknown."""

    caption: str
    phases: Tuple[str, ...]
    rows: Tuple[Tuple[str, Tuple[str, ...]], ...]


class Similarity(NamedTuple):
    """How the auxiliary teacher was chosen.

    Attributes:
      picture: of the matrix; None if it is missing.
      tasks: of its rows and columns.
      rows: of numbers, in words.
    """

    picture: Optional[Picture]
    tasks: Tuple[str, ...]
    rows: Tuple[Tuple[str, ...], ...]


class Network(NamedTuple):
    """A network's size, in words; "" where it was not counted."""

    name: str
    parameters: str
    multiply_adds: str


class Page(NamedTuple):
    """What the page shows; what is None or empty is said to be missing.

    Attributes:
      name: of the run.
      summary: what it is, a sentence.
      remarks: what a reader must know first, such as that it is barely trained.
      table: the evaluation.
      panels: the pictures.
      curves: losses and task weights.
      movement: who moved, a table a stage.
      auxiliary: which auxiliary teacher, a sentence.
      similarity: how it was chosen, where it was.
      networks: sizes.
      facts: (name, value) of what else is known.
      config: the gin configuration.
      commands: (purpose, command line) to go on with.
    """

    name: str
    summary: str
    remarks: Tuple[str, ...]
    table: Table
    panels: Tuple[TaskPanel, ...]
    curves: Optional[Picture]
    movement: Tuple[Movement, ...]
    auxiliary: str
    similarity: Optional[Similarity]
    networks: Tuple[Network, ...]
    facts: Tuple[Tuple[str, str], ...]
    config: str
    commands: Tuple[Tuple[str, str], ...]


def render(page: Page) -> str:
    """Returns the page as HTML that can be written in UTF-8."""
    environment = Environment(
        loader=FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(_TEMPLATE)
    text = template.render(page=page)
    # Names of folders may hold bytes that are no characters.
    return text.encode("utf-8", "replace").decode("utf-8")


def picture_of_file(path: str, alt: str) -> Picture:
    """Reads a PNG as it is.

    Raises:
      OSError: if it cannot be read or is no picture.
    """
    with open(path, "rb") as file:
        content = file.read()
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    return Picture(_address(content, "png"), alt, width, height)


def task_panels(
    panel: Panel, tasks: Sequence[Task], names: Sequence[str] = ()
) -> Tuple[TaskPanel, ...]:
    """Returns the first images of a panel, with all views of every task.

    Args:
      panel: of `soka_tf.evaluation.panels.compute_panel`.
      tasks: the tasks to show.
      names: of the images; numbers stand for them where there are none.
    """
    images = panel.images[:MOST_ROWS]
    names = tuple(names or (f"image {i}" for i in range(1, len(images) + 1)))
    photographs = tuple(
        _inlined(image, f"validation image: {name}", lossy=True)
        for name, image in zip(names, images)
    )
    image = View("image", "image", photographs, None)
    return tuple(
        TaskPanel(
            task.title,
            names[:MOST_ROWS],
            (image, *_views(task, task_views(task, panel.maps[task.name]), names)),
        )
        for task in tasks
    )


def _views(task: Task, views: Views, names: Sequence[str]) -> Tuple[View, ...]:
    error = f"error to {views.reference}"
    shown = [(kind, kind, views.maps[kind], views.scale) for kind in views.maps]
    shown.append(("error", error, views.errors, views.error_scale))
    return tuple(
        View(
            kind,
            title,
            tuple(
                None
                if pixels is None
                else _inlined(pixels, f"{task.title} of {name}: {title}")
                for name, pixels in zip(names, rows[:MOST_ROWS])
            ),
            _scale_bar(scale),
        )
        for kind, title, rows, scale in shown
    )


def _scale_bar(scale: Scale) -> ScaleBar:
    low, high = scale.ends
    bar = None
    if scale.colormap is not None:
        ramp = colour_ramp(scale.colormap, _SCALE_PX)
        bar = _inlined(ramp, f"colours from {low} to {high} {scale.label}".strip())
    return ScaleBar(bar, low, high, scale.label, scale.names)


def _inlined(pixels: np.ndarray, alt: str, lossy: bool = False) -> Picture:
    """Inlines uint8 [h, w, 3]; large ones are reduced, without new colours."""
    image = Image.fromarray(pixels)
    factor = min(1.0, _MOST_PX / max(image.size))
    if factor < 1:
        size = [max(1, round(factor * side)) for side in image.size]
        filtered = Image.Resampling.LANCZOS if lossy else Image.Resampling.NEAREST
        image = image.resize(size, filtered)
    how = {"lossless": not lossy, "quality": _QUALITY}
    content = encoded(np.asarray(image), "WEBP", **how)
    return Picture(_address(content, "webp"), alt, *image.size)


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
