"""Trains one configuration with several seeds, in one process that traces it once.

Called by `tools.studies.training`, with what to do as JSON on its standard input; says
on its standard output, a line a run, that it has ended.
"""

import contextlib
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any, List, Optional

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import gin  # noqa: E402 (tools/ is no installed package)
import tensorflow as tf  # noqa: E402 (tools/ is no installed package)
from absl import flags  # noqa: E402

from soka_tf import cli  # noqa: E402
from soka_tf.disk import locked, write_json  # noqa: E402 (tools/ is no installed package)
from soka_tf.errors import UserError  # noqa: E402
from soka_tf.runs.config import parse_gin  # noqa: E402
from soka_tf.runs.finish import complete  # noqa: E402
from soka_tf.runs.folder import CONFIG_FILE  # noqa: E402
from soka_tf.runs.run import Run, build_run, reseed  # noqa: E402
from tools.studies.records import (  # noqa: E402 (tools/ is no installed package)
    FAILURE_RECORD,
    RUN_RECORD,
    hardware,
)

_LOCK = "study.lock"
_ALL = (RUN_RECORD, "evaluation.json")
# A step that traces a graph takes hundreds of times as long as others.
_LONGEST_STEP = 5.0

FLAGS = flags.FlagValues()


class Cost(tf.keras.callbacks.Callback):
    """CPU seconds of every step, all threads of the process together."""

    def __init__(self):
        super().__init__()
        self.seconds: List[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock."""
        self._last = time.process_time()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes a step's time, and the callbacks' since the last one."""
        now = time.process_time()
        self.seconds.append(now - self._last)
        self._last = now

    def total(self, steps: int) -> Optional[float]:
        """Of all steps, without tracing; None if this process did not do them all."""
        if len(self.seconds) != steps:
            return None
        longest = _LONGEST_STEP * statistics.median(self.seconds)
        return sum(min(seconds, longest) for seconds in self.seconds)


def main() -> None:
    """Trains what standard input asks for."""
    job = json.load(sys.stdin)
    run = None
    for seed, folder in job["runs"]:
        failed = None
        os.makedirs(folder, exist_ok=True)
        # No other process trains it then, not even if the command that started this
        # one was killed and given again.
        with locked(os.path.join(folder, _LOCK), f"trains {folder}"):
            if not all(os.path.exists(os.path.join(folder, f)) for f in _ALL):
                run = _build(job["config"], seed, folder, run)
                failure = os.path.join(folder, FAILURE_RECORD)
                try:
                    _train(run, folder)
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(failure)
                except UserError as error:  # of this seed, such as NaN
                    failed, run = str(error), None
                    with contextlib.suppress(OSError):  # the disk may be why
                        write_json(failure, {"seed": seed, "failed": failed})
        # The parent may read a run as soon as its line is there.
        print(json.dumps({"seed": seed, "failed": failed}), flush=True)


def _build(
    config: str,
    seed: int,
    folder: str,
    before: Optional[Run],
) -> Run:
    """A run, on the graphs of the one before if there is one."""
    if before is not None:
        return reseed(before, folder, seed)
    stored = os.path.join(folder, CONFIG_FILE)
    resumed = [stored] if os.path.isfile(stored) else []
    gin.clear_config()
    parse_gin([*resumed, config], [f"seed = {seed}"], base=None)
    return build_run(folder)


def _train(run: Run, folder: str) -> None:
    cost = Cost()
    print(complete(run, folder, [cost]), file=sys.stderr)
    settings = run.settings
    seconds = cost.total(settings.max_steps)
    record = {"seed": settings.seed, "cpu_seconds": seconds, **hardware()}
    write_json(os.path.join(folder, RUN_RECORD), record)


if __name__ == "__main__":
    cli.run(main, FLAGS)
