"""metrics.csv, movement.json and TensorBoard's events of a run."""

import csv
import io
import os
import time
from typing import Any, Callable, List, Mapping, Sequence

import tensorflow as tf
from absl import logging

from soka_tf.atomic import replacing
from soka_tf.data.documents import finite, read_csv
from soka_tf.errors import UserError, reason
from soka_tf.runs.callbacks.events import write_scalars, write_texts
from soka_tf.runs.callbacks.not_finite import NotFinite
from soka_tf.runs.callbacks.step import Every, StepCallback
from soka_tf.runs.movement import MOVEMENT_FILE, as_markdown, record_movement


class MetricLog(StepCallback):
    """Means since the last report, to metrics.csv and TensorBoard; stops at NaN.

    Movement goes to movement.json, beside metrics.csv, at the steps that measure it.
    metrics.csv has the columns step, stage, seconds, learning_rate, and every log
    of `SokaModel`; a resumed run first drops the rows it is about to make again.
    Rows that cannot be written are kept and tried again with the next one.
    """

    def __init__(
        self,
        path: str,
        columns: Sequence[str],
        every: Every,
        learning_rate: Any,
        writer: tf.summary.SummaryWriter,
        not_finite: NotFinite,
        further: Callable[[int], Mapping[str, float]] = lambda step: {},
    ):
        """Prepares the log.

        Args:
          path: of metrics.csv.
          columns: log names, in the order of the columns.
          every: when it reports.
          learning_rate: the schedule of the encoder's optimizer.
          writer: TensorBoard's.
          not_finite: checked before every report.
          further: returns what else was measured after a step; where there is
            anything the step is reported in any case, too.
        """
        super().__init__()
        self._path = path
        self._movement_path = os.path.join(os.path.dirname(path), MOVEMENT_FILE)
        self._columns = ["step", "stage", "seconds", "learning_rate", *columns]
        self._every = every
        self._learning_rate = learning_rate
        self._writer = writer
        self._not_finite = not_finite
        self._further = further
        self._unwritten = b""

    def on_train_begin(self, logs: Any = None) -> None:
        """Cuts metrics.csv back to the step the run goes on from."""
        super().on_train_begin(logs)
        rows = []
        if os.path.exists(self._path):
            remedy = "Restore it, or move it away to begin another."
            wrong = "not the metrics of a run"
            found = read_csv(self._path, ["step", "seconds"], remedy, wrong)
            steps = [finite(row["step"]) for row in found]
            # What is not measured any more stays there.
            before = [name for row in found[:1] for name in row]
            self._columns += [name for name in before if name not in self._columns]
            rows = [r for r, s in zip(found, steps) if s is not None and s <= self.step]
        self._seconds_before = (rows and finite(rows[-1]["seconds"])) or 0.0
        content = self._lines(rows, header=True)
        try:
            with replacing(self._path) as temporary, open(temporary, "wb") as file:
                file.write(content)
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written ({reason(error)}). Free space or "
                "mend the folder, then give the same command: it goes on from step "
                f"{self.step}."
            ) from error
        self._size = len(content)
        self._began = time.monotonic()

    def on_step(self, logs: Mapping[str, Any]) -> None:
        """Reports where that is due, and wherever more was measured."""
        movement = {k: v for k, v in logs.items() if k.startswith("movement")}
        stage = self.model.stage_at(self.step - 1)
        moved = record_movement(self._movement_path, stage, self.step, movement)
        if moved is not None:
            write_texts(self._writer, {"movement": as_markdown(moved)}, self.step)
        further = dict(self._further(self.step))
        # Measured now and then, not a mean of steps.
        further.update(
            {k: float(v) for k, v in logs.items() if k.startswith("cosine/")}
        )
        if not self._every.due(self.step) and not further:
            return
        of_steps = logs.keys() - movement.keys() - further.keys()
        values = {k: float(v) for k, v in logs.items() if k in of_steps}
        self.model.reset_metrics()
        self._not_finite.check(self.step, values)
        values.update(further)
        values["learning_rate"] = float(self._learning_rate(self.step))
        seconds = self._seconds_before + time.monotonic() - self._began
        row = {"step": self.step, "stage": stage, "seconds": f"{seconds:.1f}"}
        row.update({name: f"{value:.6g}" for name, value in values.items()})
        self._unwritten += self._lines([row])
        self._append()
        write_scalars(self._writer, values, self.step)

    def on_train_end(self, logs: Any = None) -> None:
        """Tries once more to write what could not be written."""
        self._append()

    def _append(self) -> None:
        """Appends what is not yet written, after the last whole line."""
        if not self._unwritten:
            return
        try:
            with open(self._path, "r+b") as file:
                file.truncate(self._size)  # what an earlier attempt cut off
                file.seek(self._size)
                file.write(self._unwritten)
        except OSError as error:
            logging.warning(
                "%s: %d rows up to step %d were not written (%s). Training goes on, "
                "the next try is at the next row.",
                self._path,
                self._unwritten.count(b"\n"),
                self.step,
                reason(error),
            )
            return
        self._size += len(self._unwritten)
        self._unwritten = b""

    def _lines(self, rows: List[Mapping[str, Any]], header: bool = False) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode("utf-8")
