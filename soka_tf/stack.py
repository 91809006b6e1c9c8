"""The packages below soka_tf: which Keras is `tf.keras`, and a quiet start.

Two stacks serve, chosen by the Python alone (requirements.txt): TensorFlow 2.15, which
has Keras 2 built in, and the newest TensorFlow, whose Keras 2 is the package tf_keras.
"""

import contextlib
import faulthandler
import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Dict, Iterator, Optional

_SWITCH = "TF_USE_LEGACY_KERAS"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Packages that install the module tensorflow.
_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tf-nightly")


def use_keras_2() -> None:
    """Makes Keras 2 `tf.keras`. Called when soka_tf is imported.

    TensorFlow reads TF_USE_LEGACY_KERAS when `tf.keras` is first used, and then wants
    the package tf_keras, TensorFlow 2.15 too, which does without.

    Raises:
      ImportError: if Keras 3 is already loaded in this process, or nothing else could.
    """
    if importlib.util.find_spec("tf_keras") is not None:
        os.environ[_SWITCH] = "1"
    elif _major_version_of("keras") >= 3:
        raise ImportError(
            "soka_tf needs Keras 2. Received: Keras 3 without the package tf_keras. "
            "Install tf_keras of TensorFlow's own release (python -m pip install "
            "tf_keras) and start Python again."
        )
    else:
        os.environ.pop(_SWITCH, None)
    tf = sys.modules.get("tensorflow")
    # tf_keras has no version there; Keras 3 and Keras 2.15 do.
    if tf and getattr(tf.keras, "__version__", "2")[0] != "2":
        raise ImportError(
            f"soka_tf needs Keras 2. Received: tf.keras is Keras "
            f"{tf.keras.__version__}, used in this process before soka_tf was "
            f"imported. Import soka_tf first, or set {_SWITCH}=1 in the environment, "
            "and start Python again."
        )


def log_little() -> None:
    """Lets TensorFlow's C++ log failures only, unless TF_CPP_MIN_LOG_LEVEL is set.

    Level 3 also hides three "Unable to register ... factory" lines that TensorFlow 2.15
    logs as errors at every start. What stops a run reaches the user as a Python
    exception all the same. Read once, when TensorFlow is imported.
    """
    os.environ.setdefault(_LOG_LEVEL, "3")


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow without what it writes to stderr at every start.

    TensorFlow 2.20 and later, those that need tf_keras, write lines of level INFO
    before they look at TF_CPP_MIN_LOG_LEVEL. With that set to 0 or 1 they appear.
    """
    log_little()
    noisy = os.environ.get(_SWITCH) == "1"
    wanted = os.environ.get(_LOG_LEVEL, "0") in ("0", "1")
    with _silent_stderr() if noisy and not wanted else contextlib.nullcontext():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drops what is written to the process's stderr meanwhile, by C++, too."""
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    watched = faulthandler.is_enabled()
    try:
        if not watched:  # a process that C++ ends prints its message all the same
            faulthandler.enable(kept)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        if not watched:
            faulthandler.disable()
        os.close(kept)
        os.close(nowhere)


def versions() -> Dict[str, str]:
    """What this process computes with; TensorFlow is not imported for it.

    Returns:
      Versions of "soka_tf", "tensorflow", "numpy" and "python"; "missing" of what is
      not installed.
    """
    from soka_tf import __version__  # which imports this module

    # Once loaded, TensorFlow knows best: it has more packages than are listed here.
    loaded = getattr(sys.modules.get("tensorflow"), "__version__", None)
    installed = (_version_of(package) for package in _TENSORFLOW)
    return {
        "soka_tf": __version__,
        "tensorflow": loaded or next(filter(None, installed), "missing"),
        "numpy": _version_of("numpy") or "missing",
        "python": platform.python_version(),
    }


def describe_versions() -> str:
    """Of soka_tf, TensorFlow and Python, in one line."""
    found = versions()
    tensorflow, python = found["tensorflow"], found["python"]
    return f"soka_tf {found['soka_tf']}, TensorFlow {tensorflow}, Python {python}"


def describe_keras() -> str:
    """The package that is `tf.keras`, with its version."""
    package = "tf_keras" if importlib.util.find_spec("tf_keras") else "keras"
    return f"{package} {_version_of(package)}"


def _version_of(package: str) -> Optional[str]:
    """Of what is installed, without importing it; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _major_version_of(package: str) -> int:
    """As `_version_of`; 0 where it is not installed."""
    return int((_version_of(package) or "0").split(".")[0])
