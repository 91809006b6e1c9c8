"""Converts a SavedModel to TensorFlow Lite, in a process of its own.

Started by `soka_tf.serving.tflite`: the converter does not give back its memory, and
may end the process instead of raising.

    python -m soka_tf.serving.tflite_converter FOLDER OUT SCOPE ...

writes to OUT, with weights in float16; where FOLDER holds images.npy, in int8 but for
tensors with one of the SCOPEs in their names.
"""

import os
import sys
import warnings
from typing import Iterator, List, Sequence

from soka_tf import stack
from soka_tf.disk import replacing

# Beside the SavedModel: uint8 [n, image_size, image_size, 3].
IMAGES = "images.npy"


def main(arguments: Sequence[str]) -> None:
    """Converts one file."""
    stack.import_tensorflow_quietly()
    folder, out, *float_scopes = arguments
    images = os.path.join(folder, IMAGES)
    if os.path.exists(images):
        content = _to_int8(folder, images, float_scopes)
    else:
        content = _to_float16(folder)
    with replacing(out) as temporary, open(temporary, "wb") as file:
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
        [module.answer.get_concrete_function()], module
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


if __name__ == "__main__":
    # The newest TensorFlow's notice of the interpreter that will take this one's place.
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
