"""The teachers that come with the package: their files, and what they answer."""

import json

import numpy as np
import pytest

from soka_tf.data import encodings
from soka_tf.data.filesystem import sha256_of
from soka_tf.data.rooms.room_files import render_room
from soka_tf.teachers.finding import SHIPPED_DIR
from soka_tf.teachers.taskonomy.teacher_file import load_teacher
from tools.teachers import scores
from tools.teachers.settings import read_settings

MANIFEST = json.loads((SHIPPED_DIR / "manifest.json").read_text())["teachers"]
MOST_BYTES = 2_500_000
SETTINGS = read_settings(["gin/rooms/teachers.gin"], [])
# Skill on one view of each of the first 24 test rooms, as measured when they were made.
SKILLS = {
    "depth_euclidean": 0.511,
    "depth_zbuffer": 0.476,
    "edge_occlusion": 0.507,
    "edge_texture": 0.718,
    "keypoints2d": 0.736,
    "keypoints3d": 0.561,
    "normal": 0.453,
    "reshading": 0.378,
}


def test_every_teacher_of_the_settings_is_there_small_and_as_its_manifest_says():
    assert sorted(MANIFEST) == sorted(SETTINGS.tasks)
    assert {p.name for p in SHIPPED_DIR.iterdir()} == {
        "manifest.json",
        *(f"{task}.safetensors" for task in MANIFEST),
    }
    for task, entry in MANIFEST.items():
        path = SHIPPED_DIR / entry["file"]
        assert path.stat().st_size <= MOST_BYTES, task
        assert sha256_of(path) == entry["sha256"], task
        assert entry["views"] >= 2000 and entry["measured_on"] == "test rooms"
        assert f"--task={task}" in entry["command"]
        assert set(entry["processor_minutes"]) == {"alone", "together"}


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(SKILLS))
def test_teachers_are_as_good_as_when_they_were_made(task):
    teacher = load_teacher(SHIPPED_DIR / f"{task}.safetensors")
    size, seed = SETTINGS.image_size, SETTINGS.test.seed
    views = [render_room(seed, n, 0, size, ["rgb", task]) for n in range(24)]
    arrays = {name: np.stack([v[name] for v in views]) for name in ("rgb", task)}
    arrays[task] = np.stack(
        [
            encodings.encode(teacher.task, encodings.store(teacher.task, v), size)
            for v in arrays[task]
        ]
    )
    measured = scores.measure(teacher, None, arrays)
    assert measured["skill"] == pytest.approx(SKILLS[task], abs=0.01)
    if task == "depth_zbuffer":  # one sees the furniture
        assert measured["teacher"]["gradient_correlation"] > 0.15
