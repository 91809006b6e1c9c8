"""The panel of a run, drawn now and then while it trains."""

import os
from typing import Any, Callable, Mapping, Optional, Sequence

import tensorflow as tf
from absl import logging

from soka_tf.errors import reason
from soka_tf.evaluation.panels import compute_panel, draw_panel
from soka_tf.runs.callbacks.events import tag
from soka_tf.runs.callbacks.step import FAILURES, StepCallback
from soka_tf.runs.strategy import raise_if_worker_lost
from soka_tf.tasks import Task


class PanelCallback(StepCallback):
    """Draws the panel every N steps and at the end of training.

    Writes `<out_dir>/step_0000700.png` and one TensorBoard image a task,
    "2_panels/<task>".
    """

    def __init__(
        self,
        student: Callable,
        teachers: Mapping[str, Callable],
        batch: Mapping[str, tf.Tensor],
        tasks: Sequence[Task],
        out_dir: str,
        every_steps: int,
        writer: Optional[tf.summary.SummaryWriter] = None,
    ):
        """Keeps the samples; nothing is drawn yet.

        Args:
          student: as in `compute_panel`.
          teachers: as in `compute_panel`.
          batch: the fixed samples, as in `compute_panel`.
          tasks: the tasks to show.
          out_dir: folder of the pictures.
          every_steps: steps between two pictures; 0 for only one, at the end.
          writer: where TensorBoard's images go, None for nowhere.
        """
        super().__init__()
        self._student = student
        self._teachers = dict(teachers)
        self._batch = dict(batch)
        self._tasks = tuple(tasks)
        self._out_dir = out_dir
        self._every_steps = every_steps
        self._writer = writer
        self._drawn_step: Optional[int] = None

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Draws every N steps."""
        if self._every_steps and self.step % self._every_steps == 0:
            self.draw(self.step)

    def on_train_end(self, logs: Any = None) -> None:
        """Draws the end, unless that was just done."""
        self.draw(self.step)

    def draw(self, step: int) -> Optional[str]:
        """Draws the present state; returns the new picture's path, if there is one."""
        if step == self._drawn_step:
            return None
        self._drawn_step = step
        try:
            return self._draw(step)
        except FAILURES as error:
            raise_if_worker_lost(error)
            logging.warning(
                "%s: the panel of step %d was not drawn (%s). Training goes on, the "
                "next one is drawn at its time.",
                self._out_dir,
                step,
                reason(error),
            )
            return None

    def _draw(self, step: int) -> str:
        panel = compute_panel(self._student, self._teachers, self._batch, self._tasks)
        path = os.path.join(self._out_dir, f"step_{step:07d}.png")
        draw_panel(panel, self._tasks, path, heading=f"step {step:,}")
        if self._writer is not None:
            with self._writer.as_default(step=step):
                for task in self._tasks:
                    drawn = draw_panel(panel, [task])
                    tf.summary.image(tag(f"panels/{task.name}"), drawn[None])
        return path
