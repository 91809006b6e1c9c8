"""Runs `soka_tf.train` and dies in the middle: `child.py FAULTS ARGUMENTS OF TRAIN`.

Faults are "name:argument:...,..." of the functions below, or "none". Steps are counted
from 1, as in metrics.csv. The package is that of PYTHONPATH.
"""

import contextlib
import os
import resource
import runpy
import signal
import sys

import soka_tf  # noqa: F401 (before TensorFlow, for which it chooses Keras 2)

import tensorflow as tf  # isort: skip


def eagerly():
    """Traces no graphs: for a handful of steps that is several times faster."""
    tf.config.run_functions_eagerly(True)


def send(name, step):
    """Sends a signal to itself after a step, before anything is logged or saved."""
    from soka_tf.runs.callbacks.progress import Progress

    # A shell's background job would ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step(self, logs, real=Progress.on_step):
        real(self, logs)
        if self.step == int(step):
            os.kill(os.getpid(), getattr(signal, name))

    Progress.on_step = on_step


def kill_in_phase(phase, step):
    """SIGKILL after a phase's updates and before those of the next phase."""
    from soka_tf.soka.model import SokaModel

    def kill(done):
        if int(done) == int(step) - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def killing(self, name):
        yield
        if name == phase:
            tf.py_function(kill, [self.step], [])

    SokaModel.around_phase = killing


def kill_while_saving(step, size):
    """The system kills it (SIGXFSZ) once a checkpoint's file has so many bytes."""

    from soka_tf.runs.checkpoint_folder import CheckpointFolder

    def save(self, now, real=CheckpointFolder.save):
        if now == int(step):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
        real(self, now)

    CheckpointFolder.save = save


FAULTS = {f.__name__: f for f in (eagerly, send, kill_in_phase, kill_while_saving)}

if __name__ == "__main__":
    for fault in sys.argv.pop(1).split(","):
        if fault != "none":
            name, *details = fault.split(":")
            FAULTS[name](*details)
    runpy.run_module("soka_tf.train", run_name="__main__", alter_sys=True)
