"""Checkpoints of a run and of its best student: saved, and restored."""

import contextlib
import os
import tempfile
from typing import Iterator, Optional

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.errors import UserError, reason
from soka_tf.networks.precision import compute_in
from soka_tf.runs import build_networks
from soka_tf.runs.callbacks.step import FAILURES
from soka_tf.runs.checkpoint_folder import CheckpointFolder, readable
from soka_tf.runs.cluster import in_cluster
from soka_tf.runs.folder import CONFIG_FILE
from soka_tf.runs.settings import Settings
from soka_tf.runs.strategy import raise_if_worker_lost
from soka_tf.soka.model import SokaModel
from soka_tf.soka.student import Student

_FOLDERS = {"last": "checkpoints", "best": "best"}
_STORED_MEAN = "mean/.ATTRIBUTES/VARIABLE_VALUE"
# What TensorFlow raises for a checkpoint that is damaged or another model's.
_MISFITS = (AssertionError, ValueError, LookupError, RuntimeError, tf.errors.OpError)


def checkpoint_dir(model_dir: str, which: str = "last") -> str:
    """The folder of a run's last or best checkpoints."""
    return os.path.join(model_dir, _FOLDERS[which])


def latest_checkpoint(model_dir: str, which: str = "last") -> str:
    """The prefix of a run's last or best checkpoint; removed ones do not count.

    Raises:
      UserError: if there is none.
    """
    path = CheckpointFolder(checkpoint_dir(model_dir, which)).last()
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
    return int(latest_checkpoint(model_dir, which).rsplit("-", 1)[1])


def last_step(model_dir: str) -> int:
    """The step from which a run goes on; 0 without a checkpoint."""
    return CheckpointFolder(checkpoint_dir(model_dir)).last_step() or 0


def folder_of(model: SokaModel, model_dir: str, keep: int) -> CheckpointFolder:
    """What saves all of a run that it goes on from, and keeps the last few."""
    return CheckpointFolder(checkpoint_dir(model_dir), _checkpoint(model), keep)


def restore(model: SokaModel, model_dir: str) -> int:
    """Brings a model to a run's last checkpoint; returns its step, 0 without one.

    Raises:
      UserError: if it does not fit; the model is as before then.
    """
    path = CheckpointFolder(checkpoint_dir(model_dir)).last()
    if path is None:
        return 0
    with _misfits(path, "the run", "go on from"), readable(path) as name:
        _checkpoint(model).read(name).assert_existing_objects_matched()
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
        student = build_networks.build_student(settings.task_names, seed=settings.seed)
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(student=student, step=step)
    path = latest_checkpoint(model_dir, which)
    what = f"the student of {CONFIG_FILE}"
    with _misfits(path, what, "use"), readable(path) as name:
        status = checkpoint.read(name)
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


def try_save(folder: CheckpointFolder, step: int) -> Optional[str]:
    """Saves a checkpoint, or leaves everything as it was before.

    Args:
      folder: saves and deletes.
      step: the number of the checkpoint.

    Returns:
      None if it was saved, else why it was not.
    """
    try:
        folder.save(step)
    except FAILURES as error:
        raise_if_worker_lost(error)
        folder.remove_leftovers()
        return reason(error)
    return None


class BestStudent:
    """The one checkpoint of the student that agrees best with its teachers."""

    def __init__(self, student: Student, folder: str, mean: float = np.inf):
        """Knows the mean of the best one so far, see `stored_mean`."""
        self._best = mean
        self._mean = tf.Variable(np.inf, dtype=tf.float64)
        self._step = tf.Variable(0, dtype=tf.int64)
        self._folder = CheckpointFolder(
            folder,
            tf.train.Checkpoint(student=student, step=self._step, mean=self._mean),
        )

    def offer(self, mean: float, step: int) -> None:
        """Keeps the student of a step if its mean is the least so far."""
        if not mean < self._best:
            return
        self._mean.assign(mean)
        self._step.assign(step)
        failure = try_save(self._folder, step)
        # Workers, which save together, must choose the same ones, kept or not.
        if failure is None or in_cluster():
            self._best = mean
        if failure is not None:
            logging.warning(
                "%s: the student of step %d, the best so far, was not kept (%s). "
                "Training goes on; the best one before stays.",
                self._folder.path,
                step,
                failure,
            )


def stored_mean(folder: str) -> float:
    """The mean of the best student so far, kept in a folder; infinite without one."""
    path = CheckpointFolder(folder).last()
    if path is None:
        return np.inf
    try:
        with readable(path) as name:
            return float(tf.train.load_checkpoint(name).get_tensor(_STORED_MEAN))
    except _MISFITS as error:
        logging.warning(
            "%s cannot be read (%s); the best student is looked for anew.",
            path,
            reason(error),
        )
        return np.inf
