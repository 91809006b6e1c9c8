"""Checkpoints of a run: which there are, saved, left half-written, and restored."""

import contextlib
import os
import re
import shutil
import tempfile
from typing import Iterator, List, Optional, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.errors import UserError, reason
from soka_tf.networks.precision import compute_in
from soka_tf.runs import build_parts
from soka_tf.runs.callbacks.step import FAILURES
from soka_tf.runs.folder import CONFIG_FILE
from soka_tf.runs.settings import Settings
from soka_tf.runs.strategy import in_cluster, raise_if_worker_lost
from soka_tf.soka.model import SokaModel
from soka_tf.soka.student import Student

_FOLDERS = {"last": "checkpoints", "best": "best"}
_PART = re.compile(r"(ckpt-\d+)\.(index|data-\d+-of-\d+)")
_STORED_MEAN = "mean/.ATTRIBUTES/VARIABLE_VALUE"
# What TensorFlow raises for a checkpoint that is damaged or another model's.
_MISFITS = (AssertionError, ValueError, LookupError, RuntimeError, tf.errors.OpError)


def checkpoint_dir(model_dir: str, which: str = "last") -> str:
    """The folder of a run's last or best checkpoints."""
    return os.path.join(model_dir, _FOLDERS[which])


def latest_checkpoint(model_dir: str, which: str = "last") -> str:
    """The path of a run's last or best checkpoint; removed ones do not count.

    Raises:
      UserError: if there is none.
    """
    path = _last_in(checkpoint_dir(model_dir, which))
    if path is None and which == "best":
        raise UserError(
            f"{model_dir}: there is no best student in it, for the run was never "
            "validated (run.validate_every_steps). Give --checkpoint=last."
        )
    if path is None:
        raise UserError(
            f"{model_dir}: there is no checkpoint in it. Give the --model_dir of a run "
            "of soka_tf.train that has saved one."
        )
    return path


def restored_step(model_dir: str, which: str = "last") -> int:
    """The step of a run's last or best checkpoint."""
    return _step_of(latest_checkpoint(model_dir, which))


def saved_step(manager: tf.train.CheckpointManager) -> Optional[int]:
    """The step of the last checkpoint that is there; None without one."""
    path = _last_there(manager.checkpoints)
    return None if path is None else _step_of(path)


def _last_in(folder: str) -> Optional[str]:
    state = tf.train.get_checkpoint_state(folder)
    return _last_there(state.all_model_checkpoint_paths) if state else None


def _last_there(paths: Sequence[str]) -> Optional[str]:
    """The last checkpoint of a list that has not been removed by hand."""
    there = [path for path in paths if os.path.exists(path + ".index")]
    return there[-1] if there else None


def _step_of(path: str) -> int:
    return int(path.rsplit("-", 1)[1])


def manager_of(
    model: SokaModel, model_dir: str, keep: int
) -> tf.train.CheckpointManager:
    """What saves all of a run that it goes on from, and keeps the last few."""
    return tf.train.CheckpointManager(
        _checkpoint(model), checkpoint_dir(model_dir), max_to_keep=keep
    )


def restore(
    model: SokaModel, manager: tf.train.CheckpointManager, model_dir: str
) -> int:
    """Brings a model to a run's last checkpoint; returns its step, 0 without one.

    Raises:
      UserError: if it does not fit; the model is as before then.
    """
    path = _last_in(checkpoint_dir(model_dir))
    if path is None:
        return 0
    with _misfits(path, "the run", "go on from"):
        manager.checkpoint.restore(path).assert_existing_objects_matched()
    return int(model.step.numpy())


def restore_student(
    model_dir: str,
    settings: Settings,
    precision: str = "float32",
    which: str = "last",
) -> Student:
    """Builds the student of a run from the bindings and loads a checkpoint.

    Args:
      model_dir: the run's folder.
      settings: of the run.
      precision: in which the student is to compute; its weights are float32.
      which: "last", or "best", that of the least validation/mean.

    Raises:
      UserError: if the folder has no checkpoint or it does not fit.
    """
    with compute_in(precision, "run.precision"):
        student = build_parts.build_student(settings.task_names, seed=settings.seed)
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(student=student, step=step)
    path = latest_checkpoint(model_dir, which)
    with _misfits(path, f"the student of {CONFIG_FILE}", "use"):
        status = checkpoint.restore(path)
        status.assert_existing_objects_matched().expect_partial()
    return student


def copy_state(source: SokaModel, target: SokaModel) -> None:
    """Gives a model all state of another of the same bindings."""
    with tempfile.TemporaryDirectory() as folder:
        path = _checkpoint(source).write(os.path.join(folder, "state"))
        _checkpoint(target).read(path).assert_consumed()


def _checkpoint(model: SokaModel) -> tf.train.Checkpoint:
    items = {k: v for k, v in model.checkpoint_items().items() if v is not None}
    return tf.train.Checkpoint(**items)


@contextlib.contextmanager
def _misfits(path: str, what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except _MISFITS as error:
        raise UserError(
            f"{path}: the checkpoint does not fit {what} or is damaged "
            f"({reason(error)}). Remove it to {remedy} the one before."
        ) from error


def try_save(manager: tf.train.CheckpointManager, step: int) -> Optional[str]:
    """Saves a checkpoint, or leaves everything as it was before.

    Args:
      manager: saves and deletes.
      step: the number of the checkpoint.

    Returns:
      None if it was saved, else why it was not.
    """
    try:
        manager.save(checkpoint_number=step)
    except FAILURES as error:
        raise_if_worker_lost(error)
        remove_leftovers(manager.directory)
        return reason(error)
    return None


def remove_leftovers(folder: str) -> List[str]:
    """Removes what a save leaves that was killed or failed; returns their names.

    TensorFlow writes the data first, in a folder of its own, and the index last: a
    checkpoint of which either is missing was never whole.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    parts = [match for match in map(_PART.fullmatch, names) if match]
    indexed = {m[1] for m in parts if m[2] == "index"}
    filled = {m[1] for m in parts if m[2] != "index"}
    left = [m[0] for m in parts if m[1] not in indexed & filled]
    left += [n for n in names if re.match(r"ckpt-\d+_temp|checkpoint\.tmp", n)]
    removed = []
    for name in left:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:  # a disk gone read-only keeps them; the next start tries again
            with contextlib.suppress(OSError):
                os.remove(path)
        if not os.path.exists(path):
            removed.append(name)
    return sorted(removed)


class BestStudent:
    """The one checkpoint of the student that agrees best with its teachers."""

    def __init__(self, student: Student, folder: str, mean: float = np.inf):
        """Knows the mean of the best one so far, see `stored_mean`."""
        self._best = mean
        self._mean = tf.Variable(np.inf, dtype=tf.float64)
        self._step = tf.Variable(0, dtype=tf.int64)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(student=student, step=self._step, mean=self._mean),
            folder,
            max_to_keep=1,
        )

    def offer(self, mean: float, step: int) -> None:
        """Keeps the student of a step if its mean is the least so far."""
        if not mean < self._best:
            return
        self._mean.assign(mean)
        self._step.assign(step)
        failure = try_save(self._manager, step)
        # Workers, which save together, must choose the same ones, kept or not.
        if failure is None or in_cluster():
            self._best = mean
        if failure is not None:
            logging.warning(
                "%s: the student of step %d, the best so far, was not kept (%s). "
                "Training goes on; the best one before stays.",
                self._manager.directory,
                step,
                failure,
            )


def stored_mean(folder: str) -> float:
    """The mean of the best student so far, kept in a folder; infinite without one."""
    path = tf.train.latest_checkpoint(folder)
    if path is None:
        return np.inf
    try:
        return float(tf.train.load_checkpoint(path).get_tensor(_STORED_MEAN))
    except _MISFITS as error:
        logging.warning(
            "%s cannot be read (%s); the best student is looked for anew.",
            path,
            reason(error),
        )
        return np.inf
