"""What a task is: a row of the table of tasks, and how its values are encoded."""

import dataclasses
from typing import Any, Dict, List, Literal, Optional, Tuple

RATIO_METRICS = ("rmse", "rel", "delta1", "delta2", "delta3")
CLASS_METRICS = ("accuracy", "mean_iou")
METRICS = (*RATIO_METRICS, "log_rmse", "mean_absolute_error", "mean_angle_deg")
METRICS += CLASS_METRICS
LOSSES = ("l1", "l2", "bce", "kl", "cosine")
Colour = Tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a label file becomes the network's range, and back to physical units.

    The arithmetic lives in `soka_tf.data.encodings`; this is its parameters.

    Attributes:
      kind: "log_depth" (16 bit, 1/512 m, network range [0, 1]), "range" (pixel /
        full scale, [low, high] -> [-1, 1]), "direction" (8 bit unit vectors,
        pixel / 255 -> [-1, 1]) or "standardize" ((pixel - mean) / std). Of tasks
        of one's own also "continuous" (pixel / full scale of [low, high] -> [-1, 1]),
        "probability" (pixel / full scale, [0, 1]) or "classes" (8 bit indices; the
        network range is a probability a class).
      bits: bits per channel of the label file, 8 or 16.
      low: lower end of the encoded range, as a fraction of full scale ("range"), or
        the value in the task's unit that the file's 0 stands for ("continuous").
      high: upper end of the same, or what the file's full scale stands for.
      clip: whether values outside [low, high] are clipped ("range").
      blur_sigma_px: standard deviation of the Gaussian applied after scaling, in
        pixels of a 256-pixel image; scaled with the image side. 0 for none.
      mean: per-channel mean in pixel values ("standardize").
      std: per-channel standard deviation in pixel values ("standardize").
      gaps: whether a label file itself tells where it has no value ("log_depth",
        "direction", "classes"); Taskonomy's depth file does so for all its tasks.
    """

    kind: Literal[
        "log_depth",
        "range",
        "direction",
        "standardize",
        "continuous",
        "probability",
        "classes",
    ]
    bits: int
    low: float = 0.0
    high: float = 1.0
    clip: bool = False
    blur_sigma_px: float = 0.0
    mean: Tuple[float, ...] = ()
    std: Tuple[float, ...] = ()
    gaps: bool = False


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of the table of tasks.

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
      loss: one of `LOSSES`, to its soft targets; None for the run's
        `objective.soft_loss`.
      metrics: names of the metrics reported (see docs/metrics.md).
      ratio_shift: added to a physical value before relative metrics are taken, so
        that values that may be negative become ratios of positive numbers.
      ratio_floor: smallest (shifted) physical value in a ratio; smaller ones are
        raised to it. Ratios are undefined at zero.
      colormap: a matplotlib colour map, None for values shown as colours themselves.
      display_range: physical values at the ends of the colour map; None for an end
        taken from the truth (or the teacher) shown beside it.
      classes: names of the classes, by index.
      class_colours: red, green and blue of each, 0 to 255.
      registered: whether it is of `soka_tf.tasks.register_task`.
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
    loss: Optional[str] = None
    metrics: Tuple[str, ...] = RATIO_METRICS
    ratio_shift: float = 0.0
    ratio_floor: float = 1.0
    colormap: Optional[str] = "gray"
    display_range: Tuple[Optional[float], Optional[float]] = (None, None)
    classes: Tuple[str, ...] = ()
    class_colours: Tuple[Colour, ...] = ()
    registered: bool = False

    @property
    def role(self) -> str:
        """Whether a student can learn it ("target") or not ("auxiliary")."""
        return "target" if self.encoding else "auxiliary"

    @property
    def activation(self) -> str:
        """What brings a student's decoder into the network range."""
        own = {"probability": "sigmoid", "classes": "softmax"}
        return own.get(self.encoding.kind if self.encoding else "", "tanh")

    @property
    def file_channels(self) -> int:
        """Channels that a label file needs at least."""
        return 1 if self.has_classes else self.channels

    @property
    def has_classes(self) -> bool:
        """Whether its maps are a probability a class."""
        return self.encoding is not None and self.encoding.kind == "classes"

    @property
    def is_direction(self) -> bool:
        """Whether its maps are unit vectors."""
        return self.encoding is not None and self.encoding.kind == "direction"

    @property
    def definition(self) -> Optional[Dict[str, Any]]:
        """What `register_task` makes this very row of; None of Taskonomy's tasks."""
        encoding = self.encoding
        if not self.registered or encoding is None:
            return None
        found: Dict[str, Any] = {
            "kind": encoding.kind,
            "title": self.title,
            "channels": self.channels,
            "unit": self.unit,
            "metrics": list(self.metrics),
        }
        if encoding.kind == "continuous":
            found["range"] = [encoding.low, encoding.high]
        if self.loss is not None:
            found["loss"] = self.loss
        if self.colormap is not None:
            found["colours"] = self.colormap
        if self.has_classes:
            found["classes"] = list(self.classes)
            found["colours"] = [list(colour) for colour in self.class_colours]
        return found


def colours_of_map(name: str, count: int) -> List[Colour]:
    """Of a colour map of single colours the first ones, else evenly spaced ones."""
    import matplotlib  # here, so that no worker process waits for it

    colormap = matplotlib.colormaps[name]
    single = count <= colormap.N < 256
    found = [
        colormap(i if single else i / (count - 1), bytes=True) for i in range(count)
    ]
    return [(int(r), int(g), int(b)) for r, g, b, _ in found]


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
