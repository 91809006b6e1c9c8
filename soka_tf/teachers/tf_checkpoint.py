"""Reads TensorFlow checkpoints in a process of its own.

TensorFlow ends the whole process, and raises nothing, where the index of a checkpoint
names a shape that cannot be.
"""

import os
import signal
import subprocess
import sys
import tempfile
from typing import Dict, Sequence

import numpy as np
import tensorflow as tf

from soka_tf.errors import UserError, one_line

_TIMEOUT_S = 600  # a training checkpoint of 500 MB takes seconds
_NAME, _ARRAYS = "checkpoint", "arrays.npz"
# Finds what this process finds, in the same order, wherever it is started.
_CHILD = """
import sys
sys.path[:] = {path!r}
from soka_tf.teachers import tf_checkpoint
tf_checkpoint.write_arrays(*sys.argv[1:])
"""


def read_checkpoint(prefix: str, files: Sequence[str]) -> Dict[str, np.ndarray]:
    """Reads the variables of a checkpoint, but for optimizers' slots.

    Args:
      prefix: of the checkpoint's files.
      files: the index and the data files.

    Returns:
      Name -> array. A variable of a type that numpy lacks is there as bytes.

    Raises:
      UserError: if TensorFlow cannot read the checkpoint, whatever becomes of the
        process that tries.
    """
    with tempfile.TemporaryDirectory(prefix="soka_tf_checkpoint_") as folder:
        # A short name in the process's own folder: in a path TensorFlow would take
        # [ and * for a pattern.
        for file in files:
            ending = os.path.basename(file)[len(os.path.basename(prefix)) :]
            os.symlink(os.path.abspath(file), os.path.join(folder, _NAME + ending))
        path = [os.path.abspath(entry) for entry in sys.path]
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", _CHILD.format(path=path), _NAME, _ARRAYS],
                cwd=folder,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            reason = f"TensorFlow had not read it after {_TIMEOUT_S} s"
        else:
            reason = one_line(done.stdout.decode(errors="replace"))
            if done.returncode == 0:
                with np.load(os.path.join(folder, _ARRAYS)) as arrays:
                    return dict(arrays)
            if done.returncode < 0:
                name = signal.Signals(-done.returncode).name
                reason = f"TensorFlow was ended by {name} while it read it"
    raise UserError(
        f"{prefix}: cannot be read as a TensorFlow checkpoint, it is damaged or "
        f"something else ({reason}). Fetch it again."
    )


def write_arrays(prefix: str, out: str) -> None:
    """What the process does: writes a checkpoint's variables into an .npz file.

    It prints what goes wrong, and ends with status 1 then.
    """
    name = "index"
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
        arrays = {}
        for name in names:
            # encoder/conv1/weights/Adam, whatever the optimizer.
            if name.rpartition("/")[0] not in names:
                value = np.asarray(reader.get_tensor(name))
                text = value.dtype.hasobject
                arrays[name] = value.astype("S") if text else value
        name = f"{out} in the temporary folder"
        np.savez(out, **arrays)
    except Exception as error:
        print(f"{name}: {one_line(error)}")
        sys.exit(1)
