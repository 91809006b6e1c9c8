"""Runs that learn from a teacher that is a folder."""

import json

import numpy as np
import pytest

from soka_tf.errors import UserError
from soka_tf.runs.config import operative_config
from soka_tf.runs.training_loop import train
from tests.teachers.saved_model import folders

KD = (
    "tasks = ['depth_zbuffer', 'my_edges']",
    "auxiliary = 'none'",
    "build_amalgamation.variant = None",
    "max_steps = 2",
    "schedule.joint_steps = 1",
)
pytestmark = pytest.mark.usefixtures("fresh_gin")


@pytest.fixture
def caffe(tmp_path):
    folder = tmp_path / "caffe"
    folders.write_caffe(folder)
    return folder


def test_run_learns_from_a_folder_and_refuses_to_go_on_with_another(
    tiny, tmp_path, caffe
):
    bound = (*KD, f"find_teachers.folders = [{str(caffe)!r}]")
    run = tiny.build(tmp_path / "run", *bound)
    before = [v.numpy() for v in run.model.student.trainable_variables]
    train(run, str(tmp_path / "run"))
    moved = [
        np.abs(v - b).max()
        for v, b in zip(run.model.student.trainable_variables, before)
    ]
    assert max(moved) > 0
    assert f"[{str(caffe)!r}]" in operative_config()
    stored = json.loads((tmp_path / "run" / "teachers.json").read_text())
    assert stored["fingerprints"]["depth_zbuffer"] is None
    kept = stored["fingerprints"]["my_edges"]
    assert kept == run.fingerprints["my_edges"] and len(kept) == 64

    folders.write(caffe, {**folders.CAFFE, "layers": None})
    run = tiny.build(tmp_path / "run", *bound, "max_steps = 3")
    with pytest.raises(UserError) as refused:
        train(run, str(tmp_path / "run"))
    message = str(refused.value)
    assert f"another teacher of my_edges (fingerprint {kept[:12]} ->" in message
    assert "\n" not in message
