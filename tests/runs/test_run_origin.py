"""What a run notes of its teachers and images for model cards, of one tiny run."""

import dataclasses
import hashlib

import pytest

from soka_tf.runs.run_origin import origin_of


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("run"), "auxiliary = ['keypoints3d']")


def test_origin_names_every_teacher_by_role_and_file(run, tiny):
    files = {path.stem: path for path in tiny.teachers.glob("*.safetensors")}
    told = {
        t["task"]: (t["role"], t["file"], t["sha256"]) for t in origin_of(run).teachers
    }
    expected = {name: "target" for name in run.model.tasks}
    expected["keypoints3d"] = "auxiliary"
    assert told == {
        name: (
            role,
            files[name].name,
            hashlib.sha256(files[name].read_bytes()).hexdigest(),
        )
        for name, role in expected.items()
    }


def test_origin_keeps_apart_images_that_are_measured_on_from_elsewhere(run):
    data = run.data
    images = origin_of(run).images
    assert (images["train"], images["validation"]) == (
        len(data.train),
        len(data.validation),
    )
    assert "validation_source" not in images
    elsewhere = data._replace(validation_source="photographs in /home/me/held_out")
    images = origin_of(dataclasses.replace(run, data=elsewhere)).images
    assert images["validation_source"] == "photographs in held_out"
    assert images["source"] == origin_of(run).images["source"]
