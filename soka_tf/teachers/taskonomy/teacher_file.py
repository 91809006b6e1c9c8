"""The one file that holds a teacher: safetensors and a manifest, read without trust."""

import contextlib
import json
import os
import pathlib
from typing import Any, Dict, Iterator, Mapping, Optional

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from soka_tf.atomic import PathLike, replacing
from soka_tf.data.documents import ANY, Number, parse_json, refusing
from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError, one_line, short
from soka_tf.networks.building import scaled_filters
from soka_tf.networks.encoder import ENCODER_50
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher, teacher_variables
from soka_tf.teachers.variable_matching import Fault, fit, shapes_of

FILE_FORMAT = 1
CONVERT_NPZ = "docs/teachers.md has the lines that convert .npz to .safetensors"
_MANIFEST = "manifest"
_SHAPE = {"format": ANY, "image_size?": (Number(int, 1, 65535), None)}
_LARGEST_NUMBER = 4096  # in an architecture; far above any teacher's


def save_teacher(
    teacher: TaskonomyTeacher,
    path: PathLike,
    dtype: str = "float32",
    details: Optional[Mapping[str, Any]] = None,
) -> str:
    """Writes a teacher into one safetensors file, whole or not at all.

    The file's metadata has one entry, "manifest", as JSON: safetensors keeps no order
    among several, and the same teacher must give the same bytes.

    Args:
      teacher: the teacher.
      path: the file to write, "~" expanded; a `TeacherPool` looks for
        <task>.safetensors.
      dtype: "float32" or "float16", the precision on disk.
      details: further entries of the manifest (source, command, scores).

    Returns:
      The sha256 of the file.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16'. Received: {dtype!r}.")
    arrays = {
        name: variable.numpy().astype(dtype)
        for name, variable in teacher_variables(teacher).items()
    }
    manifest = {"format": FILE_FORMAT, **teacher.get_config(), **(details or {})}
    content = save(arrays, {_MANIFEST: json.dumps(manifest)})
    path = pathlib.Path(os.path.expanduser(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pathlib.Path(temporary).write_bytes(content)
    return sha256_of(path)


def read_manifest(path: PathLike) -> Dict[str, Any]:
    """Reads the description in a teacher's file, without its weights.

    Raises:
      UserError: if the file is missing or is not a teacher's.
    """
    path = os.path.expanduser(path)
    with _open(path) as file:
        return _parse_manifest(path, file)


def load_teacher(
    path: PathLike, expected_sha256: Optional[str] = None
) -> TaskonomyTeacher:
    """Loads a teacher from its file. Nothing in the file is ever executed.

    Args:
      path: a file written by `save_teacher`, "~" expanded.
      expected_sha256: the sha256 the file must have, None to skip the check.

    Returns:
      A teacher: called on float32 [B, H, W, 3] in [-1, 1] it returns a dict with
      "block3", "representation" and, where it has a decoder, "prediction".

    Raises:
      UserError: if the file is missing, damaged, not a teacher's, not the one
        expected, or if its variables do not fit the architecture it names; all
        missing, additional and misshapen variables are listed.
    """
    path = os.path.expanduser(path)
    with _open(path) as file:
        if expected_sha256 is not None:
            sha256 = sha256_of(path)
            if sha256 != expected_sha256:
                raise UserError(
                    f"{path}: the file is not the one its manifest names (sha256 "
                    f"{sha256} instead of {expected_sha256}). Fetch it again."
                )
        manifest = _parse_manifest(path, file)
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    try:
        _check_scale(manifest, arrays)
        teacher = TaskonomyTeacher.from_config(manifest)
        _check_channels(teacher)
    except (KeyError, TypeError, ValueError, ArithmeticError, UserError) as error:
        raise UserError(
            f"{path}: its manifest does not describe a teacher "
            f"({one_line(error)}). Make the file again."
        ) from error
    variables = teacher_variables(teacher)
    try:
        values = fit(shapes_of(variables), arrays)
    except Fault as fault:
        raise UserError(
            f"{path}: its variables are not those of its architecture. {fault}"
        ) from fault
    for name, variable in variables.items():
        variable.assign(values[name])
    return teacher


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """A file of safetensors; whatever its reader raises becomes one error."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such teacher file.")
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\3\4":
                raise UserError(
                    f"{path}: a zip archive, as were the .npz teacher files of earlier "
                    f"versions; {CONVERT_NPZ}."
                )
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError, AttributeError, TypeError) as error:
        # The last two are of types that numpy lacks.
        raise UserError(
            f"{path}: not a teacher file (safetensors written by soka_tf); it is "
            f"damaged or something else ({one_line(error)}). Fetch or make it again."
        ) from error


def _parse_manifest(path: str, file: Any) -> Dict[str, Any]:
    text = (file.metadata() or {}).get(_MANIFEST)
    if text is None:
        raise UserError(f"{path}: not a teacher file: it has no manifest.")
    with refusing(path, "Make the file again.", "its manifest cannot be read"):
        manifest = parse_json(text, _SHAPE)
    version = manifest["format"]
    if version != FILE_FORMAT:
        raise UserError(
            f"{path}: its format is {short(version)}, this version of soka_tf reads "
            f"{FILE_FORMAT}."
        )
    return manifest


def _check_channels(teacher: TaskonomyTeacher) -> None:
    """Raises ValueError where the decoder's answer is none of the task's."""
    task, decoder = teacher.task, teacher.decoder
    if decoder is not None and decoder.output_shape[-1] != task.channels:
        raise ValueError(
            f"decoder: {decoder.output_shape[-1]} channels, {task.name} has "
            f"{task.channels}"
        )


def _check_scale(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses networks larger than their file, which must never be built.

    The sizes are compared by what the largest layers hold at least: a file that lacks
    a few variables passes, and they are named.

    Raises:
      KeyError, TypeError, ValueError: if the manifest describes no networks, or such.
    """
    encoder, decoder = manifest["encoder"], manifest["decoder"]
    for part, config in (("encoder", encoder), ("decoder", decoder)):
        if config is None and part == "decoder":
            continue
        if type(config) is not dict:
            raise TypeError(f"{part} is {short(config)}")
        for key, value in config.items():
            for item in value if type(value) is list else (value,):
                if type(item) is bool:
                    sane = key == "synchronized"
                elif type(item) is str or item is None:
                    sane = len(item or "") <= 100
                else:
                    sane = type(item) in (int, float) and 0 <= item <= _LARGEST_NUMBER
                if not sane:
                    raise ValueError(f"{part}: {short(key)} is {short(value)}")

    units, width = encoder.get("units", ENCODER_50), encoder.get("width", 1.0)
    if sum(units) > len(arrays):
        raise ValueError(f"units {short(units)} are more than the file's arrays")
    least = 49 * scaled_filters(64, width) * encoder.get("image_channels", 3)
    for count, filters in zip(units, (256, 512, 1024, 2048)):
        least += count * scaled_filters(filters, width) ** 2
    representation = encoder.get("representation_channels", 8)
    least += 9 * scaled_filters(2048, width) * representation
    if decoder is not None:
        fewest = decoder.get("min_filters", 1)
        first = scaled_filters(1024, decoder.get("width", 1.0), fewest)
        least += 9 * first * (first + decoder.get("representation_channels", 8))
        least += 36 * fewest**2
    held = sum(array.size for array in arrays.values())
    if least > held + 1_000_000:
        raise ValueError(
            f"its networks would hold {least:.2g} numbers or more, the file {held:.2g}"
        )
