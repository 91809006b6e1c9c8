"""What happens every N steps: progress, logs, checkpoints, a stop at NaN."""

import csv
import io
import os
import sys
import time
from typing import Any, List, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from soka_tf.errors import UserError
from soka_tf.soka.model import SokaModel


class StepCallback(tf.keras.callbacks.Callback):
    """A callback that knows the step of the run, not only the batch of this `fit`."""

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

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the bar."""
        super().on_train_begin(logs)
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
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
        if time.monotonic() - self._shown > 0.5:
            self._shown = time.monotonic()
            self._bar.set_description(self.model.stage_at(self.step - 1), refresh=False)
            self._bar.set_postfix_str(self._summary(logs), refresh=False)
        self._bar.update()

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


class MetricLog(StepCallback):
    """Means since the last report, to metrics.csv and TensorBoard; stops at NaN.

    metrics.csv has the columns step, stage, seconds, learning_rate, and every log
    of `SokaModel`; a resumed run first drops the rows it is about to make again.
    """

    def __init__(
        self,
        path: str,
        columns: Sequence[str],
        every_steps: int,
        learning_rate: Any,
        writer: tf.summary.SummaryWriter,
        last_step: Optional[int] = None,
    ):
        """Prepares the log.

        Args:
          path: of metrics.csv.
          columns: log names, in the order of the columns.
          every_steps: steps between two reports.
          learning_rate: the schedule of the encoder's optimizer.
          writer: TensorBoard's.
          last_step: reported in any case, so that a short run has its curves, too.
        """
        super().__init__()
        self._last_step = last_step
        self._path = path
        self._columns = ["step", "stage", "seconds", "learning_rate", *columns]
        self._every_steps = every_steps
        self._learning_rate = learning_rate
        self._writer = writer

    def on_train_begin(self, logs: Any = None) -> None:
        """Cuts metrics.csv back to the step the run goes on from."""
        super().on_train_begin(logs)
        rows = []
        if os.path.exists(self._path):
            with open(self._path, newline="", encoding="utf-8") as file:
                rows = [
                    row
                    for row in csv.DictReader(file)
                    if None not in row.values()  # a line cut off
                    and row["step"].isdigit()
                    and int(row["step"]) <= self.step
                ]
        self._seconds_before = float(rows[-1]["seconds"] or 0) if rows else 0.0
        temporary = self._path + ".tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(self._lines(rows, header=True))
        os.replace(temporary, self._path)
        self._began = time.monotonic()

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Reports every N steps and the last, and wherever movement was measured."""
        movement = {k: v for k, v in logs.items() if k.startswith("movement")}
        if movement:
            self._write_summaries(movement)
        if self.step % self._every_steps and self.step != self._last_step:
            return
        values = {k: float(v) for k, v in logs.items() if k not in movement}
        self.model.reset_metrics()
        stop_if_not_finite(self.model, self.step, values)
        stage = self.model.stage_at(self.step - 1)
        values["learning_rate"] = float(self._learning_rate(self.step))
        seconds = self._seconds_before + time.monotonic() - self._began
        row = {"step": self.step, "stage": stage, "seconds": f"{seconds:.1f}"}
        row.update({name: f"{value:.6g}" for name, value in values.items()})
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(self._lines([row]))
        self._write_summaries(values)

    def _lines(self, rows: List[Mapping[str, Any]], header: bool = False) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _write_summaries(self, values: Mapping[str, Any]) -> None:
        with self._writer.as_default(step=self.step):
            for name, value in values.items():
                tf.summary.scalar(name, value)


class Checkpoints(StepCallback):
    """Saves the run every N steps and at its end; keeps the last few.

    What is not finite is never saved: it would be the state a run goes on from.
    """

    def __init__(
        self,
        manager: tf.train.CheckpointManager,
        every_steps: int,
        writers: Sequence[tf.summary.SummaryWriter] = (),
    ):
        """Keeps the manager.

        Args:
          manager: saves and deletes; its checkpoints are numbered by the step.
          every_steps: steps between two checkpoints.
          writers: flushed before saving, so that no log is older than a checkpoint.
        """
        super().__init__()
        self._manager = manager
        self._every_steps = every_steps
        self._writers = writers
        self._saved_step: Optional[int] = None
        self._logs: Mapping[str, Any] = {}

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Saves every N steps."""
        self._logs = logs
        if self.step % self._every_steps == 0:
            self._save()

    def on_train_end(self, logs: Any = None) -> None:
        """Saves the end, unless it was just saved."""
        if self._saved_step != self.step:
            self._save()

    def _save(self) -> None:
        stop_if_not_finite(self.model, self.step, self._logs)
        stop_if_not_finite(self.model, self.step, _sums(self.model.players))
        for writer in self._writers:
            writer.flush()
        self._manager.save(checkpoint_number=self.step)
        self._saved_step = self.step


def stop_if_not_finite(model: SokaModel, step: int, values: Mapping[str, Any]) -> None:
    """Raises a UserError that names the values that are NaN or infinite."""
    wrong = [name for name, value in values.items() if not np.isfinite(value)]
    if wrong:
        raise UserError(
            f"Training stopped at step {step}, stage {model.stage_at(step - 1)}: "
            f"{', '.join(wrong)} is not a finite number. The last checkpoint is "
            "untouched. Lower learning_rate, or look for a teacher or an image that is "
            "broken."
        )


def _sums(players: Mapping[str, Sequence[tf.Variable]]) -> Mapping[str, float]:
    """The sum of absolute values of every player, not finite if one of them is not."""
    return {
        f"the sum of the weights of {player}": float(
            tf.add_n([tf.reduce_sum(tf.abs(v)) for v in variables])
        )
        for player, variables in players.items()
    }


def text_summaries(
    writer: tf.summary.SummaryWriter, texts: Mapping[str, str], step: int
) -> None:
    """Shows texts (the bound configuration) in TensorBoard, as code blocks."""
    with writer.as_default(step=step):
        for name, text in texts.items():
            indented = "\n".join("    " + line for line in text.splitlines())
            tf.summary.text(name, indented)
