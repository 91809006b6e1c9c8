"""Which Keras answers as tf.keras, whoever imports TensorFlow first."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import pytest

from soka_tf import stack
from tests import tiny_runs
from tests.stacks import NEWEST


def python(code):
    environment = {**os.environ, "PYTHONPATH": str(tiny_runs.ROOT)}
    # As whoever works with both stacks may have it, though one wants it unset.
    environment["TF_USE_LEGACY_KERAS"] = "0" if NEWEST else "1"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize(
    "first",
    [
        "import tensorflow as tf, soka_tf",
        pytest.param("import soka_tf, tensorflow as tf", marks=pytest.mark.slow),
    ],
)
def test_tf_keras_is_keras_2_whoever_is_imported_first(first):
    code = (
        f"{first}\n"
        "from soka_tf.networks.encoder import Encoder\n"
        "assert isinstance(Encoder(width=1 / 32), tf.keras.Model)\n"
        "print(tf.keras.optimizers.legacy.Adam(), tf.keras.Model.__module__)\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    package = "tf_keras" if NEWEST else "keras"
    assert done.stdout.split()[-1].split(".")[0] == package


@pytest.mark.skipif(not NEWEST, reason="TensorFlow 2.15 has Keras 2 built in")
def test_keras_3_used_before_is_one_error_that_says_what_to_do():
    done = python("import tensorflow as tf\ntf.keras.layers.Dense(1)\nimport soka_tf")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: soka_tf needs Keras 2. Received: tf.keras is ")
    assert "Import soka_tf first, or set TF_USE_LEGACY_KERAS=1" in last


def test_keras_3_without_tf_keras_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.15.1")
    with pytest.raises(ImportError, match="Keras 3 without.*pip install tf_keras"):
        stack.use_keras_2()


def test_versions_are_those_of_the_modules_themselves(monkeypatch):
    import numpy
    import tensorflow as tf

    import soka_tf

    python = ".".join(map(str, sys.version_info[:3]))
    wanted = {"soka_tf": soka_tf.__version__, "numpy": numpy.__version__}
    assert stack.versions() == {
        **wanted,
        "tensorflow": tf.__version__,
        "python": python,
    }
    package = tf.keras.Model.__module__.split(".")[0]
    assert stack.describe_keras().split()[0] == package
    # By whatever package it came, what is loaded is what computes.
    monkeypatch.setattr(tf, "__version__", "3.0")
    assert stack.versions()["tensorflow"] == "3.0"
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert stack.versions()["tensorflow"] == importlib.metadata.version("tensorflow")


@pytest.mark.parametrize(
    "level, switch, silent",
    [("3", "1", True), ("2", "1", True), ("0", "1", False), ("3", "0", False)],
)
def test_quiet_import_follows_the_level_of_the_user_where_there_is_noise(
    level, switch, silent, monkeypatch, capfd
):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", switch)
    # In place of TensorFlow, which this process has imported long ago.
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(sys, "meta_path", [_Noisy(), *sys.meta_path])
    stack.import_tensorflow_quietly()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == ("after\n" if silent else "noise\nafter\n")


class _Noisy:
    """Finds a TensorFlow that only writes to the process's stderr."""

    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        os.write(2, b"noise\n")
