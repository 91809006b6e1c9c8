"""Saves a run every N steps and at its end."""

from typing import Any, Mapping, Optional, Sequence

import tensorflow as tf
from absl import logging

from soka_tf.errors import Interrupted, UserError
from soka_tf.processes import Interruption
from soka_tf.runs.callbacks.events import warn_of_tensorboard
from soka_tf.runs.callbacks.not_finite import NotFinite
from soka_tf.runs.callbacks.step import FAILURES, StepCallback
from soka_tf.runs.checkpoint_folder import CheckpointFolder
from soka_tf.runs.checkpoints import try_save


class Checkpoints(StepCallback):
    """Saves the run every N steps and at its end; keeps the last few.

    What is not finite is never saved: it would be the state a run goes on from. A save
    that fails costs the run nothing but this checkpoint.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        every_steps: int,
        not_finite: NotFinite,
        writers: Sequence[tf.summary.SummaryWriter] = (),
        interruption: Optional[Interruption] = None,
    ):
        """Keeps what saves.

        Args:
          folder: saves and deletes; its checkpoints are numbered by the step.
          every_steps: steps between two checkpoints.
          not_finite: checked before every checkpoint.
          writers: flushed before saving, so that no log is older than a checkpoint.
          interruption: asked after every step; once it has come, the step is saved and
            training ends.
        """
        super().__init__()
        self._folder = folder
        self._every_steps = every_steps
        self._not_finite = not_finite
        self._writers = writers
        self._interruption = interruption or Interruption()
        self._tried_step: Optional[int] = None
        self._failure: Optional[str] = None
        self._logs: Mapping[str, Any] = {}

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Saves every N steps, and when training is to end.

        Raises:
          Interrupted: when it was interrupted.
        """
        self._logs = logs
        number = self._interruption.received
        if number is None and self.step % self._every_steps:
            return
        self._save()
        if number is not None:
            raise Interrupted(
                f"interrupted ({self._interruption.name}) after step {self.step}"
                + (f", not saved ({self._failure})" if self._failure else "")
                + f". The same command goes on from {self._last_good()}.",
                number,
            )
        if self._failure is not None:
            logging.warning(
                "%s: the checkpoint of step %d was not saved (%s). Training goes on, "
                "the next try is at step %d; %s is still there.",
                self._folder.path,
                self.step,
                self._failure,
                self.step + self._every_steps,
                self._last_good(),
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Saves the end, unless that was just done."""
        # Not tried twice: where several workers save together, one may have failed.
        if self._tried_step != self.step:
            self._save()
        if self._failure is not None:
            raise UserError(
                f"{self._folder.path}: the last checkpoint, of step {self.step}, "
                f"was not saved ({self._failure}). Free space or mend the folder, then "
                f"give the same command: it goes on from {self._last_good()}."
            )

    def _save(self) -> None:
        self._not_finite.check(self.step, self._logs, weights=True)
        for writer in self._writers:
            try:
                writer.flush()
            except FAILURES as error:
                warn_of_tensorboard(self.step, error)
        self._failure = try_save(self._folder, self.step)
        self._tried_step = self.step

    def _last_good(self) -> str:
        step = self._folder.last_step()
        return "the start" if step is None else f"the checkpoint of step {step}"
