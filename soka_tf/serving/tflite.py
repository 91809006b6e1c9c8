"""A trained student as a TensorFlow Lite file, in float16 or int8."""

import os
import subprocess
import sys
import tempfile
import warnings
from typing import Callable, Dict, Optional

import numpy as np
import tensorflow as tf

from soka_tf.errors import UserError, reason
from soka_tf.serving.fixed_size import PIXELS_SCOPE, UNITS_SCOPE, FixedSizeStudent
from soka_tf.serving.tflite_converter import IMAGES

# What stays in float32 in an int8 file, by parts of its tensors' names: 256 steps are
# few for depth's logarithm, and rounding may leave a short vector without a direction.
# With the last transposed convolution among them, the demo's errors in depth are a
# third, for 3 KB more.
_FLOAT_SCOPES = (
    PIXELS_SCOPE,
    "/deconv14/",
    "/decoder_output/",
    UNITS_SCOPE,  # with a number behind it from the second task on
)
# Finds what this process finds, in the same order, wherever it is started.
_CHILD = """
import sys
sys.path[:] = {path!r}
from soka_tf.serving import tflite_converter
tflite_converter.main(*sys.argv[1:])
"""


def to_float16(module: FixedSizeStudent) -> bytes:
    """Converts with weights in float16; the arithmetic is the runtime's choice.

    Args:
      module: the student, for batches of 1: mobile runtimes want known shapes.

    Returns:
      The content of a .tflite file.

    Raises:
      UserError: if the converter fails.
    """
    return _convert(module)


def to_int8(module: FixedSizeStudent, images: np.ndarray) -> bytes:
    """Converts to arithmetic in int8, but for both ends.

    Weights get one scale a filter, activations one a tensor, from the values that they
    take on the images. Each decoder's last two layers and the way to physical units
    stay in float32.

    Args:
      module: the student, for batches of 1.
      images: uint8 [n, image_size, image_size, 3], representative ones.

    Returns:
      The content of a .tflite file.

    Raises:
      UserError: if the converter fails.
    """
    return _convert(module, images)


def load(path: str) -> Callable[[np.ndarray], Dict[str, np.ndarray]]:
    """Loads a file for TensorFlow's own interpreter, or LiteRT's where that has gone.

    Returns:
      A function of uint8 images [n, image_size, image_size, 3] to task name -> float32
      [n, image_size, image_size, channels]; it predicts one image after another.

    Raises:
      UserError: if there is no interpreter.
    """
    interpreter = make_interpreter(path)
    runner = interpreter.get_signature_runner()

    def run(images: np.ndarray) -> Dict[str, np.ndarray]:
        maps = [runner(images=image[None]) for image in images]
        return {k: np.concatenate([one[k] for one in maps]) for k in maps[0]}

    # A runner alone does not keep its interpreter alive.
    run.interpreter = interpreter
    return run


def make_interpreter(path: str):
    """An interpreter of a file: TensorFlow's own, or LiteRT's where that has gone.

    Raises:
      UserError: if there is neither.
    """
    if hasattr(tf, "lite") and hasattr(tf.lite, "Interpreter"):
        with warnings.catch_warnings():
            # The newest TensorFlow's notice that LiteRT will take its place.
            warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is")
            return tf.lite.Interpreter(path)
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(
            f"TensorFlow {tf.__version__} runs no TensorFlow Lite files ({error}). "
            "python -m pip install ai-edge-litert"
        ) from error
    return Interpreter(path)


def _convert(module: FixedSizeStudent, images: Optional[np.ndarray] = None) -> bytes:
    """Calls the converter in a process of its own: it leaks, and may abort."""
    with tempfile.TemporaryDirectory(prefix="soka_tf_tflite_") as folder:
        try:
            tf.saved_model.save(module, folder)
            if images is not None:
                np.save(os.path.join(folder, IMAGES), images)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"The student to be converted cannot be written to {folder}: "
                f"{reason(error)}. Free some space there, or set TMPDIR to a folder "
                "elsewhere."
            ) from error
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD.format(path=sys.path)]
            + [folder, *_FLOAT_SCOPES],
            # Beside a parent that holds the GPU's memory there is none left.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1][:300] if lines else "without a message"
        raise UserError(
            f"The TensorFlow Lite converter of TensorFlow {tf.__version__} ended with "
            f"status {done.returncode}: {last}. Leave the tflite formats out, or "
            "export with the other TensorFlow of docs/stacks.md."
        )
    return done.stdout
