"""Callbacks that count the steps of the run, and when they are due."""

from typing import Any, Mapping, NamedTuple, Optional

import tensorflow as tf

from soka_tf.soka.model import SokaModel

# What Python and TensorFlow raise where a file cannot be written.
FAILURES = (OSError, tf.errors.OpError)


class Every(NamedTuple):
    """Every so many steps, and after the last: short runs have their curves, too."""

    steps: int
    last: Optional[int] = None

    def due(self, step: int) -> bool:
        """Whether a step is one of them."""
        return step % self.steps == 0 or step == self.last


class StepCallback(tf.keras.callbacks.Callback):
    """A callback that counts the steps of the run, not only the batch of this `fit`."""

    model: SokaModel

    def on_train_begin(self, logs: Any = None) -> None:
        """Reads the step once; afterwards it is counted."""
        self.step = int(self.model.step.numpy())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts, then calls `on_step`."""
        self.step += 1
        self.on_step(logs or {})

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Called with the number of steps done in `self.step`."""
