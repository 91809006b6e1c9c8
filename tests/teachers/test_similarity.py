"""Representation similarity of teachers; the gate and the choice."""

import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.image_files import read_pixels
from soka_tf.data.pipeline import Batches, preprocess_images
from soka_tf.data.rooms.room_files import generate_rooms
from soka_tf.data.sources.folder import find as find_images
from soka_tf.data.sources.taskonomy import find as find_samples
from soka_tf.errors import UserError
from soka_tf.networks.encoder import Encoder
from soka_tf.teachers import similarity as rsa
from soka_tf.teachers.auxiliary_choice import choose_auxiliary
from soka_tf.teachers.finding import load_teachers
from soka_tf.teachers.pool import shown_images
from soka_tf.teachers.rdm import compute_rdm
from soka_tf.teachers.similarity import compute_teacher_rdm
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from tests.teachers.test_rdm import spearman_of_lower_triangles

COMPARED = ["depth_zbuffer", "edge_texture", "keypoints3d"]
NAMES = ["depth", "edges", "strong", "weak"]
# S(depth, edges) is small; "strong" is near both, "weak" near none.
MATRIX = np.array(
    [
        [1.0, 0.2, 0.5, 0.1],
        [0.2, 1.0, 0.4, 0.15],
        [0.5, 0.4, 1.0, 0.0],
        [0.1, 0.15, 0.0, 1.0],
    ]
)


def build(task="normal", image_channels=3):
    tf.keras.utils.set_random_seed(7)
    encoder = Encoder((1, 1, 1, 1), 1 / 32, (2, 2, 1, 1), image_channels=image_channels)
    return TaskonomyTeacher(task, encoder)


def draw_images(count=7, size=16):
    pixels = np.random.default_rng(1).uniform(-1, 1, (count, size, size, 3))
    return tf.constant(pixels, tf.float32)


def in_batches(images, size=3):
    return [images[i : i + size] for i in range(0, len(images), size)]


@pytest.mark.parametrize("layer", rsa.LAYERS)
def test_teacher_rdm_is_that_of_the_layers_activations(layer):
    teacher, images = build(), draw_images()
    expected = compute_rdm(teacher(images)[layer].numpy())
    rdm = compute_teacher_rdm(teacher, in_batches(images), 7, layer)
    np.testing.assert_allclose(rdm, expected, rtol=0, atol=1e-5)


def test_teacher_rdm_by_a_file_equals_the_one_in_memory_and_leaves_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("soka_tf.teachers.rdm._block_columns", lambda count: 11)
    teacher, batches = build(), in_batches(draw_images())
    in_memory = compute_teacher_rdm(teacher, batches, 7)
    opened = []
    make = tempfile.TemporaryFile

    def temporary_file(**where):
        opened.append(make(**where))
        return opened[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    by_file = compute_teacher_rdm(teacher, batches, 7, memory_bytes=0)
    np.testing.assert_array_equal(by_file, in_memory)
    assert len(opened) == 1 and opened[0].closed
    assert not list(tmp_path.iterdir())


def test_teacher_rdm_that_fails_names_the_teacher_and_closes_its_file(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    teacher = build()
    # ReLU hides a NaN before it.
    monkeypatch.setattr(
        type(teacher), "__call__", lambda self, images, *_: {"block1": images / 0.0}
    )
    with pytest.raises(UserError, match="normal, block1: .* 7 of 7 images .* NaN"):
        compute_teacher_rdm(
            teacher, in_batches(draw_images()), 7, "block1", memory_bytes=0
        )
    assert not list(tmp_path.iterdir())


def test_teacher_rdm_too_large_for_the_disk_is_refused(monkeypatch):
    usage = shutil._ntuple_diskusage(100, 99, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = "take 3.5 KiB; .* has 1 bytes free. Take fewer images .* TMPDIR"
    with pytest.raises(UserError, match=message):
        compute_teacher_rdm(build(), in_batches(draw_images()), 7, memory_bytes=0)


def test_released_inputs_and_lightness_are_what_the_pool_shows():
    images = draw_images()
    teacher = build("inpainting")
    holed = teacher(shown_images(teacher, images, "released"))["block2"]
    rdm = compute_teacher_rdm(
        teacher, in_batches(images), 7, "block2", inputs="released"
    )
    np.testing.assert_allclose(rdm, compute_rdm(holed.numpy()), rtol=0, atol=1e-5)
    shown = compute_teacher_rdm(teacher, in_batches(images), 7, "block2")
    assert np.abs(shown - rdm).max() > 1e-3
    light = build("colorization", image_channels=1)
    for inputs in ("training", "released"):
        rdm = compute_teacher_rdm(light, [images], 7, inputs=inputs)
        expected = compute_rdm(light(images)["representation"].numpy())
        np.testing.assert_allclose(rdm, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"layer": "block5"}, "layer must be one of .* Received: 'block5'"),
        ({"inputs": "other"}, "inputs must be one of .* Received: 'other'"),
        ({"count": 2}, "at least 3"),
    ],
)
def test_teacher_rdm_of_impossible_settings_is_refused(setting, message):
    with pytest.raises(UserError, match=message):
        compute_teacher_rdm(build(), [], **{"count": 7, **setting})


def test_compared_teachers_are_those_of_the_folder_on_these_images(tiny):
    samples = find_images(tiny.images)
    measured = rsa.compare_teachers(
        COMPARED, tiny.teachers, samples, Batches(16, 4), progress=False
    )
    pixels = np.stack([read_pixels(s.files["rgb"], "rgb") for s in samples])
    images = preprocess_images(pixels, 16)
    rdms = [
        compute_rdm(teacher(images)["representation"].numpy())
        for teacher in load_teachers(COMPARED, tiny.teachers).values()
    ]
    np.testing.assert_allclose(measured, spearman_of_lower_triangles(rdms), atol=0.02)


def test_comparing_a_missing_teacher_names_the_file(tiny):
    samples = find_images(tiny.images)
    with pytest.raises(UserError, match="Missing teachers: .*jigsaw.safetensors"):
        rsa.compare_teachers(["jigsaw"], tiny.teachers, samples, Batches(16, 4))


def test_sampled_images_are_spread_evenly_and_at_most_all():
    assert rsa.sample_images(list(range(10)), 4) == [0, 2, 5, 7]
    assert rsa.sample_images(list(range(3)), 10) == [0, 1, 2]
    assert rsa.sample_images([], 10) == []


# The gate and the choice


def test_unlike_targets_get_the_teacher_of_largest_gain():
    choice = choose_auxiliary(MATRIX, NAMES, ["depth", "edges"], 0.4)
    assert choice.auxiliary == "strong"
    assert [c.name for c in choice.ranking] == ["strong", "weak"]
    assert choice.ranking[0].gain == pytest.approx((0.5 - 0.2) + (0.4 - 0.2))
    assert choice.ranking[1].gain == pytest.approx((0.1 - 0.2) + (0.15 - 0.2))
    words = choice.explain()
    assert "S(depth, edges) = 0.200, below the threshold 0.4" in words
    assert "strong: (0.500 - 0.200) + (0.400 - 0.200) = +0.500, chosen" in words
    assert "weak: (0.100 - 0.200) + (0.150 - 0.200) = -0.150, not above 0" in words
    assert "\n" not in choice.summary and choice.summary in words
    assert choice.summary.startswith("auxiliary teacher strong: S(depth, edges)")


def test_targets_at_the_threshold_need_no_auxiliary():
    for threshold, chosen in ((0.2, None), (0.2000001, "strong")):
        choice = choose_auxiliary(MATRIX, NAMES, ["depth", "edges"], threshold)
        assert choice.auxiliary == chosen
    choice = choose_auxiliary(MATRIX, NAMES, ["strong", "depth"], 0.4)
    assert choice.auxiliary is None and choice.pairs[0].similar
    assert "S(strong, depth) = 0.500, not below the threshold 0.4" in choice.summary
    assert "(none is needed)" in choice.explain()


def test_candidates_without_gain_are_not_taken():
    matrix = np.full([3, 3], 0.25) + 0.75 * np.eye(3)
    choice = choose_auxiliary(matrix, NAMES[:3], ["depth", "edges"], 0.4)
    assert choice.auxiliary is None
    assert "the best of 1, strong, gains +0.000, which is not above 0" in choice.summary
    choice = choose_auxiliary(matrix[:2, :2], NAMES[:2], ["depth", "edges"], 0.4)
    assert choice.auxiliary is None and "there is no other teacher" in choice.explain()


def test_three_targets_count_the_pairs_below_the_threshold_only():
    names = ["a", "b", "c", "x", "y"]
    s = {"ab": 0.6, "ac": 0.1, "bc": 0.3, "ax": 0.3, "bx": 0.9, "cx": 0.2}
    s.update({"ay": 0.4, "by": 0.2, "cy": 0.4, "xy": 0.0})
    matrix = np.eye(5)
    for (one, other), value in s.items():
        i, j = names.index(one), names.index(other)
        matrix[i, j] = matrix[j, i] = value
    choice = choose_auxiliary(matrix, names, ["a", "b", "c"], 0.5)
    assert [pair.similar for pair in choice.pairs] == [True, False, False]
    gains = {c.name: c for c in choice.ranking}
    assert gains["x"].gains == pytest.approx([(0.3 + 0.2 - 0.2), (0.9 + 0.2 - 0.6)])
    assert gains["y"].gains == pytest.approx([(0.4 + 0.4 - 0.2), (0.2 + 0.4 - 0.6)])
    assert gains["x"].gain == pytest.approx(0.8) and choice.auxiliary == "x"
    assert "summed over the pairs below the threshold" in choice.explain()
    # With a third pair below, nothing else changes than that it counts.
    gain = choose_auxiliary(matrix, names, ["a", "b", "c"], 0.7).ranking[0].gain
    assert gain == pytest.approx(0.8 + (0.3 + 0.9 - 1.2))


@pytest.mark.parametrize(
    "targets, threshold, message",
    [
        (["depth"], 0.4, "two or more different targets. Received: depth"),
        (["depth", "depth"], 0.4, "two or more different"),
        (["depth", "jigsaw"], 0.4, "no teacher of the target jigsaw. Teachers: depth"),
        (["depth", "edges"], 1.5, r"in \[-1, 1\]. Received: 1.5"),
        (["depth", "edges"], float("nan"), "Received: nan"),
    ],
)
def test_impossible_choices_are_refused(targets, threshold, message):
    with pytest.raises(UserError, match=message):
        choose_auxiliary(MATRIX, NAMES, targets, threshold)


# Shipped teachers, real size


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The similarity of the shipped teachers over 80 rooms images."""
    names = [
        "depth_zbuffer",
        "normal",
        "edge_texture",
        "edge_occlusion",
        "keypoints3d",
        "vanishing_point",
    ]
    root = tmp_path_factory.mktemp("rooms")
    generate_rooms(root, 2, 20, 4, 64, ["rgb"], progress=False)
    samples = find_samples(root, [])
    batches = Batches(64, 16)
    return rsa.compare_teachers(names, None, samples, batches, progress=False), names


@pytest.mark.slow
def test_shipped_teachers_of_depth_and_edges_get_a_strong_auxiliary(shipped):
    choice = choose_auxiliary(*shipped, ["depth_zbuffer", "edge_texture"])
    assert choice.auxiliary in ("normal", "edge_occlusion", "keypoints3d")
    assert choice.ranking[-1].name == "vanishing_point"
    strong = [c.gain for c in choice.ranking[:-1]]
    assert choice.ranking[-1].gain < min(strong) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets", [["normal", "keypoints3d"], ["depth_zbuffer", "normal"]]
)
def test_shipped_teachers_that_are_alike_get_none(shipped, targets):
    choice = choose_auxiliary(*shipped, targets)
    assert choice.auxiliary is None and "not below" in choice.summary


_LARGE = """
import resource
import tensorflow as tf
from soka_tf.teachers.similarity import compute_teacher_rdm

class Wide:
    class task:
        name, released_input = "wide", "plain"

    layers = {"block4": (2048, 1)}

    def __call__(self, images, layers):
        return {"block4": tf.random.normal([tf.shape(images)[0], 16, 16, 2048])}

batches = (tf.zeros([16, 8, 8, 3]) for _ in range(125))
compute_teacher_rdm(Wide(), batches, 2000, "block4")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.benchmark
def test_rdm_of_2000_images_of_block4_stays_below_one_and_a_half_gib():
    done = subprocess.run(
        [sys.executable, "-c", _LARGE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert int(done.stdout.split()[-1]) < 1.5 * 2**30
