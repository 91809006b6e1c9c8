"""Reads "visual-prior": Taskonomy's networks as PyTorch files.

One file an encoder and one a decoder, named {task}_{encoder|decoder}-{sha256}.pth.
Nothing in them is ever executed: see `soka_tf.teachers.torch_file`.
"""

import os
import pathlib
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from soka_tf.atomic import PathLike
from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError
from soka_tf.tasks import Task, get_task
from soka_tf.teachers.taskonomy import published_teacher
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.torch_file import read_torch_file

WHERE_TO_GET = "https://github.com/alexsax/visual-prior/raw/networks/assets/pytorch/"
# Tolerant of what browsers make of a name: "... (1).pth", and of capitals.
_FILE_NAME = re.compile(r"(\w+?)_(encoder|decoder)(?:-([0-9a-f]{8,64}))?(\W.*)?", re.I)
# PyTorch keeps kernels as [out, in, height, width], transposed ones as [in, out, ...]:
# in both cases this order of the TensorFlow kernel's axes.
KERNEL_AXES = (3, 2, 0, 1)
_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_STEPS = "num_batches_tracked"


class FileName(NamedTuple):
    """The parts of a published file's name.

    Attributes:
      task: the task's name in the table.
      part: "encoder" or "decoder".
      sha256: of the content, its first 8 to 64 hexadecimal digits; "" where the name
        has none.
    """

    task: str
    part: str
    sha256: str


def load_visual_prior(
    task: str, encoder: PathLike, decoder: Optional[PathLike] = None
) -> Tuple[TaskonomyTeacher, Dict[str, Any]]:
    """Loads the teacher of a task from its files. Nothing in them is executed.

    Args:
      task: the task's name, any alias.
      encoder: the encoder's file.
      decoder: the decoder's file; without it the teacher can only be an auxiliary.

    Returns:
      The teacher, and the entries of its manifest that name its source.

    Raises:
      UserError: if a file is missing, damaged, refused, or not the one that its name
        says; or if the variables are not those of the task's network, all listed.
    """
    row = get_task(task)
    if decoder is not None and not row.channels:
        raise UserError(
            f"{row.name!r} predicts no image, so its teacher is an encoder alone. "
            f"Received the decoder {decoder}. Leave it out."
        )
    files = {"encoder": encoder, "decoder": decoder}
    files = {p: os.path.expanduser(f) for p, f in files.items() if f is not None}
    verified = [_check_name(row, part, file) for part, file in files.items()]
    arrays = {}
    for part, file in files.items():
        arrays.update(_read_arrays(part, file))
    networks = published_teacher.build_networks(
        row, arrays, own_name, "decoder" in files, KERNEL_AXES
    )
    names = " and ".join(str(file) for file in files.values())
    published_teacher.fill(
        networks, arrays, own_name, f"{names} as files of {row.name!r}", KERNEL_AXES
    )
    details = published_teacher.describe_source(
        "visual-prior",
        list(files.values()),
        names_verified=all(verified),
        published=all(os.path.basename(f) in published_files() for f in files.values()),
    )
    return published_teacher.make_teacher(row, networks), details


def torch_name(scope: str, path: str) -> str:
    """The name of a variable in the state dict of its file.

    Args:
      scope: "encoder" or "decoder".
      path: as of `soka_tf.networks.named_variables.named_variables`.
    """
    layer, leaf = published_teacher.split_leaf(path)
    normalised = layer.endswith("/BatchNorm")
    layer = layer[: -len("/BatchNorm")] if normalised else layer
    module = (_encoder_module if scope == "encoder" else _decoder_module)(
        layer, normalised
    )
    return f"{module}.{_LEAVES[leaf]}"


def _encoder_module(layer: str, normalised: bool) -> str:
    if layer == "compress1":
        return "compress_bn" if normalised else layer
    unit = re.fullmatch(r"block(\d)/unit_(\d)/bottleneck_v1/(\w+)", layer)
    prefix = f"layer{unit[1]}.{int(unit[2]) - 1}." if unit else ""
    layer = unit[3] if unit else layer
    if layer == "shortcut":
        return f"{prefix}downsample.{int(normalised)}"
    return prefix + (layer.replace("conv", "bn") if normalised else layer)


def _decoder_module(layer: str, normalised: bool) -> str:
    # A transposed convolution stands between a padding and a cropping module.
    place, after = (1, 3) if layer.startswith("deconv") else (0, 1)
    return f"{layer}.{after if normalised else place}"


def own_name(scope: str, path: str) -> str:
    """The name of a variable across both files: "encoder: conv1.weight"."""
    return f"{scope}: {torch_name(scope, path)}"


def parse_name(path: PathLike) -> Optional[FileName]:
    """The parts of the file's name; None if it is not named as published files are."""
    match = _FILE_NAME.fullmatch(os.path.basename(path))
    if match is None:
        return None
    try:
        task = get_task(match[1]).name
    except UserError as error:
        if match[3] is None:
            return None
        raise UserError(f"{path}: its name has no task. {error}") from error
    return FileName(task, match[2].lower(), (match[3] or "").lower())


def published_files() -> Tuple[str, ...]:
    """The names of all published files that a teacher is made of."""
    listed = pathlib.Path(__file__).with_name("visual_prior_files.txt")
    return tuple(listed.read_text(encoding="utf-8").split())


def published_files_of(task: str) -> Tuple[str, ...]:
    """The names of a task's published files, the encoder's first."""
    names = sorted(published_files(), key=lambda name: "_encoder-" not in name)
    return tuple(name for name in names if parse_name(name).task == task)


def _check_name(task: Task, part: str, path: PathLike) -> bool:
    """Refuses a file that is not what its name says; True if that has a hash."""
    known = [name for name in published_files_of(task.name) if f"_{part}-" in name]
    hint = f"Fetch it from {WHERE_TO_GET}{known[0]}" if known else ""
    published_teacher.check_file(
        path, f"the PyTorch file of the {part} of {task.name!r}", hint
    )
    name = parse_name(path)
    digest = sha256_of(path)
    if name and not digest.startswith(name.sha256):
        raise UserError(
            f"{path}: its sha256 is {digest}, its name says {name.sha256}: the file is "
            f"damaged or not the published one. {hint}"
        )
    for claim in (name, _published_as(digest)):
        if claim and (claim.task, claim.part) != (task.name, part):
            raise UserError(
                f"{path}: its {'name' if claim is name else 'content'} says that it is "
                f"the {claim.part} of {claim.task!r}, but the {part} of {task.name!r} "
                f"is wanted. {hint}"
            )
    return bool(name and name.sha256)


def _published_as(digest: str) -> Optional[FileName]:
    names = map(parse_name, published_files())
    return next((name for name in names if name.sha256 == digest), None)


def _read_arrays(part: str, path: PathLike) -> Dict[str, np.ndarray]:
    state = read_torch_file(path)
    arrays = {}
    for name, value in state.items():
        # PyTorch counts batches beside every moving variance; nothing needs it.
        module, _, leaf = name.rpartition(".")
        counter = leaf == _STEPS and f"{module}.running_var" in state
        if not (counter and value.shape == () and value.dtype.kind == "i"):
            arrays[f"{part}: {name}"] = value
    return arrays
