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
    colours_of_map,
    voc_colours,
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
    """What tasks of a kind may have.

    Attributes:
      losses: allowed ones, the default first; None for that of the run.
      metrics: allowed ones.
      reported: how many of them, the first, are the default.
      channels: fewest, the default, and most; image files have no more than three.
      range: of its values; None where the definition says it.
      unit: the default.
    """

    losses: Tuple[Optional[str], ...]
    metrics: Tuple[str, ...]
    reported: int
    channels: Tuple[int, int] = (1, 3)
    range: Optional[Tuple[float, float]] = (0.0, 1.0)
    unit: str = ""


_ERRORS = ("rmse", "mean_absolute_error")
_RATIOS = ("rel", "delta1", "delta2", "delta3")
_RULES = {
    "continuous": _Rules((None, "l1", "l2"), _ERRORS + _RATIOS, reported=2, range=None),
    "probability": _Rules(
        ("bce", "l1", "l2"), _ERRORS + _RATIOS, reported=2, unit="probability"
    ),
    "classes": _Rules(
        ("kl", "l1", "l2"),
        CLASS_METRICS,
        reported=2,
        channels=(2, MOST_CLASSES),
        unit="probability",
    ),
    "direction": _Rules(
        ("cosine", "l1", "l2"),
        ("mean_angle_deg", *_ERRORS),
        reported=2,
        channels=(3, 3),
        range=(-1.0, 1.0),
        unit="unit vector",
    ),
    "log_depth": _Rules(
        (None, "l1", "l2"),
        (*RATIO_METRICS, "log_rmse", "mean_absolute_error"),
        reported=5,
        channels=(1, 1),
        range=(0.0, 128.0),  # 2^16 / 512 m
        unit="m",
    ),
}
KINDS = tuple(_RULES)


def _is_word(value: Any) -> bool:
    """A text that fits a line of a table, whoever wrote it."""
    return (
        isinstance(value, str)
        and len(value) <= _MOST_LETTERS
        and value.isprintable()
        and bool(value.strip())
    )


_WORD = Kind(f"a text of 1 to {_MOST_LETTERS} printable characters", _is_word)
_UNIT = Kind(f"{_WORD.words}, or ''", lambda value: value == "" or _is_word(value))
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
    if given.classes is not None and given.kind != "classes":
        raise UserError(
            f"{place}classes belong to the kind 'classes'. Received: kind "
            f"{given.kind!r}. Leave them out."
        )
    if given.kind == "log_depth" and given.unit not in (None, rules.unit):
        raise UserError(
            f"{place}unit of the kind 'log_depth' must be {rules.unit!r}, or left out. "
            f"Received: {given.unit!r}."
        )
    _check_loss(place, given, rules)
    channels = _channels(place, given, rules)
    low, high = _range(place, given, rules)
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
            low=0.0 if given.kind == "log_depth" else low,
            high=1.0 if given.kind == "log_depth" else high,
            gaps=given.kind in ("log_depth", "direction", "classes"),
        ),
        released_input="plain",
        unit=rules.unit if given.unit is None else given.unit,
        loss=given.loss or rules.losses[0],
        metrics=_metrics(place, given, rules, low),
        # As of Taskonomy's: a tenth of a metre, or a twentieth of the range.
        ratio_floor=0.1 if given.kind == "log_depth" else max(low, 0.0) or 0.05 * high,
        colormap=colormap,
        display_range=(None, None) if given.kind == "log_depth" else (low, high),
        classes=classes,
        class_colours=colours,
        registered=True,
    )


def _check_name(name: Any) -> None:
    sane = isinstance(name, str) and _NAME.fullmatch(name) and name not in _TAKEN
    if not sane or len(name) > _MOST_LETTERS or name.endswith("_float"):
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


def _range(place: str, given: _Definition, rules: _Rules) -> Tuple[float, float]:
    if given.range is None:
        if rules.range is None:
            raise UserError(
                f"{place}the kind 'continuous' needs range, [lowest, highest] in its "
                "unit. Received: none."
            )
        return rules.range
    low, high = map(float, given.range)
    if rules.range not in (None, (low, high)):
        raise UserError(
            f"{place}range of the kind {given.kind!r} must be {list(rules.range)}, or "
            f"left out. Received: {list(given.range)}."
        )
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
    metrics = tuple(given.metrics or allowed[: rules.reported])
    wrong = [name for name in metrics if name not in allowed]
    if wrong or len(set(metrics)) < len(metrics):
        where = (
            ", of a range below 0," if given.kind == "continuous" and low < 0 else ""
        )
        raise UserError(
            f"{place}metrics of the kind {given.kind!r}{where} must be some of "
            f"{', '.join(allowed)}, each once. Received: {short(list(metrics))}."
        )
    return metrics


def _check_loss(place: str, given: _Definition, rules: _Rules) -> None:
    losses = [loss for loss in rules.losses if loss]
    if given.loss is not None and given.loss not in losses:
        raise UserError(
            f"{place}loss of the kind {given.kind!r} must be one of "
            f"{', '.join(losses)}. Received: {given.loss!r}."
        )


def _colours(
    place: str, given: _Definition, channels: int
) -> Tuple[Optional[str], Tuple[Colour, ...]]:
    """The colour map, or the colours of the classes."""
    colours = given.colours
    if isinstance(colours, str):
        _check_colormap(place, colours)
    if given.kind == "classes":
        if colours is None:
            return None, tuple(voc_colours(channels))
        if isinstance(colours, str):
            return None, tuple(colours_of_map(colours, channels))
        if len(colours) != channels:
            raise UserError(
                f"{place}colours of classes must be a colour map, or a list of "
                f"{channels} [red, green, blue]. Received: {short(colours)}."
            )
        return None, tuple((int(r), int(g), int(b)) for r, g, b in colours)
    if channels > 1 and colours is not None:
        raise UserError(
            f"{place}colours belong to maps of one channel; {channels} are shown as "
            f"red, green and blue. Received: {short(colours)}. Leave them out."
        )
    if colours is not None and not isinstance(colours, str):
        raise UserError(
            f"{place}colours of the kind {given.kind!r} must be the name of a colour "
            f"map of matplotlib, such as 'viridis'. Received: {short(colours)}."
        )
    if channels > 1:
        return None, ()
    return colours or ("magma" if given.kind == "log_depth" else "viridis"), ()


def _check_colormap(place: str, name: str) -> None:
    import matplotlib  # here, so that no worker process waits for it

    if name not in matplotlib.colormaps:
        near = did_you_mean(name, list(matplotlib.colormaps), repr)
        raise UserError(
            f"{place}colours must be the name of a colour map of matplotlib, such as "
            f"'viridis'. Received: {name!r}{near or '.'}"
        )
