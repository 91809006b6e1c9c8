"""An export as it is used: found, refused unless it only computes, loaded."""

import dataclasses
import os
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from soka_tf.errors import UserError, reason
from soka_tf.networks import untrusted
from soka_tf.serving import export_folder
from soka_tf.serving.model_card import describe_training
from soka_tf.serving.saved_model import DEFAULT, read_metadata
from soka_tf.tasks import Task, get_task

OF_A_RUN = "saved_model"  # the export in a run's folder


@dataclasses.dataclass(frozen=True)
class Exported:
    """A student of an export.

    Attributes:
      folder: of its SavedModel.
      tasks: what it predicts.
      image_size: side in pixels that it resizes images to, and of its maps.
      function: images= uint8 [B, H, W, 3] -> task name -> float32
        [B, image_size, image_size, C] in the task's unit.
      model: what was loaded; a function alone does not keep its variables alive.
      training: what it was trained on, a sentence; "" if no model card says.
    """

    folder: str
    tasks: Tuple[Task, ...]
    image_size: int
    function: Callable[..., Dict[str, tf.Tensor]]
    model: Any = dataclasses.field(repr=False)
    training: str = ""

    def __call__(self, images: np.ndarray) -> Dict[str, tf.Tensor]:
        """Answers all tasks, see `function`."""
        return self.function(images=tf.constant(images))


def saved_model_in(folder: str) -> Optional[str]:
    """The folder of a SavedModel: the one given, or `saved_model` of a run's; None."""
    for one in (folder, os.path.join(folder, OF_A_RUN)):
        has_graph = os.path.isfile(os.path.join(one, untrusted.GRAPH))
        if has_graph or export_folder.is_interrupted(one):
            return one
    return None


def find_export(folder: str) -> str:
    """As `saved_model_in`.

    Raises:
      UserError: if there is none; names what was looked for.
    """
    folder = os.path.expanduser(folder)
    found = saved_model_in(folder)
    if found is None:
        raise UserError(
            f"{folder!r} is not a SavedModel, nor the folder of a run with one. Looked "
            f"for {os.path.join(folder, untrusted.GRAPH)} and "
            f"{os.path.join(folder, OF_A_RUN, untrusted.GRAPH)}. Make one with "
            "python -m soka_tf.export."
        )
    return found


def tasks_of(folder: str) -> Tuple[Task, ...]:
    """The tasks of an export, of which its own are registered; nothing is loaded.

    Raises:
      UserError: as `read_metadata`.
    """
    return tuple(get_task(name) for name in read_metadata(folder)["tasks"])


def load_exported(folder: str, trust_saved_model: bool = False) -> Exported:
    """Loads an export's student.

    Args:
      folder: of `find_export`.
      trust_saved_model: whether it may do more than compute. One that does is refused
        otherwise, before it is loaded.

    Raises:
      UserError: as `read_metadata` and `untrusted.refuse_programs`, or if it is
        damaged or its maps are not its tasks'.
    """
    metadata = read_metadata(folder)
    tasks = tuple(get_task(name) for name in metadata["tasks"])
    if not trust_saved_model:
        untrusted.refuse_programs(folder)
    model, function = _load(folder, tasks)
    training = describe_training(folder)
    return Exported(folder, tasks, metadata["image_size"], function, model, training)


def _load(folder: str, tasks: Sequence[Task]) -> Tuple[Any, Callable]:
    try:
        model = tf.saved_model.load(folder)
        function = model.signatures[DEFAULT]
        for task in tasks:
            if function.structured_outputs[task.name].shape[-1] != task.channels:
                raise ValueError(f"{task.name} must have {task.channels} channels")
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        why = why.partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{folder!r} cannot be loaded ({why}). Export the student again."
        ) from error
    return model, function
