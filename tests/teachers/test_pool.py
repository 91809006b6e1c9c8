"""The teachers of a run: found by task, checked, run once each."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.teachers.finding import find_teachers, load_pool, load_teachers
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy import taskbank, visual_prior
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.taskonomy.teacher_file import save_teacher

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
FILES = {"depth_zbuffer": 1, "normal": 3, "keypoints3d": 1, "vanishing_point": None}


def build(task):
    channels = FILES[task]
    encoder = Encoder(units=(1, 1, 1, 1), width=1 / 32, strides=(2, 2, 1, 1))
    decoder = channels and Decoder(channels, width=1 / 64, upsamplings=2, min_filters=3)
    return TaskonomyTeacher(task, encoder, decoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    tf.keras.utils.set_random_seed(1)
    for task in FILES:
        save_teacher(build(task), folder / f"{task}.safetensors")
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def write_manifest(folder, hashes):
    entries = {
        name: {"file": f"{name}.safetensors", "sha256": digest}
        for name, digest in hashes.items()
    }
    (folder / "manifest.json").write_text(json.dumps({"teachers": entries}))


def test_pool_of_aliases_keeps_the_order_and_runs_all_teachers(folder):
    found = find_teachers(["sfnorm", "depth"], ["keypoint3d"], folder)
    assert list(found.targets) == ["normal", "depth_zbuffer"]
    pool = load_pool(found)
    assert [t.task.name for t in pool.teachers] == [
        "normal",
        "depth_zbuffer",
        "keypoints3d",
    ]
    outputs = pool(IMAGES)
    assert list(outputs.maps) == ["normal", "depth_zbuffer"]
    assert outputs.maps["normal"].shape == (2, 16, 16, 3)
    assert {k: len(v) for k, v in outputs.features.items()} == {
        "block3": 3,
        "representation": 3,
    }
    for i, teacher in enumerate(pool.teachers):
        alone = teacher(IMAGES)
        for layer, activations in outputs.features.items():
            np.testing.assert_allclose(activations[i], alone[layer], atol=1e-6)
    counted = [t.count_parameters() for t in pool.targets.values()]
    assert pool.count_parameters() == sum(counted)


def test_auxiliaries_are_not_run_where_no_features_are_wanted(folder, monkeypatch):
    pool = load_pool(find_teachers(["normal"], ["keypoints3d"], folder))
    auxiliary = pool.auxiliaries["keypoints3d"].encoder
    monkeypatch.setattr(auxiliary, "call", lambda *args, **kwargs: pytest.fail("run"))
    with pytest.raises(pytest.fail.Exception):
        pool(IMAGES, layers=("block3",))
    assert pool(IMAGES, layers=()).features == {}


def test_missing_files_are_all_named_with_what_is_there(copy):
    (copy / "normal.safetensors").unlink()
    with pytest.raises(UserError) as error:
        load_pool(find_teachers(["normal", "depth_zbuffer"], ["edge_texture"], copy))
    text = str(error.value)
    assert f"{copy / 'normal.safetensors'}, {copy / 'edge_texture.safetensors'}" in text
    assert "The folder has: depth_zbuffer, keypoints3d, vanishing_point" in text
    assert "teachers_dir may be any local folder" in text and ".npz" not in text
    (copy / "normal.npz").touch()
    with pytest.raises(
        UserError, match="earlier version: normal.npz; docs/teachers.md"
    ):
        load_teachers(["normal"], copy)


def test_missing_teachers_are_told_by_the_names_they_were_published_under(copy):
    with pytest.raises(UserError) as error:
        load_pool(find_teachers(["curvature", "edge2d"], (), copy))
    text = str(error.value)
    for name in ("curvature_encoder-3767cf5d", "edge_texture_decoder-e241e823"):
        assert name in text
    assert "normal_encoder" not in text
    for address in (visual_prior.WHERE_TO_GET, taskbank.WHERE_TO_GET):
        assert address in text
    assert "`python tools/convert_teacher.py`" in text


def test_released_inputs_are_those_of_each_task(folder):
    found = find_teachers(["normal"], ["vanishing_point"], folder)
    plain, released = (load_pool(found, kind) for kind in ("training", "released"))
    cut = np.clip(IMAGES, -0.8, 0.8)
    outputs = released(IMAGES)
    np.testing.assert_allclose(
        outputs.maps["normal"], plain(cut).maps["normal"], atol=1e-6
    )
    uncut = plain(IMAGES)
    difference = outputs.maps["normal"] - uncut.maps["normal"]
    assert np.abs(difference).max() > 1e-5
    # Evaluations and panels ask for these.
    asked = released.answers["normal"](IMAGES)["prediction"]
    np.testing.assert_array_equal(asked, outputs.maps["normal"])
    # The second is shown the images as they are.
    np.testing.assert_array_equal(
        outputs.features["representation"][1], uncut.features["representation"][1]
    )
    with pytest.raises(UserError, match="load_pool.inputs .* Received: 'demo'"):
        load_pool(found, "demo")


def test_pool_in_bfloat16_says_nearly_the_same_and_keeps_its_teachers(folder):
    found = find_teachers(["normal"], ["vanishing_point"], folder)
    exact, rounded = load_pool(found), load_pool(found, precision="bfloat16")
    for wanted, said in zip(
        tf.nest.flatten(exact(IMAGES)), tf.nest.flatten(rounded(IMAGES))
    ):
        assert said.dtype == tf.float32
        scale = np.abs(wanted).max()
        assert 1e-5 * scale < np.abs(said - wanted).max() < 0.05 * scale
    # Teachers to be measured or to lend their weights are those of the files.
    assert isinstance(rounded.targets["normal"].encoder, Encoder)
    np.testing.assert_array_equal(
        rounded.targets["normal"](IMAGES)["prediction"],
        exact.targets["normal"](IMAGES)["prediction"],
    )
    with pytest.raises(UserError, match="load_pool.precision .* Received: 'half'"):
        load_pool(found, precision="half")


def test_folder_that_is_not_there_has_none(tmp_path):
    with pytest.raises(UserError, match="The folder has: none"):
        load_pool(find_teachers(["normal"], (), tmp_path / "no"))


def test_file_of_another_task_is_refused(copy):
    shutil.copy(copy / "depth_zbuffer.safetensors", copy / "normal.safetensors")
    with pytest.raises(UserError, match="holds the teacher of 'depth_zbuffer'.*normal"):
        load_pool(find_teachers(["normal"], (), copy))


def test_task_that_is_misspelt_gets_a_suggestion(folder):
    with pytest.raises(UserError, match="'normall'. Did you mean 'normal'"):
        find_teachers(["normall"], (), folder)
    with pytest.raises(UserError, match="Did you mean .*'keypoints3d'"):
        find_teachers(["normal"], ["keypoints3dd"], folder)


@pytest.mark.parametrize(
    "tasks, auxiliaries",
    [
        (["normal"], ["sfnorm"]),
        (["normal"], ["keypoints3d", "keypoints3d"]),
    ],
)
def test_auxiliary_named_twice_is_refused(folder, tasks, auxiliaries):
    with pytest.raises(UserError, match="An auxiliary teacher must be none"):
        find_teachers(tasks, auxiliaries, folder)


def test_auxiliary_task_as_a_target_is_refused(folder):
    with pytest.raises(UserError, match="only be an auxiliary"):
        find_teachers(["vanishing_point"], (), folder)
    with pytest.raises(UserError, match="'vanishing_point' predicts no image"):
        TeacherPool({"vanishing_point": build("vanishing_point")})


def test_encoder_alone_can_be_an_auxiliary(folder):
    pool = load_pool(find_teachers(["normal"], ["vanishing_point"], folder))
    assert len(pool(IMAGES).features["block3"]) == 2


def test_hashes_of_the_folders_manifest_are_checked(copy):
    names = ("normal", "depth_zbuffer")
    hashes = {name: sha256_of(copy / f"{name}.safetensors") for name in names}
    write_manifest(copy, hashes)
    load_pool(find_teachers(names, ["keypoints3d"], copy))  # unlisted: unchecked
    write_manifest(copy, {**hashes, "normal": "0" * 64})
    with pytest.raises(UserError, match="normal.safetensors: the file is not the one"):
        load_pool(find_teachers(names, (), copy))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"teachers": [1]}', '{"a": 1}'])
def test_manifest_of_the_folder_that_is_damaged_is_refused(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest.json: not a manifest of teachers"):
        load_pool(find_teachers(["normal"], (), copy))
