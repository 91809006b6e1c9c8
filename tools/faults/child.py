"""Runs `soka_tf.train`: `child.py EAGERLY FAULT ARGUMENTS OF TRAIN`.

EAGERLY is "eagerly" or "compiled". A fault is "none" or "name:argument:...". Steps are
counted from 1, as in metrics.csv. Everything happens while a step runs, not while its
graph is traced.
"""

import contextlib
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
from typing import Callable, Dict

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))


def run_eagerly() -> None:
    """Runs steps without tracing graphs: for ten steps that is much faster."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)


def at_step(step: int, action: Callable[[], None]) -> None:
    """Calls `action` after a step, before anything is logged or saved."""
    from soka_tf.training.callbacks import Progress

    def on_step(self, logs, real=Progress.on_step):
        real(self, logs)
        if self.step == step:
            action()

    Progress.on_step = on_step


def kill_in_phase(phase: str, step: str) -> None:
    """SIGKILL at run time, after a phase's updates and before the next phase's."""
    import tensorflow as tf

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


def kill_while_saving(step: str) -> None:
    """SIGKILL as soon as the folder of a checkpoint being written is there."""
    import tensorflow as tf

    def save(self, checkpoint_number, real=tf.train.CheckpointManager.save):
        folder = os.path.join(self.directory, f"ckpt-{checkpoint_number}_temp")

        def watch():
            while not os.path.isdir(folder):
                pass
            os.kill(os.getpid(), signal.SIGKILL)

        if checkpoint_number == int(step):
            threading.Thread(target=watch, daemon=True).start()
        return real(self, checkpoint_number=checkpoint_number)

    tf.train.CheckpointManager.save = save


def send(name: str, step: str) -> None:
    """Sends a signal to itself after a step."""
    at_step(int(step), lambda: os.kill(os.getpid(), getattr(signal, name)))


def fill_disk(ballast: str, first: str, last: str) -> None:
    """The disk that holds the file `ballast` is full from one step to another."""

    def fill():
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)

    at_step(int(first), fill)
    at_step(int(last), lambda: os.remove(ballast))


def limit_files(first: str, last: str) -> None:
    """No file may grow beyond a few bytes from one step to another."""
    import resource

    def limit(size):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    at_step(int(first), lambda: limit(64))
    at_step(int(last), lambda: limit(resource.RLIM_INFINITY))


def remount(folder: str, first: str, last: str) -> None:
    """The file system of a folder is read-only from one step to another."""

    def mount(mode):
        subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=True)

    at_step(int(first), lambda: mount("ro"))
    at_step(int(last), lambda: mount("rw"))


def remove(path: str, step: str) -> None:
    """A file vanishes after a step."""
    at_step(int(step), lambda: os.remove(path))


def damage(path: str, step: str) -> None:
    """A file is cut off after a step."""
    at_step(int(step), lambda: os.truncate(path, 100))


def break_teacher(task: str, step: str) -> None:
    """After a step a teacher answers the brightest images with NaN."""
    import tensorflow as tf

    from soka_tf.teachers.pool import TeacherPool

    broken = tf.Variable(False, trainable=False)

    def run(self, name, images, real=TeacherPool.run):
        outputs = real(self, name, images)
        if name == task:
            bright = tf.reduce_mean(images, (1, 2, 3), keepdims=True) > 0.2
            wrong = tf.logical_and(broken, bright)
            nan = tf.constant(float("nan"))
            outputs["prediction"] = tf.where(wrong, nan, outputs["prediction"])
        return outputs

    TeacherPool.run = run
    at_step(int(step), lambda: broken.assign(True))


FAULTS: Dict[str, Callable[..., None]] = {
    "kill_in_phase": kill_in_phase,
    "kill_while_saving": kill_while_saving,
    "send": send,
    "fill_disk": fill_disk,
    "limit_files": limit_files,
    "remount": remount,
    "remove": remove,
    "damage": damage,
    "break_teacher": break_teacher,
}

if __name__ == "__main__":
    how, fault, *arguments = sys.argv[1:]
    if how == "eagerly":
        run_eagerly()
    if fault != "none":
        name, *details = fault.split(":")
        FAULTS[name](*details)
    sys.argv = ["soka_tf.train", *arguments]
    runpy.run_module("soka_tf.train", run_name="__main__")
