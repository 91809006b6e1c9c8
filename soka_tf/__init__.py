"""soka_tf: one compact student from several trained dense-prediction teachers.

A TensorFlow 2 reproduction of "Collaboration by Competition: Self-coordinated
Knowledge Amalgamation for Multi-talent Student Learning" (SOKA, ECCV 2020).

In a notebook: `soka_tf.train_student(["gin/rooms/demo.gin"], model_dir="runs/demo")`,
`soka_tf.load_student("runs/demo").predict(image)` and `soka_tf.load_teacher(path)`. On
a command line: `python -m soka_tf` lists the commands.
"""

import importlib
import sys
from typing import Any, List

from soka_tf.stack import import_tensorflow_quietly, use_keras_2

__version__ = "0.1.0"
__all__ = ["LoadedStudent", "load_student", "load_teacher", "train_student"]

# Imported when first used, and TensorFlow with them: commands explain themselves, and
# processes that draw rooms start, without it.
_MODULES = {
    "LoadedStudent": "soka_tf.api",
    "load_student": "soka_tf.api",
    "load_teacher": "soka_tf.teachers",
    "train_student": "soka_tf.api",
}

use_keras_2()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'soka_tf' has no attribute {name!r}")
    if "tensorflow" not in sys.modules:  # or it has logged as its user likes
        import_tensorflow_quietly()
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
