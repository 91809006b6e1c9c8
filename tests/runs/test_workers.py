"""Two processes train as one, by the command itself.

Every worker is a process of its own: a failed collective operation spoils its process.
That one of two may be killed is shown by tests/faults/test_lost_worker.py.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.runs.finish import complete
from tests import smooth, tiny_runs

pytestmark = pytest.mark.distributed

STEPS = 6
SMOOTH = str(tiny_runs.ROOT / "tests" / "smooth.py")
OTHER_RATE = "build_optimizers.learning_rate = 0.004"
# Joint start and cycles. SGD, for Adam divides by the size of the gradient: where that
# is zero but for rounding, any order of summing shows.
PARAMS = (
    f"max_steps = {STEPS}",
    "batch_size = 4",
    "auxiliary = 'none'",
    "synchronized_batch_norm = True",
    "schedule.joint_steps = 1",
    "schedule.initial_losses_step = 0",
    "build_optimizers.optimizer = 'sgd'",
    # An absolute loss has gradients that jump with its sign.
    "objective.soft_loss = 'l2'",
    "schedule.joint_amalgamation = False",
    "build_optimizers.learning_rate = 0.003",
    "build_optimizers.amalgamation_rate = 0.001",
    "build_optimizers.task_weights_rate = 0.005",
    "run.checkpoint_every_steps = 3",
    "run.export = False",
)


def start(
    tiny, model_dir, *params, config=None, program=(SMOOTH,), folder=tiny_runs.ROOT
):
    """Starts the command, or a `program` around it; a worker where given TF_CONFIG."""
    environment = {**os.environ, "PYTHONPATH": str(tiny_runs.ROOT)}
    environment.pop("TF_CONFIG", None)
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    flags = [f"--gin_param={p}" for p in tiny.params(*PARAMS, *params)]
    return subprocess.Popen(
        [
            *(sys.executable, *program, "--gin_file=gin/rooms/soka.gin"),
            *(f"--model_dir={model_dir}", *flags),
        ],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_workers(
    tiny,
    model_dir,
    *params,
    programs=((SMOOTH,),) * 2,
    own=((), ()),
    folders=(tiny_runs.ROOT,) * 2,
):
    """Starts two workers on this machine; number 0 is the chief.

    Each has a program around the command, bindings of its `own` and a working folder.
    """
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    cluster = {"worker": addresses}
    return [
        start(
            *(tiny, model_dir, *params, *own[index]),
            config={"cluster": cluster, "task": {"type": "worker", "index": index}},
            program=program,
            folder=folders[index],
        )
        for index, program in enumerate(programs)
    ]


def finish(*processes, timeout=500):
    """Waits for processes to end well; returns what they said."""
    said = [process.communicate(timeout=timeout)[0] for process in processes]
    for process, text in zip(processes, said):
        assert process.returncode == 0, text
    return said


def weights(model_dir, step=STEPS):
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"ckpt-{step}"))
    values = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, np.ndarray) or np.isscalar(value)
    }


def assert_same_weights(one, other, tolerance):
    first, second = weights(one), weights(other)
    assert set(first) == set(second) and len(first) > 100
    for name, value in first.items():
        if isinstance(value, bytes):
            continue
        np.testing.assert_allclose(
            value, second[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.fixture
def own_teachers():
    """Teachers with other activations are neither taken from other tests nor left."""
    tiny_runs.forget_teachers()
    yield
    tiny_runs.forget_teachers()


def test_workers_train_as_one_process(tiny, tmp_path, fresh_gin, own_teachers):
    chief, other = finish(*start_workers(tiny, tmp_path / "workers"))
    assert "2 replicas on 2 workers, this one number 0" in chief
    assert "2 replicas on 2 workers, this one number 1" in other
    # The same by one process, this one.
    one = tmp_path / "one"
    with smooth.activations():
        complete(tiny.build(one, *PARAMS), str(one))
    assert_same_weights(tmp_path / "one", tmp_path / "workers", 1e-5)
    # The chief alone leaves results, and all of them.
    names = {path.name for path in (tmp_path / "workers").iterdir()}
    assert names == {path.name for path in (tmp_path / "one").iterdir()}


def test_workers_of_other_bindings_end_before_the_first_step(tiny, tmp_path):
    workers = start_workers(tiny, tmp_path / "run", own=((), (OTHER_RATE,)))
    for worker in workers:
        said = worker.communicate(timeout=300)[0].strip().splitlines()
        assert worker.returncode == 2
        assert "learning_rate is 0.003 for worker 0 (localhost:" in said[-1]
        assert "and 0.004 for worker 1 (localhost:" in said[-1]
    assert not (tmp_path / "run").exists()


def test_workers_of_other_images_end_before_the_first_step(tiny, tmp_path):
    folders = []
    for name in "ab":  # the same names for the configuration, as machines have them
        folder = tmp_path / name
        shutil.copytree(tiny.images, folder / "images")
        folders.append(folder)
    (folders[1] / "images" / "0.png").unlink()
    workers = start_workers(
        tiny, tmp_path / "run", "images_dir = 'images'", folders=folders
    )
    for worker in workers:
        said = worker.communicate(timeout=300)[0].strip().splitlines()
        assert worker.returncode == 2, said
        assert re.search(
            r"the images to \w+ on is \d: '\d' to '\d' \(sha256 .*\) for worker 0 .*"
            r" and \d: .* for worker 1 ",
            said[-1],
        )
    assert not (tmp_path / "run" / "metrics.csv").exists()
