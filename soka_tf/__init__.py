"""soka_tf: one compact student from several trained dense-prediction teachers.

A TensorFlow 2 reproduction of "Collaboration by Competition: Self-coordinated
Knowledge Amalgamation for Multi-talent Student Learning" (SOKA, ECCV 2020).
"""

from soka_tf.stack import use_keras_2

__version__ = "0.1.0"

use_keras_2()
