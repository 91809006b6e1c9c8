"""From the variables of a published file to a teacher, whatever the file's format.

Taskonomy's networks were published twice, as TensorFlow 1 checkpoints (`taskbank`) and
as PyTorch files (`visual_prior`). Each format names a network's variables in its own
way; all else about them is here.
"""

import datetime
import os
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

import soka_tf
from soka_tf.atomic import PathLike
from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import ENCODER_26, ENCODER_50, Encoder
from soka_tf.networks.named_variables import assign_variables, named_variables
from soka_tf.tasks import Task
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.variable_matching import Fault, Shape, fit

IMAGE_SIZE = 256
KERNEL_AXES = (0, 1, 2, 3)  # of our kernels: height, width, in, out

# (scope of the network, path of the variable within it) -> its name in the file.
Naming = Callable[[str, str], str]


def build_networks(
    task: Task,
    arrays: Mapping[str, np.ndarray],
    name: Naming,
    with_decoder: bool = True,
    kernel_axes: Sequence[int] = KERNEL_AXES,
) -> Dict[str, Any]:
    """Builds a task's encoder and decoder as the file seems to have them.

    The file decides between ResNet-50 and ResNet-26 and, for a task that was published
    with either, between one image channel and three. Whether it really holds these
    networks is checked by `fill`.

    Returns:
      "encoder" and, where wanted, "decoder" -> the network, with random weights.
    """
    kernel = arrays.get(name("encoder", "conv1/kernel"))
    units, channels = ENCODER_50, task.image_channels
    if kernel is not None:
        if not any(name("encoder", path) in arrays for path in _only_in_50()):
            units = ENCODER_26
        if kernel.ndim == 4 and kernel.shape[kernel_axes.index(2)] == 3:
            channels = 3
    networks = {"encoder": Encoder(units, image_channels=channels)}
    if with_decoder and task.channels:
        networks["decoder"] = Decoder(task.channels, layout=task.decoder)
    return networks


def _only_in_50() -> Sequence[str]:
    blocks = enumerate(zip(ENCODER_26, ENCODER_50), start=1)
    return [
        f"block{block}/unit_{unit}/bottleneck_v1/conv1/kernel"
        for block, (few, many) in blocks
        for unit in range(few + 1, many + 1)
    ]


def fill(
    networks: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    name: Naming,
    where: str,
    kernel_axes: Sequence[int] = KERNEL_AXES,
    unread: Optional[Mapping[str, Shape]] = None,
) -> None:
    """Sets all variables of the networks to those of a file, or none of them.

    Args:
      networks: scope -> network.
      arrays: the file's variables.
      name: the file's names.
      where: the file, for messages.
      kernel_axes: which axis of ours stands at each axis of the file's 4-D kernels.
      unread: variables that the file may have and no teacher needs, see `fit`.

    Raises:
      UserError: naming the file and all missing, additional and misshapen variables.
    """
    wanted, paths = {}, {}
    for scope, network in networks.items():
        for path, variable in named_variables(network).items():
            own = name(scope, path)
            paths[own] = scope, path
            wanted[own] = _reorder(tuple(variable.shape), kernel_axes)
    try:
        values = fit(wanted, arrays, unread)
    except Fault as fault:
        raise UserError(
            f"{where}: these are not the variables of this task's network. {fault} "
            "Is it the file of another task or kind?"
        ) from fault
    ours: Dict[str, Dict[str, Any]] = {scope: {} for scope in networks}
    back = [list(kernel_axes).index(axis) for axis in range(4)]
    for own, value in values.items():
        scope, path = paths[own]
        if path.endswith("/moving_variance") and value.min() < 0:
            raise UserError(f"{where}: {own} is a variance and holds values below 0.")
        ours[scope][path] = value.transpose(back) if value.ndim == 4 else value
    for scope, network in networks.items():
        assign_variables(network, ours[scope])


def _reorder(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(shape[axis] for axis in axes) if len(shape) == 4 else shape


def make_teacher(task: Task, networks: Mapping[str, Any]) -> TaskonomyTeacher:
    """Freezes filled networks into the teacher of a task."""
    return TaskonomyTeacher(
        task.name, networks["encoder"], networks.get("decoder"), image_size=IMAGE_SIZE
    )


def describe_source(
    kind: str, files: Sequence[PathLike], **further: Any
) -> Dict[str, Any]:
    """The manifest's entries that name where a converted teacher comes from.

    Names only: paths would describe the machine that converted it.
    """
    return {
        "source": {
            "format": kind,
            "files": {os.path.basename(file): sha256_of(file) for file in files},
            **further,
        },
        "converted": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "converter": f"soka_tf {soka_tf.__version__}",
    }


def check_file(path: PathLike, what: str, hint: Optional[str] = None) -> None:
    """Refuses a path that is no file or an empty one.

    Raises:
      UserError: naming the path.
    """
    hint = f" {hint}" if hint else ""
    if not os.path.isfile(path):
        kind = "there is no such file"
        if os.path.exists(path):
            kind = "is a folder" if os.path.isdir(path) else "is no regular file"
        raise UserError(f"{path}: {kind}; {what} is wanted.{hint}")
    if os.path.getsize(path) == 0:
        raise UserError(f"{path}: the file is empty; {what} is wanted.{hint}")


def split_leaf(path: str) -> Tuple[str, str]:
    """'a/b/kernel' -> ('a/b', 'kernel')."""
    layer, leaf = path.rsplit("/", 1)
    return layer, leaf
