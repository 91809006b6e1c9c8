"""The progress bar of a run."""

import sys
import time
from typing import Any, Callable, Mapping, Optional

from absl import logging
from tqdm import tqdm
from tqdm.utils import ObjectWrapper

from soka_tf.runs.callbacks.pace import Pace
from soka_tf.runs.callbacks.step import StepCallback


class _OnFullDisk(ObjectWrapper):
    """A stream whose file may not grow: what does not fit is not shown."""

    def write(self, text: str) -> None:
        self._or_nothing(self._wrapped.write, text)

    def flush(self) -> None:
        self._or_nothing(self._wrapped.flush)

    def _or_nothing(self, act: Callable[..., Any], *arguments: Any) -> None:
        try:
            act(*arguments)
        except BrokenPipeError:  # nobody looks any more: the command ends
            raise
        except OSError:
            pass


class Progress(StepCallback):
    """A bar with losses and task weights; plain lines where there is no terminal."""

    def __init__(self, steps: int, every_seconds: float = 5.0):
        """Creates the bar.

        Args:
          steps: steps of the whole run.
          every_seconds: least time between two plain lines.
        """
        super().__init__()
        self._steps = steps
        self._every_seconds = every_seconds
        self._bar: Optional[tqdm] = None
        self._pace: Optional[Pace] = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the bar."""
        super().on_train_begin(logs)
        self._pace = Pace(self._steps, self.model.schedule.joint_steps)
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            file=_OnFullDisk(sys.stderr),
            total=self._steps,
            initial=self.step,
            desc="training",
            unit="step",
            mininterval=0.5 if terminal else self._every_seconds,
            ascii=None if terminal else True,
            dynamic_ncols=terminal,
        )
        self._shown = 0.0

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Moves the bar; losses are read at most twice a second."""
        stage = self.model.stage_at(self.step - 1)
        if time.monotonic() - self._shown > 0.5:
            self._shown = time.monotonic()
            self._bar.set_description(stage, refresh=False)
            self._bar.set_postfix_str(self._summary(logs), refresh=False)
        self._bar.update()
        estimate = self._pace.after(self.step, stage)
        if estimate:
            logging.info(estimate)
        if self.step == self.model.schedule.settle_step:
            logging.info(
                "Settling from step %d on: BatchNorm uses its moving statistics, which "
                "the student uses after training. The losses may jump here.",
                self.step + 1,
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the bar."""
        self.close()

    def close(self) -> None:
        """Closes the bar, so that what is printed next has a line of its own."""
        if self._bar is not None:
            self._bar.close()

    def _summary(self, logs: Mapping[str, Any]) -> str:
        parts = []
        for task in self.model.tasks:
            loss = float(logs[f"loss/soft/{task}"])
            weight = float(logs[f"task_weight/{task}"])
            parts.append(f"{task} {loss:.2g} (w {weight:.2f})")
        return ", ".join(parts)
