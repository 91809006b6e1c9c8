"""Trains one configuration with several seeds, in one process that traces it once.

Called by `tools.studies.training`, with what to do as JSON on its standard input; says
on its standard output, a line a run, that it has ended.
"""

import fcntl
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any, List, Optional, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import tensorflow as tf  # noqa: E402 (tools/ is no installed package)
from absl import flags  # noqa: E402

from soka_tf import cli  # noqa: E402
from soka_tf.train import complete  # noqa: E402
from soka_tf.training import run as runs  # noqa: E402
from tools.studies.records import RUN_RECORD, hardware, write_json  # noqa: E402

_LOCK = "study.lock"
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
        run = _train(job["files"], job["params"], seed, folder, run)
        # The parent may read a run as soon as its line is there.
        print(json.dumps({"seed": seed}), flush=True)


def _train(
    files: Sequence[str],
    params: Sequence[str],
    seed: int,
    folder: str,
    before: Optional[runs.Run],
) -> Optional[runs.Run]:
    """One run, on the graphs of the one before; returns the last that was built."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, _LOCK), "w") as lock:
        # Held while this process lives: no other trains here, not even if the
        # command that started this one was killed and given again.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(os.path.join(folder, RUN_RECORD)):
            return before
        if before is None:
            stored = os.path.join(folder, runs.CONFIG_FILE)
            resumed = [stored] if os.path.isfile(stored) else []
            cli.parse_gin([*resumed, *files], [*params, f"seed = {seed}"])
            run = runs.build_run(folder)
        else:
            run = runs.reseed(before, folder, seed)
        cost = Cost()
        print(complete(run, folder, [cost]), file=sys.stderr)
        steps = run.settings.max_steps
        write_json(
            pathlib.Path(folder) / RUN_RECORD,
            {"seed": seed, "cpu_seconds": cost.total(steps), **hardware()},
        )
    return run


if __name__ == "__main__":
    cli.run(main, FLAGS)
