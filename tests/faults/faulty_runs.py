"""Runs of seconds that something happens to, in this process or in one that dies."""

import os
import pathlib
import re
import resource
import subprocess
import sys

import gin
import numpy as np
import tensorflow as tf

from soka_tf.runs.checkpoints import restored_step
from soka_tf.runs.folder import CONFIG_FILE
from soka_tf.runs.training_loop import train as train_run
from tests import recorded_runs, tiny_runs

STEPS = 6
FILES = ("gin/rooms/soka.gin", "gin/methods/soka_gan.gin")
# A joint step, two cycles, three with the CGAN; saved and validated at 2, 4 and 6.
PARAMS = (
    f"max_steps = {STEPS}",
    "auxiliary = 'none'",
    "schedule.joint_steps = 1",
    "schedule.initial_losses_step = 0",
    "Adversary.start_step = 3",
    "run.checkpoint_every_steps = 2",
    "run.validate_every_steps = 2",
    "run.export = False",
)
CHILD = pathlib.Path(__file__).with_name("child.py")


class After(tf.keras.callbacks.Callback):
    """Does something after a step's row and before its checkpoint."""

    def __init__(self, actions):
        """Keeps {step: function}."""
        super().__init__()
        self._actions = actions

    def on_train_batch_end(self, batch, logs=None):
        self._actions.get(int(self.model.step), lambda: None)()


def build(tiny, model_dir, *params):
    """Builds a run as the command does: a stored configuration is read first."""
    gin.clear_config()
    stored = model_dir / CONFIG_FILE
    files = [str(stored)] * stored.exists()
    return tiny.build(model_dir, *PARAMS, *params, files=[*files, *FILES])


def train(tiny, model_dir, *params, after=None):
    """Gives the command, in this process, with something that happens meanwhile."""
    train_run(build(tiny, model_dir, *params), str(model_dir), [After(after or {})])


def train_in_a_child(tiny, model_dir, faults, limits=(), **environment):
    """Gives the command to a process that may die; returns it, ended.

    `limits` are (resource.RLIMIT_..., value); variables that are None are not there.
    """
    variables = {**os.environ, "PYTHONPATH": str(tiny_runs.ROOT), **environment}

    def limit():
        for kind, value in limits:
            resource.setrlimit(kind, (value, value))

    return subprocess.run(
        [
            *(sys.executable, str(CHILD), f"eagerly,{faults}"),
            *(f"--gin_file={file}" for file in FILES),
            *(f"--gin_param={param}" for param in tiny.params(*PARAMS)),
            f"--model_dir={model_dir}",
        ],
        cwd=tiny_runs.ROOT,
        env={name: value for name, value in variables.items() if value is not None},
        preexec_fn=limit,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )


def assert_same_run(model_dir, expected):
    """Both ended at the same bits of checkpoint and log, and kept the same student."""
    assert restored_step(model_dir, "best") == restored_step(expected, "best")
    results, wanted = recorded_runs.results(model_dir), recorded_runs.results(expected)
    assert set(results) == set(wanted) and len(results) > 100
    for name, value in wanted.items():
        np.testing.assert_array_equal(results[name], value, err_msg=name)
    half_written = r"_temp|\.tmp"
    assert not [p for p in model_dir.rglob("*") if re.search(half_written, p.name)]
