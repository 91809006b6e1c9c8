"""teacher.json: what a SavedModel takes and says, read and checked field by field.

docs/teachers.md has the fields. TensorFlow is not needed to read one.
"""

import dataclasses
import hashlib
import json
import os
from typing import Annotated, Any, Dict, List, Mapping, Optional, Sequence, Type

from soka_tf.atomic import PathLike
from soka_tf.data.documents import ANY, read_json
from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError, did_you_mean, short
from soka_tf.kinds import (
    TEXT,
    Kind,
    WrongValue,
    check_fields,
    list_of,
    number,
    one_of,
    whole,
)
from soka_tf.tasks import TASKS, Task, get_task, register_task
from soka_tf.tool_commands import tool_command

FILE = "teacher.json"
FORMAT = 1
PREDICTION = "prediction"
ACTIVATIONS = ("none", "sigmoid", "softmax", "tanh")
LAYOUTS = ("nhwc", "nchw")
# What an activation gives, whatever it is given.
_GIVEN = {"sigmoid": (0, 1), "softmax": (0, 1), "tanh": (-1, 1)}
_RANGES = ([0, 1], [-1, 1], [0, 255])
_MOST_BYTES = 1 << 20
# What TensorFlow reads of a SavedModel; files beside these change no answer.
_GRAPH, _FOLDERS = "saved_model.pb", ("variables", "assets")

_RANGE = list_of(number(-1e9, 1e9), "two numbers, [lowest, highest]", 2)
_SIZE = list_of(whole(1, 16384), "[height, width], each of 1 to 16384 pixels", 2)
_INPUT_RANGE = Kind(
    "[0, 1], [-1, 1] or [0, 255]",
    lambda value: isinstance(value, list) and value in _RANGES,
)
_CHANNELS = list_of(number(-1e6, 1e6), "three numbers, one for each channel", 3)
_SPREAD = list_of(
    number(0, 1e6, above=True), "three numbers above 0, one for each channel", 3
)
Layout = Annotated[str, one_of(LAYOUTS)]


@dataclasses.dataclass(frozen=True)
class Input:
    """How images become what the SavedModel takes; in the order of the fields.

    Attributes:
      range: what [-1, 1] is mapped to.
      channel_order: "rgb", or "bgr" to turn the channels round.
      mean: subtracted from each channel, in the unit of `range` and the order of
        `channel_order`; None for nothing.
      std: what each channel is divided by then, likewise.
      size: height and width in pixels that images are resized to; None for a network
        that takes any.
      layout: "nhwc" or "nchw".
      name: the signature's argument; None where it has one only.
    """

    range: Annotated[Sequence[float], _INPUT_RANGE]
    channel_order: Annotated[str, one_of(("rgb", "bgr"))] = "rgb"
    mean: Annotated[Optional[Sequence[float]], _CHANNELS] = None
    std: Annotated[Optional[Sequence[float]], _SPREAD] = None
    size: Annotated[Optional[Sequence[int]], _SIZE] = None
    layout: Layout = "nhwc"
    name: Annotated[Optional[str], TEXT] = None

    def __post_init__(self):
        check_fields(self, "input.")
        if self.size is not None:  # of JSON, in which 100.0 is whole
            height, width = map(int, self.size)
            object.__setattr__(self, "size", (height, width))


@dataclasses.dataclass(frozen=True)
class Layer:
    """An output of the signature: its name there, and its layout."""

    output: Annotated[str, TEXT]
    layout: Layout = "nhwc"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The output that is the task's map.

    Attributes:
      output: its name in the signature.
      range: the values that it has after the activation, see
        `soka_tf.teachers.saved_model.student_range`.
      activation: what is still to be applied to it.
      layout: "nhwc" or "nchw".
    """

    output: Annotated[str, TEXT]
    range: Annotated[Sequence[float], _RANGE]
    activation: Annotated[str, one_of(ACTIVATIONS)] = "none"
    layout: Layout = "nhwc"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A manifest whose fields are right each by itself.

    Attributes:
      path: of teacher.json.
      task: what the teacher does; registered if the manifest defines it.
      saved_model: path of the SavedModel.
      signature: which of its functions is called.
      input: what that takes.
      prediction: what it predicts.
      layers: name -> activation that can be amalgamated.
      sha256: path of a file in the folder -> its sha256.
      license: under which the teacher was given, in words; None if nobody says.
      content: all of it but `sha256` and `license`, as it was read.
    """

    path: str
    task: Task
    saved_model: str
    signature: str
    input: Input
    prediction: Prediction
    layers: Dict[str, Layer]
    sha256: Dict[str, str]
    license: Optional[str]
    content: Mapping[str, Any]

    def check_files(self) -> None:
        """Compares files with the sha256 that the manifest names.

        Raises:
          UserError: naming the first that is another one.
        """
        for file, expected in self.sha256.items():
            found = sha256_of(file)
            if found != expected.lower():
                raise UserError(
                    f"{file}: the file is not the one that {self.path} names (sha256 "
                    f"{found} instead of {short(expected)}). Fetch it again."
                )

    def fingerprint(self) -> str:
        """The sha256 of the manifest and of all files that TensorFlow reads."""
        digest = hashlib.sha256(json.dumps(self.content, sort_keys=True).encode())
        for file in files_of(self.saved_model):
            name = os.path.relpath(file, self.saved_model)
            digest.update(f"\n{name} {sha256_of(file)}".encode())
        return digest.hexdigest()


def manifest_path(teacher: PathLike) -> str:
    """The path of teacher.json, given it or its folder.

    Raises:
      UserError: if there is none.
    """
    path = os.path.expanduser(os.fspath(teacher))
    if os.path.isdir(path):
        path = os.path.join(path, FILE)
    if not os.path.isfile(path):
        raise UserError(
            f"{path}: there is no such manifest of a teacher. A teacher's folder has "
            f"a {FILE}; {tool_command('wrap_teacher')} writes one."
        )
    return path


def read_manifest(teacher: PathLike) -> Manifest:
    """Reads a manifest, and registers the task that it defines.

    Args:
      teacher: teacher.json or its folder, "~" expanded.

    Raises:
      UserError: naming the file and the field that is wrong, what it may be and what
        was received.
    """
    path = manifest_path(teacher)
    remedy = "docs/teachers.md has every field."
    content = read_json(path, {str: ANY}, remedy, "not a manifest", _MOST_BYTES)
    try:
        return _parse(path, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _parse(path: str, content: Dict[str, Any]) -> Manifest:
    if content.get("format") != FORMAT or type(content["format"]) is not int:
        received = short(content["format"]) if "format" in content else "none"
        raise WrongValue(f"format must be {FORMAT}. Received: {received}.")
    given = _checked(_Fields, content, "")
    layers = {
        name: _checked(Layer, value, f"layers.{name}.")
        for name, value in (given.layers or {}).items()
    }
    prediction = _checked(Prediction, given.prediction, "prediction.")
    low, high = prediction.range
    if low >= high:
        raise WrongValue(
            "prediction.range must begin below its end. Received: "
            f"{short(prediction.range)}."
        )
    given_range = _GIVEN.get(prediction.activation, (low, high))
    if given_range != (low, high):
        raise WrongValue(
            f"prediction.range must be {list(given_range)}, what the activation "
            f"{prediction.activation!r} gives. Received: {short(prediction.range)}."
        )
    folder = os.path.dirname(os.path.abspath(path))
    saved_model = _inside(folder, given.saved_model, "saved_model")
    if not os.path.isfile(os.path.join(saved_model, _GRAPH)):
        raise WrongValue(
            f"saved_model must be the folder of a SavedModel, with a {_GRAPH}. "
            f"Received: {short(given.saved_model)}."
        )
    for file in files_of(saved_model):
        _inside(folder, os.path.relpath(file, folder), "saved_model")
    return Manifest(
        path=path,
        task=_task(given.task, given.task_definition),
        saved_model=saved_model,
        signature=given.signature,
        input=_checked(Input, given.input, "input."),
        prediction=prediction,
        layers=layers,
        sha256={
            _inside(folder, name, "sha256"): value
            for name, value in (given.sha256 or {}).items()
        },
        license=given.license,
        # What changes no answer is no part of the fingerprint.
        content={k: v for k, v in content.items() if k not in ("sha256", "license")},
    )


def _is_layers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        0 < len(name) <= 100 and name.isprintable() and name != PREDICTION
        for name in value
    )


def _are_hashes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, str)
        and len(one) == 64
        and set(one) <= set("0123456789abcdefABCDEF")
        for one in value.values()
    )


def _is_license(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


_OBJECT = Kind("an object", lambda value: isinstance(value, dict))


@dataclasses.dataclass(frozen=True)
class _Fields:
    """The manifest itself."""

    format: int
    task: Annotated[str, TEXT]
    saved_model: Annotated[str, TEXT]
    input: Annotated[Mapping[str, Any], _OBJECT]
    prediction: Annotated[Mapping[str, Any], _OBJECT]
    signature: Annotated[str, TEXT] = "serving_default"
    layers: Annotated[
        Optional[Mapping[str, Any]],
        Kind(
            "an object of layers, each of a name of 1 to 100 characters that is not "
            f"{PREDICTION!r}",
            _is_layers,
        ),
    ] = None
    task_definition: Annotated[Optional[Mapping[str, Any]], _OBJECT] = None
    sha256: Annotated[
        Optional[Mapping[str, str]],
        Kind("an object {path: sha256 in 64 hexadecimal digits}", _are_hashes),
    ] = None
    license: Annotated[
        Optional[str], Kind("a text of 1 to 200 characters in one line", _is_license)
    ] = None


def _checked(kind: Type[Any], content: Any, owner: str) -> Any:
    """Fills a dataclass from an object of JSON; no field missing, none unknown."""
    if not isinstance(content, dict):
        raise WrongValue(
            f"{owner.rstrip('.')} must be an object. Received: {short(content)}."
        )
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in content:
        if name not in fields:
            near = did_you_mean(name, fields)
            raise WrongValue(
                f"{owner.rstrip('.') or 'a manifest'} has no field {short(name)}. "
                f"Allowed: {', '.join(fields)}{near or '.'}"
            )
    for name, field in fields.items():
        if name not in content and field.default is dataclasses.MISSING:
            raise WrongValue(f"{owner}{name} is missing.")
    made = kind(**content)
    check_fields(made, owner)
    return made


def _inside(folder: str, relative: str, field: str) -> str:
    """The path of something in a folder.

    Raises:
      WrongValue: if it is not there, or not in the folder, by name or by a link.
    """
    path = os.path.normpath(os.path.join(folder, relative))
    leaves = os.path.isabs(relative) or ".." in relative.replace("\\", "/").split("/")
    inside = os.path.join(os.path.realpath(folder), "")
    if leaves or not os.path.join(os.path.realpath(path), "").startswith(inside):
        raise WrongValue(
            f"{field} must name what lies in the folder of {FILE}: no absolute path, "
            f"no '..', no link that leaves it. Received: {short(relative)}."
        )
    if not os.path.exists(path):
        raise WrongValue(f"{field} names what is not there: {short(relative)}.")
    if field == "sha256" and not os.path.isfile(path):
        raise WrongValue(f"{field} must name files. Received: {short(relative)}.")
    return path


def files_of(saved_model: str) -> List[str]:
    """The files that TensorFlow reads of a SavedModel, sorted; links included."""
    files = [os.path.join(saved_model, _GRAPH)]
    for name in _FOLDERS:
        for folder, below, names in os.walk(os.path.join(saved_model, name)):
            linked = [one for one in below if os.path.islink(os.path.join(folder, one))]
            files += [os.path.join(folder, one) for one in (*names, *linked)]
    return sorted(files)


def _task(name: str, definition: Optional[Mapping[str, Any]]) -> Task:
    if definition is not None:
        try:
            return register_task(name, definition)
        except UserError as error:
            raise WrongValue(f"task_definition: {error}") from error
    try:
        task = get_task(name)
    except UserError as error:
        raise WrongValue(
            f"task must be one of {', '.join(TASKS)}, or have a task_definition. "
            f"Received: {short(name)}{did_you_mean(name, TASKS) or '.'}"
        ) from error
    if not task.channels:
        raise WrongValue(
            f"task must be one that predicts an image. Received: {short(name)}."
        )
    return task
