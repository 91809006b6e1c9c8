"""A trained student as a TensorFlow Lite file, in float16 or int8."""

import contextlib
import os
import sys
from typing import Callable, Dict, Iterator, List

import numpy as np
import tensorflow as tf

from soka_tf.serving.fixed_size import PIXELS_SCOPE, UNITS_SCOPE, FixedSizeStudent

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


def to_float16(module: FixedSizeStudent) -> bytes:
    """Converts with weights in float16; the arithmetic is the runtime's choice.

    Args:
      module: the student, for batches of 1: mobile runtimes want known shapes.

    Returns:
      The content of a .tflite file.
    """
    converter = _converter(module)
    converter.target_spec.supported_types = [tf.float16]
    with _silent():
        return converter.convert()


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
    """

    def batches() -> Iterator[List[np.ndarray]]:
        return ([image[None]] for image in images)

    converter = _converter(module)
    converter.representative_dataset = batches
    with _silent():
        # The converter itself can leave no operation out; the debugger can.
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=batches
        )
        debugger.options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=_float_names(debugger.calibrated_model)
        )
        return debugger.get_nondebug_quantized_model()


def load(path: str) -> Callable[[np.ndarray], Dict[str, np.ndarray]]:
    """Loads a file for TensorFlow's own interpreter.

    Returns:
      A function of uint8 images [n, image_size, image_size, 3] to task name -> float32
      [n, image_size, image_size, channels]; it answers one image after another.
    """
    interpreter = tf.lite.Interpreter(path)
    runner = interpreter.get_signature_runner()

    def answer(images: np.ndarray) -> Dict[str, np.ndarray]:
        answers = [runner(images=image[None]) for image in images]
        return {k: np.concatenate([one[k] for one in answers]) for k in answers[0]}

    # A runner alone does not keep its interpreter alive.
    answer.interpreter = interpreter
    return answer


def _converter(module: FixedSizeStudent) -> tf.lite.TFLiteConverter:
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.answer.get_concrete_function()], module
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def _float_names(model: bytes) -> List[str]:
    """The names of the tensors that stay in float32."""
    interpreter = tf.lite.Interpreter(model_content=model)
    names = [details["name"] for details in interpreter.get_output_details()]
    for details in interpreter.get_tensor_details():
        if any(scope in details["name"] for scope in _FLOAT_SCOPES):
            names.append(details["name"])
    return names


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drops what the converter writes to stderr from C++, which no setting stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
