"""Lays out a grid of small images with titles and colour bars, of any task."""

import dataclasses
import functools
import io
import math
import os
from typing import Any, List, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from soka_tf.atomic import replacing

_PAGE = (255, 255, 255)
_INK = (30, 30, 30)
_FAINT_INK = (110, 110, 110)
_EMPTY_CELL = (238, 238, 238)

# All in pixels.
_MARGIN = 14
_CELL_GAP = 4
_SCALE_GAP = 12
_GROUP_GAP = 28
_TITLE_SIZE = 15
_TEXT_SIZE = 13
_SMALL_SIZE = 12
_LINE = 20
_BAR_HEIGHT = 9


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the colours of a column are read.

    Attributes:
      colormap: a matplotlib colour map; None for a sentence instead of a colour bar.
      low: value at the left end.
      high: value at the right end.
      label: the unit, or the sentence.
      names: what single colours stand for, in place of both: (name, colour) each.
      clipped: whether the colour of the right end stands for more, too, and its value
        is marked so.
    """

    colormap: Optional[str]
    low: float = 0.0
    high: float = 1.0
    label: str = ""
    names: Tuple[Tuple[str, Tuple[int, int, int]], ...] = ()
    clipped: bool = False

    @property
    def ends(self) -> Tuple[str, str]:
        """The values at both ends, in words, both with as many digits if possible."""
        shown = [f"{value:.3g}" for value in (self.low, self.high)]
        if not any("e" in text for text in shown):
            most = max(map(_decimals, shown))
            shown = [
                f"{value:.{min(most, _decimals(f'{value:#.3g}'))}f}" if value else "0"
                for value in (self.low, self.high)
            ]
        low, high = shown
        return low, f"{'≥ ' if self.clipped else ''}{high}"


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the grid.

    Attributes:
      title: stands above it.
      cells: one uint8 image [h, w, 3] a row, None for an empty cell; all of one shape
        in the whole grid.
      scale: neighbours in a group with an equal scale share one colour bar.
      empty: text of an empty cell.
    """

    title: str
    cells: Sequence[Optional[np.ndarray]]
    scale: Optional[Scale] = None
    empty: str = "no label"


@dataclasses.dataclass(frozen=True)
class Group:
    """Neighbouring columns with a common title."""

    title: str
    columns: Sequence[Column]


def compose(groups: Sequence[Group], heading: str = "") -> np.ndarray:
    """Draws a grid of images.

    Args:
      groups: the columns, from left to right.
      heading: a line above everything, "" for none.

    Returns:
      uint8 [height, width, 3]. Cells are copied pixel by pixel.
    """
    columns = [column for group in groups for column in group.columns]
    cell = next(c for column in columns for c in column.cells if c is not None)
    height, width = cell.shape[:2]
    rows = max(len(column.cells) for column in columns)
    lefts = _lefts(groups, width)
    top = _MARGIN + (_LINE + 8 if heading else 0)
    titled = any(column.title for column in columns)
    first_row = top + (2 if titled else 1) * _LINE + 4
    bottom = first_row + rows * (height + _CELL_GAP) - _CELL_GAP
    has_scales = any(column.scale for column in columns)
    scale_height = 12 + _BAR_HEIGHT + _LINE if has_scales else 0
    for group, group_lefts in zip(groups, lefts):
        for scale, span in _bars(group, group_lefts, width):
            scale_height = max(scale_height, 12 + _LINE * len(_legend(scale, span)))
    page_height = bottom + scale_height + _MARGIN
    page_width = lefts[-1][-1] + width + _MARGIN
    page = Image.new("RGB", (page_width, page_height), _PAGE)
    draw = ImageDraw.Draw(page)
    if heading:
        draw.text((_MARGIN, _MARGIN), heading, _FAINT_INK, _font(_TEXT_SIZE))
    for group, group_lefts in zip(groups, lefts):
        span = (group_lefts[0], group_lefts[-1] + width)
        _write(draw, group.title, span, top, _TITLE_SIZE, bold=True)
        for column, left in zip(group.columns, group_lefts):
            span = (left, left + width)
            _write(draw, column.title, span, top + _LINE, _TEXT_SIZE)
            for row in range(rows):
                y = first_row + row * (height + _CELL_GAP)
                image = column.cells[row] if row < len(column.cells) else None
                if image is None:
                    draw.rectangle(
                        (left, y, left + width - 1, y + height - 1), _EMPTY_CELL
                    )
                    middle = y + height // 2 - _LINE // 2
                    _write(draw, column.empty, span, middle, _SMALL_SIZE, faint=True)
                else:
                    page.paste(Image.fromarray(image), (left, y))
        for scale, span in _bars(group, group_lefts, width):
            _draw_scale(page, draw, scale, span, bottom + 12)
    return np.asarray(page)


def enlarge(image: np.ndarray, least_px: int) -> np.ndarray:
    """Repeats every pixel so often that the shorter side is at least about `least_px`.

    Args:
      image: [h, w, ...].
      least_px: the wanted size; the nearest whole factor is taken.
    """
    factor = max(1, round(least_px / min(image.shape[:2])))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def apply_colormap(values: np.ndarray, name: str) -> np.ndarray:
    """Returns the colours, uint8 [..., 3], of values in [0, 1]; others are clipped."""
    colours = np.asarray(matplotlib.colormaps[name](np.clip(values, 0, 1)))
    return np.rint(colours[..., :3] * 255).astype(np.uint8)


def colour_ramp(name: str, width: int) -> np.ndarray:
    """Returns a colour map from its low end to its high one, uint8 [1, width, 3]."""
    return apply_colormap(np.linspace(0, 1, width)[None], name)


def write_png(path: str, image: np.ndarray) -> None:
    """Writes an image, completely or not at all.

    Args:
      path: the file to write or replace; its folder is made if need be.
      image: uint8 [h, w, 3], or uint8 or uint16 [h, w] or [h, w, 1].
    """
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with replacing(path) as temporary:
        _picture(image).save(temporary, format="PNG")


def encoded(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The content of an image's file.

    Args:
      image: as in `write_png`.
      kind: "PNG", "JPEG" or "WEBP".
      **options: of Pillow.
    """
    content = io.BytesIO()
    _picture(image).save(content, format=kind, **options)
    return content.getvalue()


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)


def _lefts(groups: Sequence[Group], width: int) -> List[List[int]]:
    """Returns where each column of each group begins."""
    lefts, x = [], _MARGIN
    for group in groups:
        group_lefts = []
        for column, following in zip(group.columns, [*group.columns[1:], None]):
            group_lefts.append(x)
            same = following is not None and following.scale == column.scale
            x += width + (_CELL_GAP if same else _SCALE_GAP)
        lefts.append(group_lefts)
        x += _GROUP_GAP - _SCALE_GAP
    return lefts


def _bars(group: Group, lefts: Sequence[int], width: int):
    """Yields each scale with the span of the columns that share it."""
    start = 0
    columns = group.columns
    for index, column in enumerate(columns):
        last = index + 1 == len(columns)
        if last or columns[index + 1].scale != column.scale:
            if column.scale is not None:
                yield column.scale, (lefts[start], lefts[index] + width)
            start = index + 1


def _draw_scale(page, draw, scale: Scale, span: Tuple[int, int], top: int) -> None:
    left, right = span
    if scale.names:
        _draw_legend(draw, scale, span, top)
        return
    if scale.colormap is None:
        _write(draw, scale.label, span, top, _SMALL_SIZE, faint=True)
        return
    ramp = colour_ramp(scale.colormap, right - left)
    bar = np.repeat(ramp, _BAR_HEIGHT, axis=0)
    page.paste(Image.fromarray(bar), (left, top))
    draw.rectangle((left, top, right - 1, top + _BAR_HEIGHT - 1), outline=_FAINT_INK)
    font = _font(_SMALL_SIZE)
    low, high = scale.ends
    y = top + _BAR_HEIGHT + 3
    draw.text((left, y), low, _INK, font)
    draw.text((right - draw.textlength(high, font), y), high, _INK, font)
    inner = (
        int(left + draw.textlength(low, font)) + 4,
        int(right - draw.textlength(high, font)) - 4,
    )
    _write(draw, scale.label, inner, y, _SMALL_SIZE, faint=True)


def _draw_legend(draw, scale: Scale, span: Tuple[int, int], top: int) -> None:
    """Squares of the colours with their names, line by line."""
    for line in _legend(scale, span):
        for x, name, colour in line:
            square = (x, top + 2, x + _BAR_HEIGHT, top + 2 + _BAR_HEIGHT)
            draw.rectangle(square, colour, _FAINT_INK)
            draw.text((x + _BAR_HEIGHT + 4, top), name, _INK, _font(_SMALL_SIZE))
        top += _LINE


def _legend(
    scale: Scale, span: Tuple[int, int]
) -> List[List[Tuple[int, str, Tuple[int, int, int]]]]:
    """The lines of a legend that fit a span: (left end, name, colour) each."""
    lines: List[List[Tuple[int, str, Tuple[int, int, int]]]] = []
    x, (left, right) = 0, span
    for name, colour in scale.names:
        name = _fitting(name, right - left - _BAR_HEIGHT - 4)
        width = _BAR_HEIGHT + 4 + math.ceil(_font(_SMALL_SIZE).getlength(name))
        if not lines or x + width > right:
            lines.append([])
            x = left
        lines[-1].append((x, name, colour))
        x += width + _SCALE_GAP
    return lines


def _fitting(name: str, width: int) -> str:
    """A name, cut where it is wider than a span."""
    font, whole = _font(_SMALL_SIZE), name
    while name and font.getlength(name) > width:
        name = name[:-2].rstrip("…") + "…" if len(name) > 2 else ""
    return name or whole[:1]


def _write(
    draw,
    text: str,
    span: Tuple[int, int],
    top: int,
    size: int,
    bold: bool = False,
    faint: bool = False,
) -> None:
    """Writes a line in the middle of a span, smaller if it would not fit."""
    left, right = span
    while size > 8 and draw.textlength(text, _font(size, bold)) > right - left:
        size -= 1
    font = _font(size, bold)
    x = (left + right - draw.textlength(text, font)) / 2
    draw.text((round(x), top), text, _FAINT_INK if faint else _INK, font)


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib carries its own fonts, so that pictures look alike on all machines.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(path, size)
