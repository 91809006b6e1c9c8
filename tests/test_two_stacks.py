"""What one stack writes, the other reads: teachers, checkpoints, exported students.

Needs the Python of the other stack's environment in SOKA_TF_OTHER_PYTHON, as .ci/run
gives it.
"""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny_runs

OTHER = os.environ.get("SOKA_TF_OTHER_PYTHON")
PYTHONS = {"this": sys.executable, "other": OTHER}
TASKS = ("depth_zbuffer", "normal")
STEPS, KILLED_AT = 8, 6
BINDINGS = (
    f"tasks = {list(TASKS)}",
    f"max_steps = {STEPS}",
    "schedule.joint_steps = 2",
    "schedule.initial_losses_step = 1",
    "run.checkpoint_every_steps = 4",
    # Smooth and slow: what differs by rounding stays near.
    "objective.soft_loss = 'l2'",
    "build_optimizers.learning_rate = 0.003",
    "images_dir = None",
    "rooms.count = 2",
    "rooms.train_views = 4",
    "rooms.validation_count = 2",
    "rooms.validation_views = 2",
)
both_ways = pytest.mark.parametrize(
    "writer, reader", [("this", "other"), ("other", "this")]
)
pytestmark = pytest.mark.skipif(
    not OTHER, reason="needs the other stack's Python in SOKA_TF_OTHER_PYTHON"
)


def python(stack, *arguments, status=0):
    done = subprocess.run(
        [PYTHONS[stack], *map(str, arguments)],
        cwd=tiny_runs.ROOT,
        env={**os.environ, "PYTHONPATH": str(tiny_runs.ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stderr
    return done


def child(stack, what, source, out):
    python(stack, "tests/stack_child.py", what, source, out)
    with np.load(out) as arrays:
        return dict(arrays)


def assert_same_answers(first, second):
    assert set(first) == set(second)
    for name, values in first.items():
        # 1e-5 of the maps' own deviation.
        bound = 1e-5 * values.std()
        assert np.abs(second[name] - values).max() <= bound, name


@pytest.fixture(scope="module")
def train(tiny, tmp_path_factory):
    """Returns a function that trains in a folder, with a fault of tests/faults."""
    rooms_dir = tmp_path_factory.mktemp("rooms")

    def train(stack, folder, fault="none", status=0):
        bindings = tiny.params(*BINDINGS, f"rooms.dir = {str(rooms_dir)!r}")
        return python(
            stack,
            *("tests/faults/child.py", fault),
            "--gin_file=gin/rooms/soka.gin",
            *(f"--gin_param={binding}" for binding in bindings),
            f"--model_dir={folder}",
            status=status,
        )

    return train


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The folders of the uninterrupted run of each stack."""
    folders = {stack: tmp_path_factory.mktemp(stack) for stack in PYTHONS}
    for stack, folder in folders.items():
        train(stack, folder)
    return folders


def test_the_other_python_is_of_the_other_stack():
    code = "import tensorflow as tf; print(tf.__version__)"
    versions = [python(stack, "-c", code).stdout for stack in PYTHONS]
    assert "2.15.1\n" in versions and versions[0] != versions[1]


@both_ways
def test_teacher_of_one_stack_answers_alike_in_the_other(tmp_path, writer, reader):
    python(writer, "tests/stack_child.py", "write", tmp_path)
    teacher = tmp_path / "teachers" / "normal.safetensors"
    first, second = (
        child(stack, "teach", teacher, tmp_path / f"{stack}.npz")
        for stack in (writer, reader)
    )
    assert {"prediction", "representation"} <= set(first)
    assert_same_answers(first, second)


@both_ways
def test_export_of_one_stack_answers_alike_in_the_other(
    whole, tmp_path, writer, reader
):
    saved_model = whole[writer] / "saved_model"
    first, second = (
        child(stack, "answer", saved_model, tmp_path / f"{stack}.npz")
        for stack in (writer, reader)
    )
    assert set(first) == set(TASKS)
    assert_same_answers(first, second)


@both_ways
def test_run_of_one_stack_killed_goes_on_in_the_other(
    whole, train, tmp_path, writer, reader
):
    train(writer, tmp_path, f"send:SIGKILL:{KILLED_AT}", status=-signal.SIGKILL)
    errors = train(reader, tmp_path).stderr
    assert "Continuing from step 4 of" in errors
    expected, actual = results(whole[writer]), results(tmp_path)
    assert set(expected) == set(actual)
    for name, value in expected.items():
        # Measured both ways: 8e-9, and 5e-6 of loss/gradnorm, a difference of norms.
        assert actual[name] == pytest.approx(value, rel=1e-4), name


def results(model_dir):
    """The student's errors, and the losses and task weights of the last step."""
    tasks = json.loads((model_dir / "evaluation.json").read_text())["tasks"]
    found = {task: rows["student"]["rmse"] for task, rows in tasks.items()}
    with open(model_dir / "metrics.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    assert last["step"] == str(STEPS)
    for name, value in last.items():
        if value and name.startswith(("loss/", "task_weight/", "gradient_norm/")):
            found[name] = float(value)
    return found
