"""The one table of tasks: names, channels, encodings, masks, units, metrics, colours.

Names are those of the Taskonomy data set. The names of the released networks
("taskbank") and of the SOKA paper are accepted as aliases.
"""

import dataclasses
import difflib
from typing import Annotated, Any, Literal, Mapping, Optional, Sequence, Tuple, Union

from soka_tf.errors import UserError
from soka_tf.kinds import Kind

_RATIO_METRICS = ("rmse", "rel", "delta1", "delta2", "delta3")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a label file becomes the network's range, and back to physical units.

    The arithmetic lives in `soka_tf.data.encodings`; this is its parameters.

    Attributes:
      kind: "log_depth" (16 bit, 1/512 m, network range [0, 1]), "range" (pixel /
        full scale, [low, high] -> [-1, 1]), "direction" (8 bit unit vectors,
        pixel / 255 -> [-1, 1]) or "standardize" ((pixel - mean) / std).
      bits: bits per channel of the label file, 8 or 16.
      low: lower end of the encoded range, as a fraction of full scale ("range").
      high: upper end of the encoded range, as a fraction of full scale ("range").
      clip: whether values outside [low, high] are clipped ("range").
      blur_sigma_px: standard deviation of the Gaussian applied after scaling, in
        pixels of a 256-pixel image; scaled with the image side. 0 for none.
      mean: per-channel mean in pixel values ("standardize").
      std: per-channel standard deviation in pixel values ("standardize").
    """

    kind: Literal["log_depth", "range", "direction", "standardize"]
    bits: int
    low: float = 0.0
    high: float = 1.0
    clip: bool = False
    blur_sigma_px: float = 0.0
    mean: Tuple[float, ...] = ()
    std: Tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
      name: the data set's name, used in files, bindings and reports.
      title: a short name for pictures and tables.
      aliases: the taskbank's and the paper's names.
      channels: channels of the prediction; 0 where the task predicts no image.
      encoding: how labels are stored and encoded; None where a student cannot learn
        the task, because it predicts no image or one that only its own loss reads.
      decoder: layout of the published network's decoder (see
        `soka_tf.networks.decoder`).
      image_channels: channels that the published network's encoder takes.
      released_input: what the released demonstration and similarity code show the
        network, a key of `INPUTS` in soka_tf.teachers.input_functions; training
        shows "plain".
      masked: whether pixels without a depth reading are left out.
      unit: the physical unit of decoded values, "" for none.
      metrics: names of the metrics reported (see docs/metrics.md).
      ratio_shift: added to a physical value before relative metrics are taken, so
        that values that may be negative become ratios of positive numbers.
      ratio_floor: smallest (shifted) physical value in a ratio; smaller ones are
        raised to it. Ratios are undefined at zero.
      colormap: a matplotlib colour map, None for values shown as colours themselves.
      display_range: physical values at the ends of the colour map; None for an end
        taken from the truth (or the teacher) shown beside it.
    """

    name: str
    title: str
    aliases: Tuple[str, ...] = ()
    channels: int = 0
    encoding: Optional[Encoding] = None
    decoder: Literal["map", "colours"] = "map"
    image_channels: int = 3
    released_input: Literal["plain", "low_sat", "hole", "light"] = "low_sat"
    masked: bool = False
    unit: str = ""
    metrics: Tuple[str, ...] = _RATIO_METRICS
    ratio_shift: float = 0.0
    ratio_floor: float = 1.0
    colormap: Optional[str] = "gray"
    display_range: Tuple[Optional[float], Optional[float]] = (None, None)

    @property
    def role(self) -> str:
        """Whether a student can learn it ("target") or not ("auxiliary")."""
        return "target" if self.encoding else "auxiliary"


def _depth(name: str, title: str, *aliases: str) -> Task:
    return Task(
        name=name,
        title=title,
        aliases=aliases,
        channels=1,
        encoding=Encoding("log_depth", bits=16),
        masked=True,
        unit="m",
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
        metrics=_RATIO_METRICS + ("mean_angle_deg",),
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
    _auxiliary("segment_semantic", "segmentsemantic", channels=17),
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
    near = difflib.get_close_matches(key, _BY_ANY_NAME, n=3)
    hint = "Did you mean " + " or ".join(repr(n) for n in near) + "? " if near else ""
    raise UserError(
        f"There is no task named {name!r}. {hint}Tasks: {', '.join(TASKS)}."
    )


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
            allowed = [t.name for t in _TABLE if t.role == "target"]
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
