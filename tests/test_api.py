"""The package's own names: lazy, and what a notebook does with them."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import soka_tf
from soka_tf.errors import UserError
from soka_tf.runs import build_run
from tests import tiny_export, tiny_runs


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    run = tmp_path_factory.mktemp("a run")
    tiny_export.write(run / "saved_model")
    return soka_tf.load_student(run)


def image(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_names_are_there_and_import_no_tensorflow_before_they_are_used():
    code = (
        "import sys, soka_tf\n"
        "assert {*soka_tf.__all__} < {*dir(soka_tf)}\n"
        "assert not hasattr(soka_tf, 'nothing')\n"
        "assert not {'tensorflow', 'gin', 'numpy'} & {*sys.modules}\n"
        "import soka_tf.train\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(soka_tf.train_student.__module__, soka_tf.train.FLAGS is not None)\n"
        "assert 'tensorflow' in sys.modules\n"
    )
    environment = dict(os.environ, PYTHONPATH=str(tiny_runs.ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "soka_tf.api True\n"


@pytest.mark.parametrize("level", [None, "0"])
def test_first_use_is_quiet_unless_the_user_has_asked_for_more(level):
    code = (
        "import soka_tf\n"
        "soka_tf.load_teacher\n"
        "import tensorflow\n"
        "tensorflow.constant(1.0)  # the processor's features are logged then\n"
    )
    environment = dict(os.environ, PYTHONPATH=str(tiny_runs.ROOT))
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert bool(done.stderr) == (level is not None), done.stderr


def test_student_answers_an_image_a_batch_and_a_file_alike(student, tmp_path):
    assert student.tasks == ("depth_zbuffer", "normal", "segment_semantic")
    pixels = image(20, 30)
    alone = student.predict(pixels)
    assert list(alone) == list(student.tasks)
    assert {maps.dtype for maps in alone.values()} == {np.dtype(np.float32)}
    shapes = [alone[task].shape for task in student.tasks]
    assert shapes == [(16, 16, 1), (16, 16, 3), (16, 16, 17)]
    # Metres, unit vectors, a probability a class.
    assert -1 < alone["depth_zbuffer"].min() and alone["depth_zbuffer"].max() < 128
    lengths = np.linalg.norm(alone["normal"], axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-4)
    np.testing.assert_allclose(alone["segment_semantic"].sum(-1), 1, atol=1e-4)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    of_file = student.predict(tmp_path / "one.png")
    of_batch = student.predict(np.stack([pixels, pixels[::-1]]))
    for task, maps in alone.items():
        np.testing.assert_array_equal(of_file[task], maps)
        assert of_batch[task].shape == (2, *maps.shape)
        np.testing.assert_allclose(of_batch[task][0], maps, rtol=1e-5, atol=1e-6)


def test_student_answers_at_the_size_of_the_image(student):
    maps = student.predict(image(2, 20, 30), full_size=True)
    assert maps["normal"].shape == (2, 20, 30, 3)
    lengths = np.linalg.norm(maps["normal"], axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-4)
    small = student.predict(image(2, 20, 30))["depth_zbuffer"]
    # Bilinear: within the values that there are, with about their mean.
    depth = maps["depth_zbuffer"]
    assert small.min() <= depth.min() and depth.max() <= small.max()
    assert depth.mean() == pytest.approx(small.mean(), rel=0.05)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (np.zeros((8, 8, 3), np.float32), r"uint8 .*Received: float32 \[8, 8, 3\]"),
        (np.zeros((8, 8), np.uint8), r"Received: uint8 \[8, 8\]"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), r"Received: uint8 \[1, 1, 8, 8, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"Received: uint8 \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"Received: uint8 \[0, 8, 3\]"),
        ("nowhere.png", "nowhere.png: "),
        (pathlib.Path(__file__), r"test_api.py: it is not an image"),
    ],
)
def test_what_is_no_image_is_refused(student, wrong, words):
    with pytest.raises(UserError, match=words):
        student.predict(wrong)


def test_folder_without_a_student_or_with_a_program_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nor the folder of a run"):
        soka_tf.load_student(tmp_path)
    saved_model = tiny_export.write(tmp_path / "saved_model")
    asked = []
    monkeypatch.setattr(
        "soka_tf.networks.untrusted.refuse_programs", lambda *a: asked.append(a)
    )
    soka_tf.load_student(saved_model)
    assert asked == [(saved_model,)]
    soka_tf.load_student(saved_model, trust_saved_model=True)
    assert len(asked) == 1


@pytest.mark.usefixtures("fresh_gin")
def test_training_is_that_of_the_command_and_forgets_former_bindings(
    tiny, tmp_path, monkeypatch
):
    done = []
    monkeypatch.setattr(
        "soka_tf.api.train_run",
        lambda folder: done.append((folder, bound_values())) or "a table",
    )
    from soka_tf.runs.config import bound_values

    bindings = tiny.params("max_steps = 3")
    demo = "gin/rooms/demo.gin"
    folder = str(tmp_path / "run")
    assert soka_tf.train_student(demo, bindings, model_dir=folder) == "a table"
    assert soka_tf.train_student([demo], "seed = 7", model_dir=tmp_path) == "a table"
    (first, bound), (_, after) = done
    assert first == folder and bound["max_steps"] == 3 and bound["batch_size"] == 2
    assert (after["seed"], after["max_steps"], after["batch_size"]) == (7, 1200, 16)
    with pytest.raises(UserError, match="did you mean max_steps"):
        soka_tf.train_student(demo, "max_step = 3", model_dir=folder)
    # The paper's size must be meant: by its file, or by the number of steps.
    with pytest.raises(UserError, match="a new one needs a gin file"):
        soka_tf.train_student(bindings="batch_size = 3", model_dir=folder)
    for given in (("gin/base.gin",), ((), " run.max_steps = 9")):
        assert soka_tf.train_student(*given, model_dir=folder) == "a table"


@pytest.mark.usefixtures("fresh_gin")
def test_training_from_python_leaves_what_the_command_leaves(
    tiny, tmp_path, monkeypatch
):
    def build_eagerly(model_dir, real=build_run.build_run):
        run = real(model_dir)
        run.model.run_eagerly = True  # several times faster for one step
        return run

    monkeypatch.setattr(build_run, "build_run", build_eagerly)
    bindings = [
        *("max_steps = 1", "schedule.joint_steps = %max_steps", "run.export = False"),
        *("tasks = ['normal']", "auxiliary = 'none'"),
        "build_amalgamation.variant = None",
    ]
    text = soka_tf.train_student(
        "gin/rooms/soka.gin", tiny.params(*bindings), model_dir=tmp_path / "my run"
    )
    assert "student vs teacher" in text
    assert f"'--model_dir={tmp_path}/my run' " in text  # quoted for the shell
    for name in ("evaluation.json", "metrics.csv", "operative_config.gin"):
        assert (tmp_path / "my run" / name).is_file()
