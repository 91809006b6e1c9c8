"""On which of the two stacks of requirements.txt the tests run."""

import importlib.util
import sys

import pytest

# Chosen by the Python alone, as in requirements.txt.
NEWEST = sys.version_info >= (3, 12)
HAS_TFA = importlib.util.find_spec("tensorflow_addons") is not None
needs_tfa = pytest.mark.skipif(
    not HAS_TFA, reason="needs TensorFlow Addons, which ends with TensorFlow 2.15"
)
# Where any decoupled decay will do.
DECOUPLED_DECAY = "tfa" if HAS_TFA else "keras"
