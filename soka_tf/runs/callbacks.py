"""What happens every N steps: progress, logs, a stop at NaN."""

import csv
import io
import os
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from soka_tf.disk import replacing
from soka_tf.errors import UserError, reason
from soka_tf.soka.model import SokaModel

# What Python and TensorFlow raise where a file cannot be written.
FAILURES = (OSError, tf.errors.OpError)

# Who moves in which phase of a cycle, for weights that are no longer finite.
_PHASE_OF_PLAYER = {
    "encoder": "collaboration",
    "decoder": "competition",
    "amalgamation": "collaboration",
    "task_weights": "weighting",
    "discriminator": "competition",
}


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


class NotFinite:
    """Stops a run whose losses or weights are NaN or infinite, and reports where."""

    def __init__(
        self,
        model: SokaModel,
        last_saved: Callable[[], Optional[int]] = lambda: None,
        find_causes: Callable[[int], Sequence[str]] = lambda step: (),
    ):
        """Keeps what it needs to report the cause and how to go on.

        Args:
          model: keeps the first step at which each of its terms was not finite.
          last_saved: returns the step of the last checkpoint, None without one.
          find_causes: given a step, counted from 0, returns sentences on what was
            broken before the student saw it.
        """
        self._model = model
        self._last_saved = last_saved
        self._find_causes = find_causes

    def check(self, step: int, logs: Mapping[str, Any], weights: bool = False) -> None:
        """Checks the losses so far and, on request, all weights.

        The losses of a step are those from before its update: finite losses do not
        mean that the weights are; checking those is worth its cost before saving.

        Args:
          step: steps done.
          logs: of the step.
          weights: whether to look at the weights of every player.

        Raises:
          UserError: naming phase, task, term and step.
        """
        terms = self._model.ledger.first_not_finite()
        if not terms:
            # What is only logged counts, too.
            bad = [n for n, v in logs.items() if not np.isfinite(float(v))]
            terms = {name: step - 1 for name in bad}
        if terms:
            first = min(terms.values())
            names = [name for name, since in terms.items() if since == first]
            phase = self._phase_of(names[0], first)
            self._stop(_term_and_task(names[0], self._model.tasks), phase, first, step)
        if weights:
            for player, total in _sums(self._model.players.variables).items():
                if not np.isfinite(total):
                    kind, _, task = player.partition("/")
                    stage = self._model.stage_at(step - 1)
                    phase = "joint" if stage == "joint" else _PHASE_OF_PLAYER[kind]
                    term = f"the weights of {kind}"
                    self._stop(
                        term + (f" of task {task}" if task else ""),
                        phase,
                        step - 1,
                        step,
                    )

    def _phase_of(self, name: str, step: int) -> str:
        try:
            return self._model.phase_of(name, step)
        except KeyError:  # a log that is no term of the losses, such as movement
            return self._model.stage_at(step)

    def _stop(self, term: str, phase: str, first: int, step: int) -> None:
        noticed = "" if first == step - 1 else f" (noticed after step {step})"
        causes = list(self._find_causes(first))
        saved = self._last_saved()
        if saved is None:
            state = "There is no checkpoint yet: the same command begins anew."
        else:
            state = (
                f"The last good checkpoint is that of step {saved}: the same command "
                "goes on from there."
            )
        if causes:
            advice = "Replace that teacher's file first."
        else:
            advice = (
                "No teacher's output is broken; should it happen again, lower "
                "build_optimizers.learning_rate, in the run's operative_config.gin, "
                "too, or choose another --model_dir."
            )
        raise UserError(
            f"Training stopped: in step {first + 1}{noticed}, phase {phase}, {term} "
            f"was NaN or infinite. {' '.join([*causes, state, advice])}"
        )


def _term_and_task(name: str, tasks: Sequence[str]) -> str:
    kind, _, last = name.rpartition("/")
    return f"term {kind} of task {last}" if last in tasks else f"term {name}"


class MetricLog(StepCallback):
    """Means since the last report, to metrics.csv and TensorBoard; stops at NaN.

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
            with open(self._path, newline="", encoding="utf-8") as file:
                rows = [
                    row
                    for row in csv.DictReader(file)
                    if None not in row.values()  # a line cut off
                    and row["step"].isdigit()
                    and int(row["step"]) <= self.step
                ]
        self._seconds_before = float(rows[-1]["seconds"] or 0) if rows else 0.0
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
        if movement:
            self._write_summaries(movement)
        further = self._further(self.step)
        if not self._every.due(self.step) and not further:
            return
        values = {k: float(v) for k, v in logs.items() if k not in movement}
        self.model.reset_metrics()
        self._not_finite.check(self.step, values)
        stage = self.model.stage_at(self.step - 1)
        values.update(further)
        values["learning_rate"] = float(self._learning_rate(self.step))
        seconds = self._seconds_before + time.monotonic() - self._began
        row = {"step": self.step, "stage": stage, "seconds": f"{seconds:.1f}"}
        row.update({name: f"{value:.6g}" for name, value in values.items()})
        self._unwritten += self._lines([row])
        self._append()
        self._write_summaries(values)

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

    def _write_summaries(self, values: Mapping[str, Any]) -> None:
        try:
            with self._writer.as_default(step=self.step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
        except FAILURES as error:
            warn_of_tensorboard(self.step, error)


def warn_of_tensorboard(step: int, error: Exception) -> None:
    """Says that events are missing, and that it does not matter."""
    logging.warning(
        "TensorBoard's events were not written at step %d (%s). Training goes on; "
        "metrics.csv has the same values.",
        step,
        reason(error),
    )


def _sums(players: Mapping[str, Sequence[tf.Variable]]) -> Dict[str, float]:
    """The sum of absolute values of every player, not finite if one of them is not."""
    return {
        player: float(tf.add_n([tf.reduce_sum(tf.abs(v)) for v in variables]))
        for player, variables in players.items()
    }


def text_summaries(
    writer: tf.summary.SummaryWriter, texts: Mapping[str, str], step: int
) -> None:
    """Shows texts (the bound configuration) in TensorBoard, as code blocks."""
    try:
        with writer.as_default(step=step):
            for name, text in texts.items():
                indented = "\n".join("    " + line for line in text.splitlines())
                tf.summary.text(name, indented)
    except FAILURES as error:
        warn_of_tensorboard(step, error)
