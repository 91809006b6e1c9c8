"""On which of the two stacks of requirements.txt the tests run."""

import sys

import pytest

# Chosen by the Python alone, as in requirements.txt.
NEWEST = sys.version_info >= (3, 12)
needs_tfa = pytest.mark.skipif(
    NEWEST, reason="needs TensorFlow Addons, which ends with TensorFlow 2.15"
)
# Where any decoupled decay will do.
DECOUPLED_DECAY = "keras" if NEWEST else "tfa"
