"""A training step as an XLA program, run without TensorFlow."""
