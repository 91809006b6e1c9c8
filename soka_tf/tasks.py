"""The one table of tasks: names, channels, encodings, masks, units, metrics, colours.

Names are those of the Taskonomy data set. The names of the released networks
("taskbank") and of the SOKA paper are accepted as aliases.
"""

import difflib
from typing import Annotated, Any, Mapping, Optional, Sequence, Tuple, Union

from soka_tf.errors import UserError, short
from soka_tf.kinds import Kind
from soka_tf.task_definitions import task_of
from soka_tf.task_rows import (
    CLASS_METRICS,
    RATIO_METRICS,
    Encoding,
    Task,
    voc_colours,
)

__all__ = ["TASKS", "Encoding", "Task", "get_targets", "get_task", "register_task"]

# Of segment_semantic in Taskonomy's place: those of drawn rooms, which have as many.
# "other" is what has no class of its own.
ROOM_CLASSES = (
    *("other", "wall", "floor", "ceiling", "window", "door", "picture", "rug", "lamp"),
    *("table", "seat", "bed", "cabinet", "shelf", "plant", "screen", "thing"),
)


def _depth(name: str, title: str, *aliases: str) -> Task:
    return Task(
        name=name,
        title=title,
        aliases=aliases,
        channels=1,
        encoding=Encoding("log_depth", bits=16),
        masked=True,
        unit="m",
        metrics=(*RATIO_METRICS, "log_rmse"),
        ratio_floor=0.1,
        colormap="magma",
    )


def _map(
    name: str,
    title: str,
    *aliases: str,
    high: float = 1.0,
    clip: bool = False,
    blur_sigma_px: float = 0.0,
    bits: int = 16,
    masked: bool = False,
    colormap: str = "gray",
) -> Task:
    """A one-channel map whose unit is the fraction of the file's full scale."""
    return Task(
        name=name,
        title=title,
        aliases=aliases,
        channels=1,
        encoding=Encoding(
            "range", bits, high=high, clip=clip, blur_sigma_px=blur_sigma_px
        ),
        masked=masked,
        unit="of full scale",
        ratio_floor=0.05 * high,
        colormap=colormap,
        display_range=(0.0, high),
    )


def _rgb(name: str, title: str, *aliases: str, released_input="low_sat") -> Task:
    return Task(
        name=name,
        title=title,
        aliases=aliases,
        channels=3,
        encoding=Encoding("range", bits=8, high=1.0),
        released_input=released_input,
        unit="of full scale",
        ratio_floor=1.0 / 255.0,
        colormap=None,
        display_range=(0.0, 1.0),
    )


def _auxiliary(name: str, *aliases: str, **published) -> Task:
    title = name.replace("_", " ")
    published.setdefault("released_input", "plain")
    return Task(name=name, title=title, aliases=aliases, metrics=(), **published)


_TABLE = (
    _depth("depth_zbuffer", "depth", "rgb2depth", "depth"),
    _depth("depth_euclidean", "distance", "rgb2mist", "mist"),
    Task(
        name="normal",
        title="surface normal",
        aliases=("rgb2sfnorm", "surface_normal", "sfnorm", "normals"),
        channels=3,
        encoding=Encoding("direction", bits=8),
        masked=True,
        unit="unit vector",
        metrics=RATIO_METRICS + ("mean_angle_deg",),
        ratio_shift=1.0,
        ratio_floor=2.0 / 255.0,
        colormap=None,
        display_range=(-1.0, 1.0),
    ),
    _map("edge_texture", "2D edges", "edge2d", "edge_2d", high=0.08, clip=True),
    _map(
        "edge_occlusion",
        "3D edges",
        "edge3d",
        "edge_3d",
        high=0.00625,
        blur_sigma_px=4.0,
        masked=True,
    ),
    _map("keypoints2d", "2D keypoints", "keypoint2d", high=0.005, clip=True),
    _map("keypoints3d", "3D keypoints", "keypoint3d", masked=True),
    _map("reshading", "reshading", "reshade", "rgb2reshade", bits=8, masked=True),
    Task(
        name="principal_curvature",
        title="curvature",
        aliases=("curvature",),
        channels=2,
        encoding=Encoding(
            "standardize", bits=8, mean=(123.572, 120.1), std=(31.922, 21.658)
        ),
        masked=True,
        unit="pixel value",
        ratio_floor=1.0,
        display_range=(0.0, 255.0),
    ),
    _rgb("autoencoding", "autoencoding", "autoencoder"),
    _rgb("denoising", "denoising", "denoise"),
    _rgb("inpainting", "inpainting", "inpainting_whole", released_input="hole"),
    _auxiliary(
        "colorization",
        channels=313,
        decoder="colours",
        image_channels=1,
        released_input="light",
    ),
    _auxiliary("segment_unsup2d", "segment2d", channels=64, released_input="low_sat"),
    _auxiliary("segment_unsup25d", "segment25d", channels=64, released_input="low_sat"),
    Task(
        name="segment_semantic",
        title="semantic classes",
        aliases=("segmentsemantic",),
        channels=len(ROOM_CLASSES),
        encoding=Encoding("classes", bits=8, gaps=True),
        released_input="plain",
        unit="probability",
        loss="kl",
        metrics=CLASS_METRICS,
        colormap=None,
        classes=ROOM_CLASSES,
        class_colours=tuple(voc_colours(len(ROOM_CLASSES))),
    ),
    _auxiliary("class_object", "class_1000"),
    _auxiliary("class_scene", "class_places"),
    _auxiliary("room_layout", released_input="low_sat"),
    _auxiliary("vanishing_point"),
    _auxiliary("jigsaw"),
    _auxiliary("egomotion", "ego_motion"),
    _auxiliary("fixated_pose", "fix_pose"),
    _auxiliary("nonfixated_pose", "non_fixated_pose"),
    _auxiliary("point_matching", "point_match"),
)

TASKS = {task.name: task for task in _TABLE}
_BY_ANY_NAME = {alias: task for task in _TABLE for alias in (task.name, *task.aliases)}


def get_task(name: str) -> Task:
    """Returns the row of a task, under any of its names.

    Args:
      name: the data set's, the taskbank's or the paper's name; case, spaces and
        hyphens do not matter.

    Raises:
      UserError: if there is no such task; the message names the nearest ones.
    """
    key = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    if key in _BY_ANY_NAME:
        return _BY_ANY_NAME[key]
    found = difflib.get_close_matches(key, _BY_ANY_NAME, n=3)
    near = dict.fromkeys(_BY_ANY_NAME[one].name for one in found)
    hint = "Did you mean " + " or ".join(repr(n) for n in near) + "? " if near else ""
    raise UserError(
        f"There is no task named {name!r}. {hint}Tasks: {', '.join(TASKS)}."
    )


def register_task(name: str, definition: Mapping[str, Any]) -> Task:
    """Adds a task of one's own, which may then be named wherever tasks are.

    Args:
      name: of the task: small letters, digits and "_".
      definition: plain data, as JSON and gin hold it. "kind": "continuous",
        "probability", "classes", "direction" or "log_depth"; all else has a default
        by kind, but for "range" of "continuous" and "classes" or "channels" of
        "classes": "title", "channels", "range", "unit", "loss", "metrics", "colours",
        "classes" (docs/tasks.md). What `Task.definition` has said of such a task is
        one.

    Returns:
      Its row; the one of before, where the same definition has been registered.

    Raises:
      UserError: if a field is wrong, or the name is another task's.
    """
    task = task_of(name, definition)
    before = _BY_ANY_NAME.get(name)
    if before is None:
        TASKS[name] = _BY_ANY_NAME[name] = task
    elif not before.registered:
        raise UserError(
            f"task {name!r}: the name is that of a built-in task, {before.name!r}, "
            "which cannot be defined again. Choose another name."
        )
    elif before != task:
        differing = [
            key
            for key in {**before.definition, **task.definition}
            if before.definition.get(key) != task.definition.get(key)
        ]
        raise UserError(
            f"task {name!r}: another task of this name is registered already; they "
            f"differ in {', '.join(differing)}. Choose another name, or define it as "
            f"before: {short(before.definition)}."
        )
    return _BY_ANY_NAME[name]


def get_targets(names: Sequence[str]) -> Tuple[Task, ...]:
    """Returns the rows of the tasks a student shall learn, in the order given.

    Raises:
      UserError: if a name is unknown or given twice, or the task predicts no image.
    """
    if isinstance(names, str):
        raise UserError(
            f"tasks must be a list of names, e.g. ['{names}', 'normal']. "
            f"Received: {names!r}."
        )
    targets = tuple(get_task(name) for name in names)
    for task in targets:
        if task.role != "target":
            allowed = [t.name for t in TASKS.values() if t.role == "target"]
            raise UserError(
                f"{task.name!r} predicts nothing that a student could learn from soft "
                "targets and be measured on, so it can only be an auxiliary teacher. "
                f"Targets: {', '.join(allowed)}."
            )
    if len(set(targets)) != len(targets):
        raise UserError(f"A task may be named once. Received: {list(names)}.")
    return targets


def _are_targets(names: Any) -> bool:
    return isinstance(names, (list, tuple)) and len(get_targets(names)) > 0


def _are_auxiliaries(names: Any) -> bool:
    if isinstance(names, (list, tuple)):
        return all(map(get_task, names))
    return isinstance(names, str) and names in ("none", "auto")


def _is_named(name: Any) -> bool:
    return isinstance(name, str) and bool(get_task(name))


def _are_lenders(lenders: Any) -> bool:
    pairs = lenders.items() if isinstance(lenders, Mapping) else ()
    return isinstance(lenders, (bool, Mapping)) and all(
        _is_named(name) for pair in pairs for name in pair
    )


# Settings that name tasks, by any of their names.
TaskName = Annotated[Optional[str], Kind("the name of a task", _is_named)]
TargetNames = Annotated[
    Sequence[str],
    Kind("a list of one or more tasks, e.g. ['depth_zbuffer', 'normal']", _are_targets),
]
AuxiliaryNames = Annotated[
    Union[None, str, Sequence[str]],
    Kind("'none', 'auto' or a list of tasks, e.g. ['keypoints3d']", _are_auxiliaries),
]
Lenders = Annotated[
    Union[bool, Mapping[str, str]],
    Kind("True, False or a dictionary {task: task}", _are_lenders),
]
