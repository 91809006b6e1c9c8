"""What a notebook needs: a run trained, a student loaded and asked.

`soka_tf` has these names itself, and imports TensorFlow when one is first used. The
function that trains is `train_student`, for `soka_tf.train` is the command's module.
"""

import dataclasses
import os
from typing import Dict, Sequence, Tuple, Union

import gin
import numpy as np

from soka_tf.atomic import PathLike
from soka_tf.data.image_files import RGB, DamagedFile, read_file
from soka_tf.errors import UserError
from soka_tf.runs.start import bind_run, train_run
from soka_tf.runs.unfinished import find_export
from soka_tf.serving.exported import Exported, load_exported
from soka_tf.serving.full_size import resized


def train_student(
    gin_files: Union[str, Sequence[str]] = (),
    bindings: Union[str, Sequence[str]] = (),
    *,
    model_dir: PathLike,
) -> str:
    """Trains a student, measures and exports it, as `python -m soka_tf.train`.

    What gin had bound before is forgotten. Called again with the same folder, it goes
    on where it was stopped.

    Args:
      gin_files: names or paths of gin files, later ones win, such as
        "gin/rooms/demo.gin"; gin/base.gin is read first.
      bindings: single ones, such as "max_steps = 500".
      model_dir: folder of the run, made if need be.

    Returns:
      The table of its evaluation and where everything is, as text; the numbers are in
      evaluation.json of the folder.

    Raises:
      UserError: for whatever the command refuses.
    """
    gin.clear_config()
    folder = os.path.expanduser(os.fspath(model_dir))
    bind_run(folder, _listed(gin_files), _listed(bindings))
    return train_run(folder)


@dataclasses.dataclass(frozen=True)
class LoadedStudent:
    """A student of an export, made by `load_student`.

    Attributes:
      exported: its SavedModel, and what it was made for.
    """

    exported: Exported

    @property
    def tasks(self) -> Tuple[str, ...]:
        """Names of what it predicts."""
        return tuple(task.name for task in self.exported.tasks)

    def predict(
        self, image: Union[np.ndarray, PathLike], full_size: bool = False
    ) -> Dict[str, np.ndarray]:
        """Predicts all tasks.

        Args:
          image: uint8 [H, W, 3] or [B, H, W, 3], red, green, blue in 0..255, of any
            size; or the path of an image file.
          full_size: whether maps are resized to H x W.

        Returns:
          Task -> float32 [S, S, C] in the task's unit, metres, unit vectors, a
          probability a class and so on, S the student's image size; [H, W, C] with
          `full_size`; with the dimension B first where the image has it.

        Raises:
          UserError: if it is another array, or a file that cannot be read.
        """
        if isinstance(image, (str, os.PathLike)):
            image = _read(os.path.expanduser(os.fspath(image)))
        pixels = np.asarray(image)
        is_batch = pixels.ndim == 4
        fits = pixels.ndim in (3, 4) and pixels.shape[-1] == 3 and pixels.size
        if pixels.dtype != np.uint8 or not fits:
            raise UserError(
                "An image must be uint8 [height, width, 3] or [batch, height, width, "
                f"3], in 0..255, or a path. Received: {pixels.dtype} "
                f"{list(pixels.shape)}."
            )
        outputs = self.exported(pixels if is_batch else pixels[None])
        maps = {}
        for task in self.exported.tasks:
            values = outputs[task.name].numpy()
            if full_size:
                height, width = pixels.shape[-3:-1]
                size = (height, width, (0, height))
                values = np.stack([resized(task, one, *size) for one in values])
            maps[task.name] = values if is_batch else values[0]
        return maps


def load_student(folder: PathLike, trust_saved_model: bool = False) -> LoadedStudent:
    """Loads an exported student.

    Args:
      folder: a SavedModel of soka_tf, or the folder of a run that has exported one.
      trust_saved_model: whether it may do more than compute, such as write files. One
        that does is refused otherwise, before it is loaded.

    Raises:
      UserError: if there is none, or it is damaged or refused.
    """
    found = find_export(os.fspath(folder))
    return LoadedStudent(load_exported(found, trust_saved_model))


def _read(path: str) -> np.ndarray:
    try:
        return read_file(path, RGB)
    except DamagedFile as error:
        raise UserError(f"{error.path}: {error.reason}.") from error


def _listed(values: Union[str, Sequence[str]]) -> Sequence[str]:
    return [values] if isinstance(values, str) else list(values)
