"""A frozen teacher network and the one file that holds it."""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
from typing import Any, Dict, Iterator, Mapping, Optional, Union

import numpy as np
import tensorflow as tf

from soka_tf.data.inputs import INPUTS
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.weights import named_variables
from soka_tf.tasks import get_task
from soka_tf.teachers.fitting import Entry, Fault, fit, shapes_of

FILE_FORMAT = 1
_MANIFEST = "manifest"
# What numpy, zipfile and zlib raise, each in its way, on a damaged file.
_DAMAGE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
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
        if self.encoder.image_channels == 1:
            images = INPUTS["light"](images)
        return dict(self.encoder(images, training=False))

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
      path: the file to write; a `TeacherPool` looks for <task>.npz.
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
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            save = np.savez_compressed if compress else np.savez
            save(file, **{_MANIFEST: np.array(json.dumps(manifest))}, **arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return sha256_of(path)


def read_manifest(path: PathLike) -> Dict[str, Any]:
    """Reads what a teacher's file says of itself, without its weights.

    Raises:
      UserError: if the file is missing or is not a teacher's.
    """
    with _open(path) as archive:
        return _parse_manifest(path, archive)


def load_teacher(path: PathLike, expected_sha256: Optional[str] = None) -> Teacher:
    """Loads a teacher from its file. Nothing in the file is ever executed.

    Args:
      path: a .npz file written by `save_teacher`.
      expected_sha256: the sha256 the file must have, None to skip the check.

    Returns:
      A `Teacher`: called on float32 [B, H, W, 3] in [-1, 1] it returns a dict with
      "block3", "representation" and, where it has a decoder, "prediction".

    Raises:
      UserError: if the file is missing, damaged, not a teacher's, not the one
        expected, or if its variables do not fit the architecture it names; all
        missing, additional and misshapen variables are listed.
    """
    with _open(path) as archive:
        if expected_sha256 is not None and sha256_of(path) != expected_sha256:
            raise UserError(
                f"{path}: the file is not the one its manifest names (sha256 "
                f"{sha256_of(path)} instead of {expected_sha256}). Fetch it again."
            )
        manifest = _parse_manifest(path, archive)
        try:
            teacher = Teacher.from_config(
                {k: manifest[k] for k in ("task", "encoder", "decoder", "image_size")}
            )
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise UserError(
                f"{path}: its manifest does not describe a teacher ({error}). "
                "Make the file again."
            ) from error
        variables = teacher_variables(teacher)
        values = _read_arrays(path, archive, variables)
    for name, variable in variables.items():
        variable.assign(values[name])
    return teacher


@contextlib.contextmanager
def _open(path: PathLike) -> Iterator[Any]:
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such teacher file.")
    with open(path, "rb") as file:  # numpy leaves a damaged file open
        try:
            archive = np.load(file, allow_pickle=False)
        except _DAMAGE as error:
            raise UserError(
                f"{path}: not a teacher file (a .npz written by soka_tf); it is "
                f"damaged or something else ({error})."
            ) from error
        if _MANIFEST not in getattr(archive, "files", ()):
            raise UserError(f"{path}: not a teacher file: it has no manifest.")
        with archive:
            yield archive


def _parse_manifest(path: PathLike, archive: Any) -> Dict[str, Any]:
    try:
        manifest = json.loads(str(archive[_MANIFEST][()]))
        version = manifest["format"]
    except (KeyError, TypeError, *_DAMAGE) as error:
        raise UserError(f"{path}: its manifest cannot be read ({error}).") from error
    if version != FILE_FORMAT:
        raise UserError(
            f"{path}: its format is {version}, this version of soka_tf reads "
            f"{FILE_FORMAT}."
        )
    return manifest


def _read_arrays(
    path: PathLike, archive: Any, variables: Mapping[str, tf.Variable]
) -> Dict[str, np.ndarray]:
    entries = {}
    for name in archive.files:
        if name == _MANIFEST:
            continue
        try:
            value = archive[name]
        except _DAMAGE as error:
            raise UserError(f"{path}: {name} cannot be read ({error}).") from error
        entries[name] = Entry(value.shape, value.dtype.name, lambda value=value: value)
    try:
        return fit(shapes_of(variables), entries)
    except Fault as fault:
        raise UserError(
            f"{path}: its variables are not those of its architecture. {fault}"
        ) from fault
