"""Trains one configuration with several seeds, in one process that traces it once.

Started by `tools.studies.training` as `python -m tools.studies.worker`, with the job as
JSON on its standard input; every run that has ended is one line of JSON on its standard
output. Where the job has a "reference", runs are measured room by room in place of the
evaluation, and so are, once, teachers and median image, into that file.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from typing import Any, List, Optional

from absl import flags

from soka_tf import cli
from soka_tf.atomic import locked, write_json
from soka_tf.data.documents import ANY, parse_json
from soka_tf.errors import UserError
from soka_tf.stack import versions
from tools.studies.records import (
    FAILURE_RECORD,
    ROOMS_FILE,
    RUN_RECORD,
    commit,
    hardware,
)

_LOCK = "study.lock"
_EVALUATION = "evaluation.json"
# A step that traces a graph takes hundreds of times as long as others.
_LONGEST_STEP = 5.0

FLAGS = flags.FlagValues()


class Cost:
    """CPU seconds of every step and its callbacks, over all threads of the process."""

    def __init__(self):
        self.seconds: List[float] = []

    def callback(self) -> Any:
        """The Keras callback that measures."""
        import tensorflow as tf

        def start(logs: Any) -> None:
            self._last = time.process_time()

        def end_step(batch: int, logs: Any) -> None:
            now = time.process_time()
            self.seconds.append(now - self._last)
            self._last = now

        callbacks = tf.keras.callbacks
        return callbacks.LambdaCallback(on_train_begin=start, on_batch_end=end_step)

    def total(self, steps: int) -> Optional[float]:
        """Of all steps, one that traced counting as the median one.

        None if this process did not do them all.
        """
        if len(self.seconds) != steps:
            return None
        median = statistics.median(self.seconds)
        longest = _LONGEST_STEP * median
        return sum(s if s <= longest else median for s in self.seconds)


def main() -> None:
    """Trains the runs of the job on standard input."""
    shape = {"until?": (float, None), "reference?": (str, None)}
    job = parse_json(sys.stdin.read(), {"config": str, "runs": [[ANY]], **shape})
    run, reference, until = None, job.get("reference"), job.get("until")
    commit()  # now: the checkout may move on while runs are trained
    kept = (RUN_RECORD, ROOMS_FILE if reference else _EVALUATION)
    longest = 0.0
    for seed, folder in job["runs"]:
        failed, begun = None, time.time()
        if until is not None and longest and begun + longest > until:
            break
        os.makedirs(folder, exist_ok=True)
        # A worker may outlive the command that started it, and the command be given
        # again: the lock keeps two processes from training one run.
        with locked(os.path.join(folder, _LOCK), f"trains {folder}"):
            if not all(os.path.exists(os.path.join(folder, f)) for f in kept):
                run = _build(job["config"], seed, folder, run)
                if reference:
                    _measure(run, reference)
                failure = os.path.join(folder, FAILURE_RECORD)
                try:
                    _train(run, folder, reference)
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(failure)
                except UserError as error:  # of this seed, such as NaN
                    failed, run = str(error), None
                    with contextlib.suppress(OSError):  # the disk may be why
                        write_json(failure, {"seed": seed, "failed": failed})
        # The parent may read a run as soon as its line is there.
        print(json.dumps({"seed": seed, "failed": failed}), flush=True)
        longest = max(longest, time.time() - begun)


def _build(config: str, seed: int, folder: str, before: Optional[Any]) -> Any:
    """A run, on the graphs of the one before if there is one."""
    import gin

    from soka_tf.runs.build_run import build_run, reseed
    from soka_tf.runs.config import parse_gin
    from soka_tf.runs.folder import CONFIG_FILE

    if before is not None:
        return reseed(before, folder, seed)
    stored = os.path.join(folder, CONFIG_FILE)
    resumed = stored if os.path.isfile(stored) else None
    gin.clear_config()
    parse_gin([config], [f"seed = {seed}"], base=None, stored=resumed)
    return build_run(folder)


def _measure(run: Any, reference: str) -> None:
    """Writes what teachers and median image are worth on the run's rooms, once."""
    from tools.studies.comparison import room_sums

    with locked(os.path.dirname(reference), f"measures {reference}"):
        if not os.path.exists(reference):
            write_json(reference, room_sums.reference_sums(run), None)


def _train(run: Any, folder: str, reference: Optional[str]) -> None:
    from soka_tf.runs.finish import complete
    from soka_tf.runs.training_loop import train

    cost, begun = Cost(), time.time()
    if reference:
        from tools.studies.comparison import room_sums

        train(run, folder, [cost.callback()])
        write_json(os.path.join(folder, ROOMS_FILE), room_sums.student_sums(run), None)
    else:
        print(complete(run, folder, [cost.callback()]), file=sys.stderr)
    settings = run.settings
    seconds = cost.total(settings.max_steps)
    taken = {"cpu_seconds": seconds, "seconds": round(time.time() - begun, 1)}
    made = {"versions": versions(), "commit": commit()}
    record = {"seed": settings.seed, **taken, **hardware(), **made}
    write_json(os.path.join(folder, RUN_RECORD), record)


if __name__ == "__main__":
    cli.run(main, FLAGS)
