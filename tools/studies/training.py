"""Training what a study needs: a process a run, several at a time, resumable."""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from absl import logging
from tqdm import tqdm

from soka_tf.atomic import write_text
from soka_tf.data.documents import parse_json
from soka_tf.errors import UserError
from soka_tf.evaluation.metrics import main_error
from soka_tf.runs.gin_text import format_gin, read_gin
from tools.studies.records import (
    EVALUATION_SHAPE,
    FAILURE_RECORD,
    FAILURE_SHAPE,
    RUN_RECORD,
    RUN_SHAPE,
    read_record,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
_LOG = "train.log"
_CONFIG = "bindings.gin"
# What a study does not look at, and what seeds would only repeat.
_QUIET = (
    "run.export = False",
    "run.movement_every_steps = 0",
    "run.panel_every_steps = 0",
    "run.validate_every_steps = 0",
)


class Training(NamedTuple):
    """One configuration, to be trained with several seeds.

    Attributes:
      name: for folders, such as "depth-edge2d/kd".
      tasks: the student's.
      files: gin files on top of the scale's, as users name them.
      params: bindings on top of those.
      steps_share: length, as a share of the scale's steps.
    """

    name: str
    tasks: Sequence[str]
    files: Sequence[str] = ()
    params: Sequence[str] = ()
    steps_share: float = 1.0


class Setting(NamedTuple):
    """What all runs of a study share.

    Attributes:
      files: gin files, first of all.
      steps: length of a run whose `steps_share` is 1.
      params: bindings after those of the runs.
    """

    files: Sequence[str]
    steps: int
    params: Sequence[str] = ()

    def bindings(self, training: Training) -> List[str]:
        """All bindings of a run but its seed."""
        return [
            f"tasks = {list(training.tasks)!r}",
            f"max_steps = {round(self.steps * training.steps_share)}",
            *training.params,
            *_QUIET,
            *self.params,
        ]

    def teachers_of(self, training: Training) -> List[str]:
        """The tasks whose teachers a run names: targets and auxiliaries."""
        # A macro or a word is left to the run itself.
        bound = self.bound(training).get("auxiliary")
        return [*training.tasks, *(bound if isinstance(bound, (list, tuple)) else ())]

    def names_of(self, training: Training) -> Set[str]:
        """The bindings that make a run what it is, beside the setting's."""
        return set(read_gin(training.files, training.params))

    def config(self, training: Training) -> str:
        """The bindings of a run but its seed, each once, as gin text."""
        return format_gin(self.bound(training))

    def bound(self, training: Training) -> Mapping[str, Any]:
        """The bindings of a run but its seed, by name."""
        files = ["base.gin", *self.files, *training.files]
        return read_gin(files, self.bindings(training))


@functools.cache
def _sha256_of(path: pathlib.Path) -> str:
    from soka_tf.data.filesystem import sha256_of

    return sha256_of(path)


class Outcome(NamedTuple):
    """What a run left.

    Attributes:
      folder: of the run.
      evaluation: the content of evaluation.json.
      cpu_seconds: of its training steps; None where it was interrupted.
      processor: of the machine it ran on.
      cores: of that machine.
    """

    folder: pathlib.Path
    evaluation: Mapping[str, Any]
    cpu_seconds: Optional[float]
    processor: str = "unknown"
    cores: Optional[int] = None


class Order(NamedTuple):
    """How a number of runs is trained.

    Attributes:
      until: seconds of `time.time()` at which all are to have ended; no run is begun
        that is likely to take longer. None for no end.
      longest: seconds that a run of a training is likely to take.
      reference: training -> None for runs that are evaluated as any is; else the file
        of its rooms' reference, see `tools.studies.worker`.
      ended: called with every run that has ended, well or not.
      threads: of a run; None for its share of the cores.
    """

    until: Optional[float] = None
    longest: Callable[[Training], float] = lambda training: 0.0
    reference: Callable[[Training], Optional[str]] = lambda training: None
    ended: Callable[[Training, int], None] = lambda training, seed: None
    threads: Optional[int] = None


ORDER = Order()


class Runs:
    """The runs of a folder: which are there, and training those that are not."""

    def __init__(
        self,
        folder: pathlib.Path,
        setting: Setting,
        jobs: int,
        teachers_dir: Optional[pathlib.Path] = None,
    ):
        """The runs of a folder.

        Args:
          folder: where they are kept, a folder a run.
          setting: what they share.
          jobs: how many processes train at the same time, sharing the cores.
          teachers_dir: the folder of the teachers that `setting` means; a run whose
            teachers have changed since is another one then.
        """
        self.folder = folder
        self.setting = setting
        self.jobs = jobs
        self.teachers_dir = teachers_dir
        self._configs: Dict[Training, str] = {}
        self._children: List[subprocess.Popen] = []
        self._lock = threading.Lock()
        self._stopped = False

    def folder_of(self, training: Training, seed: int) -> pathlib.Path:
        """Where a run is, or will be; bindings and teachers are in its name."""
        name = re.sub(r"[^\w.+/-]", "_", training.name)
        digest = hashlib.sha256(self._config_of(training).encode()).hexdigest()[:8]
        return self.folder / f"{name}-{digest}" / f"seed{seed}"

    def _config_of(self, training: Training) -> str:
        # Read once, and trained on as read: the gin files may be edited meanwhile.
        if training not in self._configs:
            config = self.setting.config(training)
            # As comments: other teachers make it another run.
            teachers = self.teachers_of(training).items()
            config += "".join(f"# {name}: sha256 {of}\n" for name, of in teachers)
            self._configs[training] = config
        return self._configs[training]

    def teachers_of(self, training: Training) -> Dict[str, str]:
        """File -> sha256 of the teachers that a run's bindings name."""
        config = self.setting.config(training)
        folder = self.teachers_dir
        return {
            path.name: _sha256_of(path)
            for path in (sorted(folder.glob("*.safetensors")) if folder else ())
            if f"'{path.stem}'" in config or "auxiliary = 'auto'" in config
        }

    def outcome(self, training: Training, seed: int) -> Optional[Outcome]:
        """What a finished run left; None if it has not come to its end."""
        folder = self.folder_of(training, seed)
        record = read_record(folder / RUN_RECORD, RUN_SHAPE)
        evaluation = read_record(folder / "evaluation.json", EVALUATION_SHAPE)
        if record is None or evaluation is None:
            return None
        return Outcome(
            folder,
            evaluation,
            record["cpu_seconds"],
            record.get("processor", "unknown"),
            record.get("cores"),
        )

    def failure(self, training: Training, seed: int) -> Optional[str]:
        """Why a run that was begun has not ended, where it left a record."""
        path = self.folder_of(training, seed) / FAILURE_RECORD
        record = read_record(path, FAILURE_SHAPE)
        return record and str(record["failed"])

    def train(
        self, trainings: Iterable[Training], seeds: Sequence[int]
    ) -> Dict[Training, str]:
        """Trains what is missing, training by training.

        Returns:
          The trainings that failed, and why; other runs are to be had from `outcome`.
        """
        missing: List[Tuple[Training, Sequence[int]]] = []
        failed: Dict[Training, str] = {}
        for training in dict.fromkeys(trainings):
            try:
                left = [seed for seed in seeds if not self.outcome(training, seed)]
            except UserError as error:  # a damaged record; the others are well
                failed[training] = str(error)
                continue
            if left:
                missing.append((training, left))
        failed.update(self.train_missing(missing))
        return failed

    def train_missing(
        self, missing: Sequence[Tuple[Training, Sequence[int]]], order: Order = ORDER
    ) -> Dict[Training, str]:
        """Trains these with these seeds, a process an entry; returns as `train`."""
        failed: Dict[Training, str] = {}
        if not missing:
            return failed
        jobs = min(self.jobs, len(missing))
        count = sum(len(seeds) for _, seeds in missing)
        logging.info("%d runs to train in %s, %d at a time.", count, self.folder, jobs)
        progress = tqdm(total=count, desc="training", unit="run", disable=None)
        with progress, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = {
                pool.submit(
                    self._train, training, left, jobs, progress, order
                ): training
                for training, left in missing
            }
            try:
                for future in concurrent.futures.as_completed(futures):
                    failure = future.result()
                    if failure:
                        failed[futures[future]] = failure
                        logging.error("%s: %s", futures[future].name, failure)
            except BaseException:
                self._stop()
                raise
        return failed

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.terminate()

    def _train(
        self,
        training: Training,
        seeds: Sequence[int],
        jobs: int,
        progress: tqdm,
        order: Order,
    ) -> Optional[str]:
        """Trains a configuration with all these seeds; returns what went wrong."""
        likely_end = time.time() + order.longest(training)
        if order.until is not None and likely_end > order.until:
            return None
        folders = {seed: self.folder_of(training, seed) for seed in seeds}
        parent = folders[seeds[0]].parent
        parent.mkdir(parents=True, exist_ok=True)
        with self._lock:  # several processes may train one configuration
            write_text(parent / _CONFIG, self._config_of(training))
        job = {
            "config": str(parent / _CONFIG),
            "runs": [(seed, str(folder)) for seed, folder in folders.items()],
            "until": order.until,
            "reference": order.reference(training),
        }
        failures = []
        with open(parent / _LOG, "a") as log:
            began = log.tell()
            with self._lock:
                if self._stopped:
                    return None
                child = subprocess.Popen(
                    [sys.executable, "-m", "tools.studies.worker"],
                    env=_environment(jobs, order.threads),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                self._children.append(child)
            log_name = parent / _LOG
            logging.info("%s: begun; its messages are in %s", training.name, log_name)
            with child:
                child.stdin.write(json.dumps(job))
                child.stdin.close()
                for line in child.stdout:
                    ended = parse_json(line, {"seed": int, "failed": (str, None)})
                    logging.info("%s: %s", training.name, self._line(training, **ended))
                    failures += filter(None, [ended["failed"]])
                    order.ended(training, ended["seed"])
                    progress.update()
            with self._lock:
                self._children.remove(child)
        if child.returncode and not self._stopped:
            failures.append(_reason(parent / _LOG, began, child.returncode))
        return failures[0] if failures else None

    def _line(self, training: Training, seed: int, failed: Optional[str]) -> str:
        if failed:
            return f"seed {seed} FAILED: {failed}"
        outcome = self.outcome(training, seed)
        if outcome is None:  # measured room by room
            return f"seed {seed}: done"
        errors = {
            task: main_error(entries.get("student"))
            for task, entries in outcome.evaluation["tasks"].items()
        }
        words = [f"{task} {e:#.3g}" for task, e in errors.items() if e is not None]
        return f"seed {seed}: error {', '.join(words) or 'unknown'}"


def _environment(jobs: int, threads: Optional[int]) -> Dict[str, str]:
    """Binds a process to so many threads; to its share of the cores, if that is one."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    names = "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
    if threads:
        environment.update(dict.fromkeys(names, str(threads)))
    elif jobs > 1:
        share = str(max(1, (os.cpu_count() or 1) // jobs))
        environment = {**dict.fromkeys(names, share), **environment}
    return environment


def _reason(log: pathlib.Path, began: int, status: int) -> str:
    if status < 0:
        return f"stopped by {signal.Signals(-status).name}; call again to go on"
    text = log.read_bytes()[began:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = (
        [line for line in lines if "error" in line.lower()] or lines or ["no message"]
    )
    return f"{errors[-1]} (status {status}, {log})"
