"""The definition of a task of one's own in plain data, and the row it stands for.

    {"kind": "continuous", "title": "height", "range": [0, 12], "unit": "m"}
    {"kind": "classes", "classes": ["road", "other"], "colours": [[128, 64, 128], ...]}

A definition is what JSON and gin can hold; docs/tasks.md has the fields.
"""

import dataclasses
import re
from typing import (
    Annotated,
    Any,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from soka_tf.errors import UserError, did_you_mean, short
from soka_tf.kinds import Kind, check_fields, list_of, number, one_of, whole
from soka_tf.task_rows import (
    CLASS_METRICS,
    LOSSES,
    METRICS,
    RATIO_METRICS,
    Colour,
    Encoding,
    Task,
)

# Of label files of classes: an index beyond the classes means "no label".
MOST_CLASSES = 255
_MOST_LETTERS = 60
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Names that mean something else in files, bindings and exports.
_TAKEN = ("rgb", "mask", "representation", "serving_default", "prediction")
_TAKEN += ("none", "auto", "images", "mean")


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What tasks of a kind may have; of several values the first is the default.

    Attributes:
      channels: fewest and most; image files have no more than three.
      losses: allowed ones; None for that of the run.
      metrics: allowed ones.
      default_metrics: how many of these, the first, are reported unless bound.
      fields: those that only some kinds have.
      unit: where the task does not say it.
    """

    channels: Tuple[int, int]
    losses: Tuple[Optional[str], ...]
    metrics: Tuple[str, ...]
    default_metrics: int
    fields: Tuple[str, ...] = ()
    unit: str = ""


_ERRORS = ("rmse", "mean_absolute_error")
_RATIOS = ("rel", "delta1", "delta2", "delta3")
_RULES = {
    "continuous": _Rules(
        (1, 3), (None, "l1", "l2"), _ERRORS + _RATIOS, 2, ("range", "unit", "colours")
    ),
    "probability": _Rules(
        (1, 3), ("bce", "l1", "l2"), _ERRORS, 2, ("colours",), "probability"
    ),
    "classes": _Rules(
        *((2, MOST_CLASSES), ("kl", "l1", "l2"), CLASS_METRICS, 2),
        *(("classes", "colours"), "probability"),
    ),
    "direction": _Rules(
        (3, 3),
        ("cosine", "l1", "l2"),
        ("mean_angle_deg", *_ERRORS),
        2,
        (),
        "unit vector",
    ),
    "log_depth": _Rules(
        *((1, 1), (None, "l1", "l2"), (*RATIO_METRICS, "mean_absolute_error"), 5),
        *(("colours",), "m"),
    ),
}
KINDS = tuple(_RULES)


def _is_word(value: Any) -> bool:
    """A text that fits a line of a table, whoever wrote it."""
    return (
        isinstance(value, str)
        and 0 < len(value.strip()) <= _MOST_LETTERS
        and value.isprintable()
    )


_WORD = Kind(f"a text of 1 to {_MOST_LETTERS} printable characters", _is_word)
_UNIT = Kind("such a text, or ''", lambda value: value == "" or _is_word(value))
_COLOURS = Kind(
    "the name of a colour map, or a list of [red, green, blue], each of 0 to 255",
    lambda value: _is_word(value) or _are_colours(value),
)


def _are_colours(value: Any) -> bool:
    part = whole(0, 255)
    colour = list_of(part, "", 3)
    return list_of(colour, "").accepts(value)


@dataclasses.dataclass(frozen=True)
class _Definition:
    """The fields of a definition, each checked by itself."""

    kind: Annotated[str, one_of(KINDS)] = ""
    title: Annotated[Optional[str], _WORD] = None
    channels: Annotated[Optional[int], whole(1, MOST_CLASSES)] = None
    range: Annotated[
        Optional[Sequence[float]],
        list_of(number(-1e9, 1e9), "two numbers of at most 1e9, [lowest, highest]", 2),
    ] = None
    unit: Annotated[Optional[str], _UNIT] = None
    loss: Annotated[Optional[str], one_of(LOSSES)] = None
    metrics: Annotated[
        Optional[Sequence[str]],
        list_of(one_of(METRICS), f"a list of some of {', '.join(METRICS)}"),
    ] = None
    colours: Annotated[Union[None, str, Sequence[Sequence[int]]], _COLOURS] = None
    classes: Annotated[
        Optional[Sequence[str]],
        list_of(_WORD, "a list of names, each a text of at most 60 characters"),
    ] = None


def task_of(name: str, definition: Mapping[str, Any]) -> Task:
    """The row that a definition stands for.

    Args:
      name: of the task: small letters, digits and "_".
      definition: plain data, see `soka_tf.tasks.register_task`.

    Raises:
      UserError: naming the field, what was received and what is allowed.
    """
    _check_name(name)
    place = f"task {name!r}: "
    given = _checked_fields(place, definition)
    rules = _RULES[given.kind]
    for field in ("range", "classes", "colours"):
        if getattr(given, field) is not None and field not in rules.fields:
            having = [kind for kind, its in _RULES.items() if field in its.fields]
            raise UserError(
                f"{place}{field} belongs to the kinds {', '.join(having)}. Received: "
                f"kind {given.kind!r}. Leave it out."
            )
    unit = given.unit if given.unit is not None else rules.unit
    if "unit" not in rules.fields and unit != rules.unit:
        raise UserError(
            f"{place}unit of the kind {given.kind!r} must be {rules.unit!r}, or left "
            f"out. Received: {unit!r}."
        )
    channels = _channels(place, given, rules)
    low, high = _range(place, given)
    colormap, colours = _colours(place, given, channels)
    classes = tuple(given.classes or ())
    if given.kind == "classes" and not classes:
        classes = tuple(f"class {i}" for i in range(channels))
    return Task(
        name=name,
        title=given.title or name.replace("_", " "),
        channels=channels,
        encoding=Encoding(
            given.kind,  # type: ignore[arg-type]
            # Image files of three channels have 8 bits each.
            bits=16 if channels == 1 else 8,
            low=low,
            high=high,
            gaps=given.kind in ("log_depth", "direction", "classes"),
        ),
        released_input="plain",
        unit=unit,
        loss=given.loss or rules.losses[0],
        metrics=_metrics(place, given, rules, low),
        # As of Taskonomy's: a tenth of a metre, or a twentieth of the range.
        ratio_floor=0.1 if given.kind == "log_depth" else low or 0.05 * high,
        colormap=colormap,
        display_range=(None, None) if given.kind == "log_depth" else (low, high),
        classes=classes,
        class_colours=colours,
        registered=True,
    )


def _check_name(name: Any) -> None:
    sane = (
        isinstance(name, str) and _NAME.fullmatch(name) and len(name) <= _MOST_LETTERS
    )
    if not sane or name in _TAKEN or name.endswith("_float"):
        raise UserError(
            "The name of a task must be small letters, digits and '_', begin with a "
            f"letter, have at most {_MOST_LETTERS} of them, not end in '_float' and "
            f"be none of {', '.join(_TAKEN)}. Received: {short(name)}."
        )


def _checked_fields(place: str, definition: Any) -> _Definition:
    known = [field.name for field in dataclasses.fields(_Definition)]
    if not isinstance(definition, Mapping):
        raise UserError(
            f"{place}a definition must be a dictionary with 'kind' and some of "
            f"{', '.join(known[1:])}. Received: {short(definition)}."
        )
    if "kind" not in definition:
        raise UserError(
            f"{place}kind must be one of {', '.join(KINDS)}. Received: none."
        )
    for key in definition:
        if key not in known:
            near = did_you_mean(str(key), known)
            raise UserError(
                f"{place}{short(key)} is no field of a definition. Allowed: "
                f"{', '.join(known)}{near or '.'}"
            )
    given = _Definition(**definition)
    check_fields(given, place)
    return given


def _channels(place: str, given: _Definition, rules: _Rules) -> int:
    fewest, most = rules.channels
    channels = given.channels
    if given.classes is not None:
        if len(set(given.classes)) < len(given.classes):
            raise UserError(
                f"{place}classes must have a name each of its own. Received: "
                f"{short(list(given.classes))}."
            )
        channels = len(given.classes) if channels is None else channels
        if channels != len(given.classes):
            raise UserError(
                f"{place}channels must be the number of the classes, "
                f"{len(given.classes)}. Received: {channels}."
            )
    elif given.kind == "classes" and channels is None:
        raise UserError(
            f"{place}the kind 'classes' needs classes, their names, or channels, their "
            "number. Received: neither."
        )
    channels = fewest if channels is None else channels
    if not fewest <= channels <= most:
        allowed = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise UserError(
            f"{place}channels of the kind {given.kind!r} must be {allowed}. Received: "
            f"{channels}."
        )
    return channels


def _range(place: str, given: _Definition) -> Tuple[float, float]:
    if given.kind == "direction":
        return -1.0, 1.0
    if given.kind != "continuous":
        return 0.0, 1.0
    if given.range is None:
        raise UserError(
            f"{place}the kind 'continuous' needs range, [lowest, highest] in its unit. "
            "Received: none."
        )
    low, high = map(float, given.range)
    if low >= high:
        raise UserError(
            f"{place}range must begin below its end. Received: {list(given.range)}."
        )
    return low, high


def _metrics(
    place: str, given: _Definition, rules: _Rules, low: float
) -> Tuple[str, ...]:
    allowed = rules.metrics
    if given.kind == "continuous" and low < 0:  # a ratio needs positive numbers
        allowed = _ERRORS
    metrics = tuple(given.metrics or allowed[: rules.default_metrics])
    wrong = [name for name in metrics if name not in allowed]
    if wrong or len(set(metrics)) < len(metrics):
        where = (
            ", of a range below 0," if given.kind == "continuous" and low < 0 else ""
        )
        raise UserError(
            f"{place}metrics of the kind {given.kind!r}{where} must be some of "
            f"{', '.join(allowed)}, each once. Received: {short(list(metrics))}."
        )
    losses = [loss for loss in rules.losses if loss]
    if given.loss is not None and given.loss not in losses:
        raise UserError(
            f"{place}loss of the kind {given.kind!r} must be one of "
            f"{', '.join(losses)}. Received: {given.loss!r}."
        )
    return metrics


def _colours(
    place: str, given: _Definition, channels: int
) -> Tuple[Optional[str], Tuple[Colour, ...]]:
    """The colour map, or the colours of the classes."""
    colours = given.colours
    if given.kind == "classes":
        if isinstance(colours, str) or (colours and len(colours) != channels):
            raise UserError(
                f"{place}colours of classes must be a list of {channels} [red, green, "
                f"blue]. Received: {short(colours)}."
            )
        chosen = colours or voc_colours(channels)
        return None, tuple((int(r), int(g), int(b)) for r, g, b in chosen)
    if channels > 1:  # shown as red, green and blue
        if colours is not None:
            raise UserError(
                f"{place}colours belong to maps of one channel; {channels} are shown "
                f"as red, green and blue. Received: {short(colours)}. Leave it out."
            )
        return None, ()
    if colours is None:
        return "magma" if given.kind == "log_depth" else "viridis", ()
    if isinstance(colours, str):
        import matplotlib  # here, so that no worker process waits for it

        if colours in matplotlib.colormaps:
            return colours, ()
    raise UserError(
        f"{place}colours must be the name of a colour map of matplotlib, such as "
        f"'viridis'. Received: {short(colours)}."
    )


def voc_colours(count: int) -> List[Colour]:
    """The colour map of PASCAL VOC: distinct colours, the first is black."""
    colours = []
    for index in range(count):
        red = green = blue = 0
        for bit in range(8):
            low = index >> (3 * bit)
            red |= (low & 1) << (7 - bit)
            green |= (low >> 1 & 1) << (7 - bit)
            blue |= (low >> 2 & 1) << (7 - bit)
        colours.append((red, green, blue))
    return colours
