"""Reads the "taskbank": Taskonomy's networks as TensorFlow 1 checkpoints.

One checkpoint a task, of three or four files: PREFIX.index, PREFIX.data-?????-of-?????
and PREFIX.meta, the graph, which nothing here opens. Names of variables stand at the
root (encoder-decoder tasks), under feedforward/ or under siamese/, and compress1
stands beside encoder/.
"""

import glob
import os
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Tuple

import numpy as np

from soka_tf.atomic import PathLike
from soka_tf.errors import UserError
from soka_tf.tasks import TASKS, Task, get_task
from soka_tf.teachers.taskonomy import published_teacher
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.tf_checkpoint import read_checkpoint
from soka_tf.teachers.variable_matching import Shape

WHERE_TO_GET = (
    "https://github.com/StanfordVL/taskonomy (taskbank/tools/download_model.sh: "
    "model.permanent-ckpt.index and .data-00000-of-00001 of every task)"
)
_ROOTS = ("", "feedforward/", "siamese/")
_LEAVES = {"kernel": "weights", "bias": "biases"}
_COUNTERS = re.compile(r"(global_step|step|beta[12]_power|learning_rate)(_\d+)?")
_DISCRIMINATOR = "discriminator/"


class Head(NamedTuple):
    """The fully connected network behind an encoder whose task predicts no image.

    No teacher needs it; its shapes distinguish the tasks' checkpoints.

    Attributes:
      images: how many images' representations it takes, one after another.
      hidden: widths of its hidden layers.
      outputs: what it predicts.
      copies: suffixes of its scope; egomotion has two, without BatchNorm.
    """

    images: int
    hidden: Tuple[int, ...]
    outputs: int
    copies: Tuple[str, ...] = ("",)


HEADS = {
    "class_object": Head(1, (2048,), 1000),
    "class_scene": Head(1, (2048,), 63),
    "room_layout": Head(1, (2048,), 9),
    "vanishing_point": Head(1, (2048,), 9),
    "fixated_pose": Head(2, (2048,), 6),
    "nonfixated_pose": Head(2, (2048, 2048), 6),
    "point_matching": Head(2, (256,), 2),
    "jigsaw": Head(9, (2048, 2048), 100),
    "egomotion": Head(3, (1024, 1024), 6, copies=("12", "23")),
}
_REPRESENTATION = 16 * 16 * 8


def load_taskbank(
    task: str, prefix: PathLike
) -> Tuple[TaskonomyTeacher, Dict[str, Any]]:
    """Loads the teacher of a task from a checkpoint. Nothing in it is executed.

    Args:
      task: the task's name, any alias.
      prefix: the checkpoint's path without ".index"; or one of its files; or a folder
        that holds just one checkpoint.

    Returns:
      The teacher, and the entries of its manifest that name its source.

    Raises:
      UserError: if the checkpoint is missing, damaged, in a folder named for another
        task, or if its variables are not those of the task's network, all listed.
    """
    row = get_task(task)
    prefix = find_prefix(prefix)
    _check_folder(row, prefix)
    files = checkpoint_files(prefix)
    arrays = read_checkpoint(prefix, files)
    scopes = ("encoder", "compress1", "decoder")
    roots = {scope: root_of(arrays, scope) for scope in scopes}

    def name(scope: str, path: str) -> str:
        own = tf1_name(scope, path)
        return roots[own.split("/")[0]] + own

    networks = published_teacher.build_networks(row, arrays, name)
    published_teacher.fill(
        networks,
        {n: a for n, a in arrays.items() if not _for_training(n, a)},
        name,
        f"{prefix} as the checkpoint of {row.name!r}",
        unread={
            root + own: shape
            for own, shape in head_variables(row.name).items()
            for root in _ROOTS
        },
    )
    return published_teacher.make_teacher(
        row, networks
    ), published_teacher.describe_source("taskbank", files)


def tf1_name(scope: str, path: str) -> str:
    """The original's name of a variable, at the root.

    Args:
      scope: "encoder", "decoder" or "discriminator".
      path: as of `soka_tf.networks.named_variables.named_variables`.
    """
    layer, leaf = published_teacher.split_leaf(path)
    name = f"{layer}/{_LEAVES.get(leaf, leaf)}"
    # compress1 stands beside the encoder in the original, not inside it.
    return name if name.startswith("compress1/") else f"{scope}/{name}"


def head_variables(task: str) -> Dict[str, Shape]:
    """The variables of a task's fully connected network: name -> shape."""
    if task not in HEADS:
        return {}
    head, shapes = HEADS[task], {}
    for copy in head.copies:
        scope, width = f"three_layer_fc_network{copy}", head.images * _REPRESENTATION
        for number, hidden in enumerate(head.hidden):
            shapes[f"{scope}/fc{number}/weights"] = (width, hidden)
            leaves = ("beta", "gamma", "moving_mean", "moving_variance")
            names = [f"BatchNorm/{leaf}" for leaf in leaves]
            for leaf in ["biases"] if len(head.copies) > 1 else names:
                shapes[f"{scope}/fc{number}/{leaf}"] = (hidden,)
            width = hidden
        # The original names the last layer after the number of layers: fc2, not fc1.
        last = f"{scope}/fc{len(head.hidden) + 1}"
        shapes[f"{last}/weights"] = (width, head.outputs)
        shapes[f"{last}/biases"] = (head.outputs,)
    return shapes


def root_of(names: Iterable[str], scope: str) -> str:
    """What a scope of a checkpoint lies under: "", feedforward/ or siamese/."""
    for root in _ROOTS[1:]:
        if any(name.startswith(f"{root}{scope}/") for name in names):
            return root
    return ""


def find_prefix(path: PathLike) -> str:
    """The checkpoint's prefix, from the prefix, one of its files or its folder.

    Raises:
      UserError: if there is no checkpoint, or more than one in the folder.
    """
    path = os.path.expanduser(os.fspath(path))
    if os.path.isdir(path):
        found = sorted(glob.glob(os.path.join(glob.escape(path), "*.index")))
        if len(found) != 1:
            names = ", ".join(os.path.basename(name) for name in found) or "none"
            raise UserError(
                f"{path}: a folder must hold one checkpoint, that is one file *.index. "
                f"It has: {names}. Name the checkpoint by its path without '.index'; "
                f"checkpoints are published at {WHERE_TO_GET}."
            )
        path = found[0]
    for ending in (".index", ".meta"):
        if path.endswith(ending):
            path = path[: -len(ending)]
    path = path.rsplit(".data-", 1)[0]
    if os.path.isfile(path) and not os.path.exists(f"{path}.index"):
        raise UserError(
            f"{path}: a checkpoint's prefix has a file {os.path.basename(path)}.index "
            "beside it, and here is none. A checkpoint of a single file is of the "
            "format before TensorFlow 1.0: restore it and save it anew."
        )
    published_teacher.check_file(
        f"{path}.index",
        "the index of a TensorFlow 1 checkpoint",
        f"Checkpoints are published at {WHERE_TO_GET}; a local folder works.",
    )
    if not _data_files(path):
        raise UserError(
            f"{path}.data-00000-of-00001: there is no such file beside the index. "
            "Fetch it again."
        )
    for file in _data_files(path):
        published_teacher.check_file(file, "the data of a TensorFlow 1 checkpoint")
    return path


def _for_training(name: str, array: np.ndarray) -> bool:
    """Whether only training needs a variable: a counter, or the discriminator's."""
    if any(name.startswith(root + _DISCRIMINATOR) for root in _ROOTS):
        return True
    return array.shape == () and bool(_COUNTERS.fullmatch(name.rpartition("/")[2]))


def taskbank_name(task: str) -> str:
    """The name of a task in the taskbank: the first of its aliases, if any."""
    return (*get_task(task).aliases, task)[0]


def _check_folder(task: Task, prefix: str) -> None:
    """The taskbank keeps a checkpoint in a folder named for its task.

    Depth's variables are those of edges: only this name distinguishes them.
    """
    folders = os.path.abspath(prefix).split(os.sep)[-3:-1]
    named = folders[-1] if folders[-1] != "logs" else folders[0]
    others = {taskbank_name(name): name for name in TASKS}
    if others.get(named, task.name) != task.name:
        raise UserError(
            f"{prefix}: its folder {named!r} says that it is the checkpoint of "
            f"{others[named]!r}, not of {task.name!r}. Bind the right task, or rename "
            "the folder if it lies."
        )


def _data_files(prefix: str) -> List[str]:
    return sorted(glob.glob(f"{glob.escape(prefix)}.data-?????-of-?????"))


def checkpoint_files(prefix: str) -> List[str]:
    """The files of a checkpoint that are read: the index and the data."""
    return [f"{prefix}.index", *_data_files(prefix)]
