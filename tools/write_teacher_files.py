r"""Writes files in the formats that Taskonomy's networks were published in.

The weights are not Taskonomy's: every variable is drawn from its own name, so anyone
can write the same files again and repeat the proof that they are read correctly.

Example (about 5 seconds):

    python tools/write_teacher_files.py --task=depth_zbuffer --out_dir=runs/published

writes the TensorFlow 1 checkpoint runs/published/rgb2depth/model.permanent-ckpt, with
the discriminator and the counters that training leaves there. With --pth_layout, which
needs the extra "convert", it also writes the PyTorch files
runs/published/depth_zbuffer_{encoder,decoder}-{sha256}.pth, which
`python tools/convert_teacher.py` reads.
"""

import os
import pathlib
from typing import Dict, Iterator

import numpy as np
from absl import flags, logging

from soka_tf import cli

FLAGS = flags.FlagValues()
_TASK = flags.DEFINE_multi_string(
    "task", None, "the task; repeatable", required=True, flag_values=FLAGS
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "folder of the files", required=True, flag_values=FLAGS
)
_SALT = flags.DEFINE_string(
    "salt", "", "appended to the names, for other weights", flag_values=FLAGS
)
_ENCODER = flags.DEFINE_enum(
    "encoder", "50", ["50", "26"], "ResNet-50 or ResNet-26", flag_values=FLAGS
)
_PTH_LAYOUT = flags.DEFINE_enum(
    "pth_layout",
    None,
    ["legacy", "zip"],
    "write PyTorch files, too, in the format before version 1.6 or since",
    flag_values=FLAGS,
)
_SLOTS = flags.DEFINE_bool(
    "slots",
    False,
    "write Adam's slots into the checkpoint, as training does; three times the size",
    flag_values=FLAGS,
)


def main() -> None:
    """Writes the files of every task given."""
    from soka_tf.tasks import get_task
    from soka_tf.teachers.torch_file import import_torch

    if _PTH_LAYOUT.value:
        import_torch()  # before anything is written
    out_dir = os.path.expanduser(_OUT_DIR.value)
    for task in [get_task(name) for name in _TASK.value]:
        networks = draw_networks(task)
        logging.info("%s", write_checkpoint(task.name, networks, out_dir))
        for path in write_torch_files(task.name, networks, out_dir):
            logging.info("%s", path)


def draw_networks(task) -> Dict[str, Dict[str, np.ndarray]]:
    """What the original's checkpoint of a task holds: scope -> path -> drawn value."""
    from soka_tf.networks.decoder import Decoder
    from soka_tf.networks.discriminator import Discriminator
    from soka_tf.networks.encoder import ENCODER_26, ENCODER_50, Encoder
    from soka_tf.networks.named_variables import named_variables
    from soka_tf.teachers.taskonomy import parity
    from soka_tf.teachers.taskonomy.taskbank import tf1_name

    units = {"50": ENCODER_50, "26": ENCODER_26}[_ENCODER.value]
    networks = {"encoder": Encoder(units, image_channels=task.image_channels)}
    if task.channels:
        networks["decoder"] = Decoder(task.channels, layout=task.decoder)
    if task.role == "target" and not task.has_classes:
        networks["discriminator"] = Discriminator(task.channels)
    return {
        scope: {
            path: parity.draw(tf1_name(scope, path), tuple(v.shape), _SALT.value)
            for path, v in named_variables(network).items()
        }
        for scope, network in networks.items()
    }


def write_checkpoint(task: str, networks, out_dir: str) -> str:
    """Writes a TensorFlow 1 checkpoint as training leaves it; returns its prefix."""
    import tensorflow as tf

    from soka_tf.teachers.taskonomy import parity
    from soka_tf.teachers.taskonomy.taskbank import (
        HEADS,
        head_variables,
        taskbank_name,
        tf1_name,
    )

    root = ""
    if task in HEADS:
        root = "feedforward/" if HEADS[task].images == 1 else "siamese/"
    values = {
        root + tf1_name(scope, path): value
        for scope, network in networks.items()
        for path, value in network.items()
    }
    for name, shape in head_variables(task).items():
        values[name] = parity.draw(name, shape, _SALT.value)
    if _SLOTS.value:
        trained = [
            name
            for name in values
            if name.startswith((f"{root}encoder/", f"{root}decoder/"))
        ]
        for name in (n for n in trained if "/moving_" not in n):
            for slot in ("Adam", "Adam_1"):
                values[f"{name}/{slot}"] = np.zeros_like(values[name])
    values["global_step"] = np.int64(200000)
    values["beta1_power"] = values["beta2_power"] = np.float32(0)
    folder = os.path.join(out_dir, taskbank_name(task))
    os.makedirs(folder, exist_ok=True)
    prefix = os.path.join(folder, "model.permanent-ckpt")
    names = sorted(values)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(values[name]) for name in names],
    )
    return prefix


def write_torch_files(task: str, networks, out_dir: str) -> Iterator[str]:
    """Writes encoder and, where there is one, decoder; yields their paths."""
    from soka_tf.data.filesystem import sha256_of
    from soka_tf.teachers.torch_file import import_torch

    if _PTH_LAYOUT.value is None:
        return
    torch = import_torch()
    for part in ("encoder", "decoder"):
        if part not in networks:
            continue
        unnamed = pathlib.Path(out_dir) / f"{task}_{part}.pth"
        arrays = torch_arrays(part, networks[part])
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        zipped = _PTH_LAYOUT.value == "zip"
        torch.save(
            {"state_dict": state}, unnamed, _use_new_zipfile_serialization=zipped
        )
        named = unnamed.with_name(f"{task}_{part}-{sha256_of(unnamed)}.pth")
        os.replace(unnamed, named)
        yield str(named)


def torch_arrays(part: str, variables) -> Dict[str, np.ndarray]:
    """The state dict of an encoder or decoder as PyTorch has it: name -> value."""
    from soka_tf.teachers.taskonomy.visual_prior import KERNEL_AXES, torch_name

    arrays = {}
    for path, value in variables.items():
        name = torch_name(part, path)
        value = value.transpose(KERNEL_AXES) if value.ndim == 4 else value
        arrays[name] = np.array(value, order="C")
        if name.endswith(".running_var"):
            steps = name.replace("running_var", "num_batches_tracked")
            arrays[steps] = np.array(0, np.int64)
    return arrays


if __name__ == "__main__":
    cli.run(main, FLAGS)
