"""A paper's run at full size, from published checkpoints to the exported student.

Minutes and 4 GB of memory: `make test-full` runs it, `make test` does not.
"""

import json
import os
import subprocess
import sys

import pytest

from soka_tf.data.rooms import room_files
from soka_tf.tasks import get_task

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TASKS = ("edge_texture", "normal")
SHORT = [  # a joint step, a cycle, a cycle with the CGAN term
    "batch_size = 2",
    "max_steps = 3",
    "schedule.joint_steps = 1",
    "schedule.initial_losses_step = 0",
    "Adversary.start_step = 2",
    "split.validation_fraction = 0.5",
    "run.log_every_steps = 1",
    "run.movement_every_steps = 1",
]

pytestmark = pytest.mark.full_size


def command(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def teachers_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    tasks = [f"--task={task}" for task in TASKS]
    command("tools/write_teacher_files.py", *tasks, f"--out_dir={folder}")
    teachers = tmp_path_factory.mktemp("teachers")
    for task in TASKS:
        checkpoint = f"--taskbank_checkpoint={folder / get_task(task).aliases[0]}"
        command(
            *("tools/convert_teacher.py", f"--task={task}", checkpoint),
            f"--out={teachers}",
        )
    return teachers


@pytest.fixture(scope="module")
def taskonomy_dir(tmp_path_factory):
    """Four views in Taskonomy's layout, the building named as the paper's."""
    folder = tmp_path_factory.mktemp("taskonomy")
    domains = ["rgb", "depth_zbuffer", *TASKS]
    room_files.generate_rooms(folder, 3, 2, 2, 256, domains, workers=1, progress=False)
    (folder / "rooms").rename(folder / "wiconisco")
    return folder


def test_paper_run_from_converted_teachers_leaves_everything(
    teachers_dir, taskonomy_dir, tmp_path
):
    params = [f"taskonomy_dir = {str(taskonomy_dir)!r}", *SHORT]
    printed = command(
        *("-m", "soka_tf.train", "--gin_file=gin/paper/edge2d_normal.gin"),
        *(f"--gin_param={param}" for param in params),
        f"--teachers_dir={teachers_dir}",
        f"--model_dir={tmp_path / 'run'}",
    )
    run = tmp_path / "run"
    assert "student 56,561,812 (71%; 141% of" in printed
    for name in (
        "checkpoints/ckpt-3.index",
        "curves.png",
        "evaluation.json",
        "metrics.csv",
        "operative_config.gin",
        "panels/step_0000003.png",
        "saved_model/saved_model.pb",
        "split.json",
    ):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "tensorboard").iterdir())
    measured = json.loads((run / "evaluation.json").read_text())
    assert measured["step"] == 3
    assert set(measured["tasks"]) == set(TASKS)
    lines = (run / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 3
    header, last = lines[0].split(","), lines[-1].split(",")
    weights = [v for k, v in zip(header, last) if k.startswith("task_weight")]
    assert sum(map(float, weights)) == pytest.approx(1, abs=1e-5)
    config = (run / "operative_config.gin").read_text()
    assert str(teachers_dir) in config
