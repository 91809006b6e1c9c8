"""A trained student as a SavedModel that needs no soka_tf to load."""

import contextlib
import functools
import json
import os
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import tensorflow as tf
from absl import logging

import soka_tf
from soka_tf.data import encodings
from soka_tf.data.documents import ANY, Number, check, read_json, refusing
from soka_tf.data.pipeline import preprocess_images
from soka_tf.errors import UserError, short
from soka_tf.networks import folding
from soka_tf.networks.precision import is_large
from soka_tf.networks.processor import has_amx
from soka_tf.serving import export_folder, model_card
from soka_tf.serving.export_folder import GRAPH, METADATA
from soka_tf.serving.origin import Origin
from soka_tf.tasks import TASKS, Task, register_task

DEFAULT = "serving_default"
REPRESENTATION = "representation"
FLOAT_SUFFIX = "_float"
PRECISIONS = folding.EXPORT_PRECISIONS
_METADATA_FORMAT = 1
_METADATA_SHAPE = {
    "image_size": Number(int, 1, 65535),
    "tasks": {str: {"shape": [ANY], "definition?": {}}},
}


def export_student(
    student: tf.keras.Model,
    tasks: Sequence[Task],
    image_size: int,
    directory: str,
    antialias: bool = False,
    precision: str = "float32",
    origin: Optional[Origin] = None,
) -> List[str]:
    """Exports a student, completely or not at all.

    The SavedModel takes images of any batch size, height and width under the name
    `images`, resizes them as training did, and returns float32 maps
    [batch, image_size, image_size, channels] in physical units, by task name. A
    signature has one dtype, so each exists twice:

      uint8 in 0..255       float32 in [0, 1]            returns
      serving_default       serving_default_float        all tasks
      <task>                <task>_float                 one task; only its decoder runs
      representation        representation_float         the shared representation
                                                         [batch, h, w, 8], no unit

    The loaded object itself may be called with either dtype and returns all tasks.
    `assets.extra/metadata.json` names tasks, units, classes, shapes, the precision and
    the soka_tf version, and has the definitions of tasks that are not built in;
    `model_card.md` and `.json` tell people and programs what the student is. The
    networks are folded (`soka_tf.networks.folding`): BatchNorm is part of the
    convolutions.

    Args:
      student: an encoder in `.encoder` and task name -> decoder in `.decoders`.
      tasks: the tasks to export, any of the student's.
      image_size: side in pixels that images are resized to.
      directory: the folder to write; an earlier export there is replaced, all else
        that it holds stays (`soka_tf.serving.export_folder`).
      antialias: as the student was trained.
      precision: in which the networks compute: "float32", as the student predicts;
        "bfloat16", half the size and faster on a processor with AMX,
        slower elsewhere; or "auto", bfloat16 where the processor of this machine has
        AMX, else float32.
      origin: of the student, for its model card; None if it is not known.

    Returns:
      The names of the signatures.

    Raises:
      UserError: if the folder is a file, or a file that is not ours is in the way, the
        student has no decoder for a task, or the precision is unknown.
    """
    precision = choose_precision(precision)
    missing = [task.name for task in tasks if task.name not in student.decoders]
    if missing or not tasks:
        raise UserError(
            f"The student cannot export {', '.join(missing) or 'no task at all'}. "
            f"Its tasks: {', '.join(student.decoders)}."
        )
    networks = (student.encoder, *(student.decoders[task.name] for task in tasks))
    if precision == "float32" and has_amx() and is_large(*networks):
        logging.info("This processor has AMX: in bfloat16 the export would be faster.")
    files = (*export_folder.SAVED_MODEL_FILES, *model_card.FILES)
    facts = model_card.facts_of(student, tasks, image_size, origin)
    describe = functools.partial(model_card.describe, facts)
    with export_folder.replacing(directory, files, True, describe) as folder:
        module, signatures = _build(student, tasks, image_size, antialias, precision)
        with _quiet():
            tf.saved_model.save(module, folder, signatures=signatures)
        metadata = _metadata(tasks, image_size, antialias, precision, signatures)
        path = os.path.join(folder, METADATA)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(metadata, indent=2) + "\n")
    return sorted(signatures)


def choose_precision(precision: str) -> str:
    """Returns "float32" or "bfloat16"; for "auto" what suits this machine.

    Raises:
      UserError: if the precision is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise UserError(
            f"The precision of an export must be one of {', '.join(PRECISIONS)}. "
            f"Received: {precision!r}. Give another --precision or "
            "run.export_precision."
        )
    amx = has_amx()
    if precision == "auto":
        precision = "bfloat16" if amx else "float32"
        logging.info(
            "This processor has %sAMX: the export computes in %s.",
            "" if amx else "no ",
            precision,
        )
    return precision


class _Exported(tf.Module):
    """What is saved: variables and graphs, no Keras object.

    Keras networks as attributes would have each of their layers traced and saved once
    more, so only their variables are; the graphs capture these.
    """

    def __init__(self, networks: Sequence[tf.keras.Model], serve_all: Callable):
        super().__init__(name="soka_student")
        self.network_variables = [v for network in networks for v in network.variables]
        self._serve_all = serve_all

    @tf.function(autograph=False)
    def __call__(self, images: tf.Tensor) -> Dict[str, tf.Tensor]:
        """Answers all tasks: uint8 or float32 images to maps in physical units."""
        return self._serve_all(images)


def _trace(function: Callable, shape: Sequence[Optional[int]]) -> Callable:
    """Returns the graph of a function of one float32 tensor."""
    spec = tf.TensorSpec(shape, tf.float32)
    return tf.function(function, autograph=False).get_concrete_function(spec)


def _build(
    student: tf.keras.Model,
    tasks: Sequence[Task],
    image_size: int,
    antialias: bool,
    precision: str,
) -> Tuple[_Exported, Dict[str, Any]]:
    """Returns what is to be saved and its signatures."""
    fold = functools.partial(folding.fold, precision=precision)
    encoder = fold(student.encoder)
    folded = {task.name: fold(student.decoders[task.name]) for task in tasks}

    # Tracing a network takes seconds, so each is traced once, on its own; the other
    # functions only call the resulting graphs.
    def encode(images):
        return encoder(images, training=False)["representation"]

    encode = _trace(encode, [None, image_size, image_size, 3])

    def decoder(task):
        def decode(representation):
            prediction = folded[task.name](representation, training=False)
            return encodings.decode(task, prediction)

        return _trace(decode, encode.output_shapes)

    decoders = {task.name: decoder(task) for task in tasks}

    def represent(images):
        return encode(preprocess_images(images, image_size, antialias))

    def serve(names):
        def serve_tasks(images):
            representation = represent(images)
            return {name: decoders[name](representation) for name in names}

        return serve_tasks

    def serve_representation(images):
        return {REPRESENTATION: represent(images)}

    functions = {DEFAULT: serve(list(decoders)), REPRESENTATION: serve_representation}
    functions.update((name, serve([name])) for name in decoders)
    module = _Exported([encoder, *folded.values()], functions[DEFAULT])
    signatures = {}
    for suffix, dtype in (("", tf.uint8), (FLOAT_SUFFIX, tf.float32)):
        images = tf.TensorSpec([None, None, None, 3], dtype, name="images")
        module.__call__.get_concrete_function(images)
        for name, function in functions.items():
            traced = tf.function(function, autograph=False)
            signatures[name + suffix] = traced.get_concrete_function(images)
    return module, signatures


def _metadata(
    tasks: Sequence[Task],
    image_size: int,
    antialias: bool,
    precision: str,
    signatures: Mapping[str, Any],
) -> Dict[str, Any]:
    representation = signatures[REPRESENTATION].structured_outputs[REPRESENTATION]
    return {
        "format": _METADATA_FORMAT,
        "soka_tf": soka_tf.__version__,
        "image_size": image_size,
        "antialias": antialias,
        "precision": precision,
        "input": "images: uint8 [batch, height, width, 3] in 0..255; for signatures "
        f"that end in {FLOAT_SUFFIX}: float32 in [0, 1]",
        "signatures": sorted(signatures),
        "representation_shape": representation.shape.as_list(),
        "tasks": {task.name: _described(task, image_size) for task in tasks},
    }


def _described(task: Task, image_size: int) -> Dict[str, Any]:
    described: Dict[str, Any] = {
        "title": task.title,
        "unit": task.unit,
        "shape": [None, image_size, image_size, task.channels],
    }
    if task.has_classes:
        described["classes"] = list(task.classes)
    if task.definition is not None:
        described["definition"] = task.definition
    return described


def read_metadata(directory: str) -> Dict[str, Any]:
    """Reads the description of an export, without loading it.

    Tasks that it defines are registered.

    Raises:
      UserError: if the folder is not an export of soka_tf, or a task that it defines
        is known by another definition.
    """
    path = os.path.join(directory, METADATA)
    if export_folder.is_interrupted(directory):
        raise UserError(
            f"{directory!r}: an export there is going on, or was killed. Wait for it, "
            "or export the student again."
        )
    if not os.path.isfile(os.path.join(directory, GRAPH)):
        raise UserError(
            f"{directory!r} is not a SavedModel: it has no {GRAPH}. Make one with "
            "python -m soka_tf.export."
        )
    remedy, wrong = "Export the student again.", "this is not an export of soka_tf"
    metadata = read_json(path, {"format": int}, remedy, wrong)
    version = metadata["format"]
    if version != _METADATA_FORMAT:
        raise UserError(
            f"{path}: its format is {version!r}, this version of soka_tf reads "
            f"{_METADATA_FORMAT}."
        )
    with refusing(path, remedy, wrong):
        check(metadata, _METADATA_SHAPE)
        if not metadata["tasks"]:
            raise ValueError("it has no tasks")
        for name, described in metadata["tasks"].items():
            if "definition" in described:
                _register(name, described["definition"])
            _check_task(name, described["shape"], metadata["image_size"])
    return metadata


def _register(name: str, definition: Dict[str, Any]) -> None:
    try:
        register_task(name, definition)
    except UserError as error:
        raise ValueError(str(error).rstrip(".")) from error


def _check_task(name: str, shape: List[Any], image_size: int) -> None:
    """Raises ValueError where the shape is not that of the task's maps."""
    task = TASKS.get(name)
    if task is None or task.encoding is None:
        raise ValueError(f"no student has a task {short(name)}")
    right = [None, image_size, image_size, task.channels]
    if shape != right:
        raise ValueError(f"the shape of {name} must be {right}. Received: {shape}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow's pages about renamed inputs from the user; errors stay."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
