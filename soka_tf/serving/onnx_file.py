"""A trained student as an ONNX file."""

import contextlib
import importlib
import logging
from typing import Callable, Dict, Iterator

import numpy as np

from soka_tf.errors import UserError
from soka_tf.serving.fixed_size import FixedSizeStudent

# The newest that tf2onnx writes without a warning and that old runtimes read.
_OPSET = 17
# The same in setup.py. onnx 1.19 has lost names that tf2onnx 1.17 imports.
REQUIREMENTS = ("tf2onnx==1.17.0", "onnx==1.18.0", "onnxruntime>=1.19,<2")


def require_packages() -> None:
    """Finds out whether ONNX files can be written and run.

    Raises:
      UserError: if a package is missing, with how to install it.
    """
    for name in ("onnx", "onnxruntime", "tf2onnx"):
        try:
            importlib.import_module(name)
        # tf2onnx raises AttributeError beside an onnx that is too new.
        except (ImportError, AttributeError) as error:
            packages = " ".join(f'"{package}"' for package in REQUIREMENTS)
            raise UserError(
                f"--format=onnx needs the package {name}, which cannot be imported "
                f"({error}). With Python 3.10 or newer: "
                f"python -m pip install {packages}"
            ) from error


def to_onnx(module: FixedSizeStudent) -> bytes:
    """Converts to float32 arithmetic.

    Args:
      module: the student, for batches of any size.

    Returns:
      The content of an .onnx file.

    Raises:
      UserError: if a package is missing.
    """
    require_packages()
    import tf2onnx

    with _quiet():
        model, _ = tf2onnx.convert.from_function(
            module.serve, input_signature=[module.images_spec], opset=_OPSET
        )
    return model.SerializeToString()


def load(path: str) -> Callable[[np.ndarray], Dict[str, np.ndarray]]:
    """Loads a file for onnxruntime on the processor.

    Returns:
      A function of uint8 images [n, image_size, image_size, 3] to task name -> float32
      [n, image_size, image_size, channels].

    Raises:
      UserError: if a package is missing.
    """
    require_packages()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> Dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"images": images})))

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tf2onnx's account of its work from the user; errors stay."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
