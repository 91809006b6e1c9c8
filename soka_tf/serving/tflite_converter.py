"""Converts a SavedModel to TensorFlow Lite, in a process of its own.

Started by `soka_tf.serving.tflite`: the converter does not give back its memory, and
may end the process instead of raising.
"""

import os
import warnings
from typing import Iterator, List, Sequence

from soka_tf import stack

# Beside the SavedModel: uint8 [n, image_size, image_size, 3].
IMAGES = "images.npy"


def main(folder: str, *float_scopes: str) -> None:
    """Writes the content of a .tflite file to standard output.

    Weights are in float16; where the folder holds images, it computes in int8.

    Args:
      folder: of a SavedModel with the function `serve`, and perhaps of `IMAGES`.
      *float_scopes: parts of the names of tensors that stay in float32 in int8.
    """
    out = os.dup(1)
    os.dup2(2, 1)  # whatever TensorFlow prints is no content
    # The newest TensorFlow's notice of the interpreter that will take this one's place.
    warnings.simplefilter("ignore")
    stack.import_tensorflow_quietly()
    images = os.path.join(folder, IMAGES)
    if os.path.exists(images):
        content = _to_int8(folder, images, float_scopes)
    else:
        content = _to_float16(folder)
    with open(out, "wb") as file:
        file.write(content)


def _to_float16(folder: str) -> bytes:
    import tensorflow as tf

    converter = _converter(folder)
    converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _to_int8(folder: str, images: str, float_scopes: Sequence[str]) -> bytes:
    import numpy as np
    import tensorflow as tf

    pixels = np.load(images, allow_pickle=False)

    def batches() -> Iterator[List[np.ndarray]]:
        return ([image[None]] for image in pixels)

    converter = _converter(folder)
    converter.representative_dataset = batches
    # The converter itself can leave no operation out; the debugger can.
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=batches
    )
    debugger.options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_nodes=_names_within(float_scopes, debugger.calibrated_model)
    )
    return debugger.get_nondebug_quantized_model()


def _converter(folder: str):
    import tensorflow as tf

    # Of a function and not of the folder: the tensors keep their names.
    module = tf.saved_model.load(folder)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.serve.get_concrete_function()], module
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def _names_within(scopes: Sequence[str], model: bytes) -> List[str]:
    """The names of the outputs and of the tensors within one of the scopes."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=model)
    names = [details["name"] for details in interpreter.get_output_details()]
    for details in interpreter.get_tensor_details():
        if any(scope in details["name"] for scope in scopes):
            names.append(details["name"])
    return names
