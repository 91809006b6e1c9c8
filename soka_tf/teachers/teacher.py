"""A frozen teacher network and the one file that holds it."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import zipfile
from typing import Any, Dict, Iterator, Mapping, Optional, Union

import numpy as np
import tensorflow as tf

from soka_tf.data.inputs import INPUTS
from soka_tf.disk import replacing
from soka_tf.errors import UserError
from soka_tf.networks.building import scaled_filters
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import ENCODER_50, Encoder
from soka_tf.networks.folding import fold
from soka_tf.networks.weights import named_variables
from soka_tf.tasks import get_task
from soka_tf.teachers.fitting import Entry, Fault, fit, shapes_of
from soka_tf.teachers.messages import one_line, short

FILE_FORMAT = 1
_MANIFEST = "manifest"
# Limits far above any teacher's. What is built or unpacked stays near the file's size.
_MOST_ARRAYS = 10_000
_LONGEST_MANIFEST = 1 << 22
_MOST_UNPACKING = 100
_LARGEST_NUMBER = 4096
PathLike = Union[str, "os.PathLike[str]"]


class Teacher(tf.keras.Model):
    """A trained encoder and, where its task is an image, a decoder; frozen for good.

    Called on float32 images [B, H, W, 3] in [-1, 1] it returns a dict with the
    encoder's activations "block1" to "block4" and "representation" (SOKA amalgamates
    "block3" and "representation") and, where there is a decoder, "prediction"
    [B, H, W, C] in the network's range (colorization: logits [B, H / 4, W / 4, 313]; an
    encoder of one channel is shown the images' lightness).

    Frozen means: no trainable variable, moving statistics used and never updated
    whatever `training` says, and no way back: `trainable = True` is refused.
    """

    def __init__(
        self,
        task: str,
        encoder: Encoder,
        decoder: Optional[Decoder] = None,
        image_size: Optional[int] = None,
        name: Optional[str] = None,
    ):
        """Wraps the networks.

        Args:
          task: the task's name, any alias.
          encoder: a built encoder.
          decoder: a built decoder, or None for a teacher that is auxiliary only.
          image_size: side in pixels of the images it was trained on, None if unknown.
          name: the Keras name; the task's name unless told.
        """
        self.task = get_task(task)
        super().__init__(name=name or self.task.name)
        self.encoder = encoder
        self.decoder = decoder
        self.image_size = image_size
        encoder.trainable = False
        if decoder is not None:
            decoder.trainable = False
        self.built = True  # its networks are

    @property
    def trainable(self) -> bool:
        """Always False."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if value:
            raise ValueError("A teacher is frozen: it cannot be made trainable.")

    def call(self, images: tf.Tensor, training: Any = None) -> Dict[str, tf.Tensor]:
        """Runs the teacher with its moving statistics; `training` has no effect."""
        outputs = self.encode(images)
        if self.decoder is not None:
            outputs["prediction"] = self.decoder(
                outputs["representation"], training=False
            )
        return outputs

    def encode(self, images: tf.Tensor) -> Dict[str, tf.Tensor]:
        """Runs the encoder alone; returns its activations as `call` does."""
        if self.encoder.input_shape[-1] == 1:
            images = INPUTS["light"](images)
        return dict(self.encoder(images, training=False))

    def folded(self, precision: str) -> "Teacher":
        """Returns a copy to be run, of fewer and faster layers; no weights to lend.

        Args:
          precision: of weights and products, see `soka_tf.networks.folding.fold`.
        """
        encoder, decoder = (
            network and fold(network, precision)
            for network in (self.encoder, self.decoder)
        )
        return Teacher(self.task.name, encoder, decoder, self.image_size)

    def count_parameters(self) -> int:
        """Scalars that were trained once: all but the moving statistics."""
        return sum(
            variable.shape.num_elements()
            for name, variable in teacher_variables(self).items()
            if "/moving_" not in name
        )

    def get_config(self) -> Dict[str, Any]:
        """The architecture, without weights."""
        return {
            "task": self.task.name,
            "encoder": self.encoder.get_config(),
            "decoder": self.decoder.get_config() if self.decoder else None,
            "image_size": self.image_size,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None):
        """Builds a teacher with fresh weights from `get_config()`."""
        config = dict(config)
        config["encoder"] = Encoder.from_config(config["encoder"])
        if config["decoder"] is not None:
            config["decoder"] = Decoder.from_config(config["decoder"])
        return cls(**config)


def teacher_variables(teacher: Teacher) -> Dict[str, tf.Variable]:
    """All variables of a teacher by the name they have in its file."""
    variables = {
        f"encoder/{path}": v for path, v in named_variables(teacher.encoder).items()
    }
    if teacher.decoder is not None:
        for path, v in named_variables(teacher.decoder).items():
            variables[f"decoder/{path}"] = v
    return variables


def sha256_of(path: PathLike) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def save_teacher(
    teacher: Teacher,
    path: PathLike,
    dtype: str = "float32",
    details: Optional[Mapping[str, Any]] = None,
    compress: bool = True,
) -> str:
    """Writes a teacher into one .npz file, whole or not at all.

    Args:
      teacher: the teacher.
      path: the file to write, "~" expanded; a `TeacherPool` looks for <task>.npz.
      dtype: "float32" or "float16", the precision on disk.
      details: further entries of the manifest (source, command, scores).
      compress: whether to spend seconds on a file a few percent smaller.

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
    path = pathlib.Path(os.path.expanduser(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    save = np.savez_compressed if compress else np.savez
    with replacing(path) as temporary, open(temporary, "wb") as file:
        save(file, **{_MANIFEST: np.array(json.dumps(manifest))}, **arrays)
    return sha256_of(path)


def read_manifest(path: PathLike) -> Dict[str, Any]:
    """Reads what a teacher's file says of itself, without its weights.

    Raises:
      UserError: if the file is missing or is not a teacher's.
    """
    path = os.path.expanduser(path)
    with _open(path) as entries:
        return _parse_manifest(path, entries)


def load_teacher(path: PathLike, expected_sha256: Optional[str] = None) -> Teacher:
    """Loads a teacher from its file. Nothing in the file is ever executed.

    Args:
      path: a .npz file written by `save_teacher`, "~" expanded.
      expected_sha256: the sha256 the file must have, None to skip the check.

    Returns:
      A `Teacher`: called on float32 [B, H, W, 3] in [-1, 1] it returns a dict with
      "block3", "representation" and, where it has a decoder, "prediction".

    Raises:
      UserError: if the file is missing, damaged, not a teacher's, not the one
        expected, or if its variables do not fit the architecture it names; all
        missing, additional and misshapen variables are listed.
    """
    path = os.path.expanduser(path)
    with _open(path) as entries:
        if expected_sha256 is not None:
            sha256 = sha256_of(path)
            if sha256 != expected_sha256:
                raise UserError(
                    f"{path}: the file is not the one its manifest names (sha256 "
                    f"{sha256} instead of {expected_sha256}). Fetch it again."
                )
        manifest = _parse_manifest(path, entries)
        arrays = {name: e for name, e in entries.items() if name != _MANIFEST}
        try:
            _check_scale(manifest, arrays)
            teacher = Teacher.from_config(
                {k: manifest[k] for k in ("task", "encoder", "decoder", "image_size")}
            )
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
def _open(path: str) -> Iterator[Dict[str, Entry]]:
    """The arrays of a file by name, described by their headers and not yet read."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such teacher file.")
    try:
        with open(path, "rb") as file:
            is_array = file.read(6) == np.lib.format.MAGIC_PREFIX
        archive = None if is_array else zipfile.ZipFile(path)
    except Exception as error:  # on hostile bytes zipfile raises nearly any
        raise UserError(
            f"{path}: not a teacher file (a .npz written by soka_tf); it is "
            f"damaged or something else ({one_line(error)})."
        ) from error
    if archive is None:
        raise UserError(f"{path}: not a teacher file: it has no manifest.")
    with archive:
        yield _entries(path, archive)


def _entries(path: str, archive: zipfile.ZipFile) -> Dict[str, Entry]:
    members = archive.infolist()
    by_name = {re.sub(r"\.npy$", "", m.filename): m for m in members}
    if _MANIFEST not in by_name:
        raise UserError(f"{path}: not a teacher file: it has no manifest.")
    odd = [n for n in by_name if not re.fullmatch(r"[\w./:-]{1,150}", n, re.ASCII)]
    unpacked = sum(member.file_size for member in members)
    fault = None
    if len(by_name) < len(members):
        fault = "a name stands twice in it"
    elif len(members) > _MOST_ARRAYS:
        fault = f"it holds {len(members)} arrays, at most {_MOST_ARRAYS} are read"
    elif odd:
        fault = f"{short(odd[0])} is no variable's name"
    elif unpacked > _MOST_UNPACKING * (os.path.getsize(path) + (1 << 20)):
        fault = f"it would unpack to {unpacked} bytes, far more than its own size"
    elif by_name[_MANIFEST].file_size > _LONGEST_MANIFEST:
        fault = f"its manifest is longer than {_LONGEST_MANIFEST} bytes"
    if fault:
        raise UserError(f"{path}: not a teacher file: {fault}. Fetch or make it again.")
    return {name: _entry(path, name, archive, m) for name, m in by_name.items()}


def _entry(
    path: str, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> Entry:
    @contextlib.contextmanager
    def reading():
        try:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"compressed by method {member.compress_type}")
            with archive.open(member) as stream:
                yield stream
        except Exception as error:  # as numpy, zipfile and zlib raise nearly any
            raise UserError(
                f"{path}: {name} cannot be read ({one_line(error)}). "
                "Fetch or make the file again."
            ) from error

    def read() -> np.ndarray:
        with reading() as stream, np.errstate(over="ignore"):
            value = np.lib.format.read_array(stream, allow_pickle=False)
            return value.astype(np.float32) if value.dtype.kind == "f" else value

    with reading() as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):  # others are for names of fields, and may be endless
            raise ValueError(f"its header is of version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.hasobject:
            raise ValueError("it is a pickle, which is never read")
        # Python's integers: nothing here overflows, and nothing is allocated.
        size = stream.tell() + math.prod(shape) * dtype.itemsize
        if size != member.file_size or max(shape, default=0) >= 1 << 40:
            raise ValueError(
                f"its header tells of {short(shape)} {short(dtype.name)}, it has "
                f"{member.file_size} bytes"
            )
    return Entry(shape, dtype.name, read)


def _parse_manifest(path: str, entries: Mapping[str, Entry]) -> Dict[str, Any]:
    try:
        manifest = json.loads(str(entries[_MANIFEST].read()[()]))
        version, size = manifest["format"], manifest.get("image_size")
        if size is not None and not (type(size) is int and 0 < size < 1 << 16):
            raise ValueError(f"image_size is {short(size)}")
    except (
        *(KeyError, TypeError, ValueError, IndexError, AttributeError),
        *(MemoryError, RecursionError),
    ) as error:
        raise UserError(
            f"{path}: its manifest cannot be read ({one_line(error)}). "
            "Make the file again."
        ) from error
    if version != FILE_FORMAT:
        raise UserError(
            f"{path}: its format is {short(version)}, this version of soka_tf reads "
            f"{FILE_FORMAT}."
        )
    return manifest


def _check_scale(manifest: Mapping[str, Any], arrays: Mapping[str, Entry]) -> None:
    """Refuses networks larger than their file, which must never be built.

    The sizes are compared by what the largest layers hold at least: a file that lacks
    a few variables passes, and is told which.

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
    floats = (e for e in arrays.values() if e.dtype.startswith("float"))
    held = sum(math.prod(entry.shape) for entry in floats)
    if least > held + 1_000_000:
        raise ValueError(
            f"its networks would hold {least:.2g} numbers or more, the file {held:.2g}"
        )
