"""Agreement with the teachers, and the best student that is kept."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.evaluation import soft_errors
from soka_tf.runs import checkpoints
from soka_tf.runs.callbacks.not_finite import NotFinite
from soka_tf.runs.callbacks.step import Every
from soka_tf.runs.callbacks.validate import Validation
from soka_tf.runs.checkpoint_folder import CheckpointFolder
from soka_tf.tasks import register_task
from tests.runs.test_callbacks import Model, full_disk, run  # noqa: F401


def constant(value):
    return tf.fill([2, 4, 4, 1], tf.constant(value, tf.float32))


def batches_of(teacher):
    """Images whose red is what the teacher will answer."""
    return [{"rgb": tf.constant(part, tf.float32)} for part in teacher]


def test_soft_errors_are_0_for_the_teacher_and_1_for_its_mean():
    maps = np.random.default_rng(0).normal(size=(3, 2, 4, 4, 2)) * [1.0, 100.0]
    mean = maps.mean((0, 1, 2, 3))

    def predict(images):
        students = {"same": images, "mean": tf.zeros_like(images) + mean}
        return students, {"same": images, "mean": images}

    values = soft_errors.soft_errors(
        lambda images: predict(tf.cast(images, tf.float64)), batches_of(maps)
    )
    assert values == {
        "validation/soft/same": 0.0,
        "validation/soft/mean": pytest.approx(1.0, rel=1e-6),
        "validation/mean": pytest.approx(0.5, rel=1e-6),
    }


def test_soft_errors_of_a_teacher_that_always_says_the_same_are_finite():
    def predict(images):
        return {"depth": images + 0.1}, {"depth": images}

    values = soft_errors.soft_errors(predict, [{"rgb": constant(0.5)}])
    assert np.isfinite(values["validation/mean"])


def validating(model, folder, means, every_steps=1, last_step=100):
    means = iter(means)

    def measure():
        value = next(means)
        if isinstance(value, Exception):
            raise value
        return {soft_errors.MEAN: value}

    student = tf.train.Checkpoint(weights=model.weights)
    return Validation(
        measure,
        checkpoints.BestStudent(
            student, str(folder), checkpoints.stored_mean(str(folder))
        ),
        Every(every_steps, last_step),
        NotFinite(model),
    )


def best_step(folder):
    path = CheckpointFolder(str(folder)).last()
    return None if path is None else int(path.rsplit("-", 1)[1])


def test_validation_keeps_the_student_of_the_least_mean_only(tmp_path):
    model = Model()

    def logs(step):
        model.weights.assign([float(step), 0.0])

    run(validating(model, tmp_path, [3.0, 1.0, np.nan, 2.0]), model, 4, logs)
    assert best_step(tmp_path) == 2 and len(list(tmp_path.glob("*.index"))) == 1
    step, weights = tf.Variable(0, dtype=tf.int64), tf.Variable([0.0, 0.0])
    student = tf.train.Checkpoint(weights=weights)
    checkpoint = tf.train.Checkpoint(student=student, step=step)
    checkpoint.read(CheckpointFolder(str(tmp_path)).last()).expect_partial()
    assert (int(step), weights.numpy().tolist()) == (2, [2.0, 0.0])


def test_validation_resumed_knows_the_best_so_far(tmp_path):
    model = Model()
    run(validating(model, tmp_path, [1.0]), model, 1)
    run(validating(model, tmp_path, [1.5, 0.5, 0.7]), model, 3)
    assert best_step(tmp_path) == 3


def test_validation_best_damaged_is_looked_for_anew(tmp_path, caplog):
    model = Model()
    run(validating(model, tmp_path, [1.0]), model, 1)
    (index,) = tmp_path.glob("*.index")
    index.write_bytes(b"")
    run(validating(model, tmp_path, [2.0]), model, 1)
    assert best_step(tmp_path) == 2
    assert "the best student is looked for anew" in caplog.text


def test_validation_happens_every_n_steps_and_after_the_last(tmp_path):
    model = Model()
    callback = validating(model, tmp_path, [3.0, 2.0, 1.0], 2, last_step=5)
    seen = []

    def logs(step):
        seen.append(callback.values_at(step - 1))

    run(callback, model, 5, logs)
    assert seen == [{}, {}, {soft_errors.MEAN: 3.0}, {}, {soft_errors.MEAN: 2.0}]
    assert best_step(tmp_path) == 5


def test_validation_that_fails_is_a_warning(tmp_path, caplog):
    model = Model()
    callback = validating(model, tmp_path, [OSError(5, "gone"), 2.0])
    run(callback, model, 2)
    assert best_step(tmp_path) == 2
    assert "step 1 was not validated (gone). Training goes on." in caplog.text


def test_validation_full_disk_keeps_the_best_before_and_tries_again(
    tmp_path,
    full_disk,  # noqa: F811
    caplog,
):
    model = Model()
    full_disk(tmp_path, [2])
    run(validating(model, tmp_path, [3.0, 1.0]), model, 2)
    assert best_step(tmp_path) == 1
    assert "the student of step 2, the best so far, was not kept" in caplog.text
    run(validating(model, tmp_path, [2.0]), model, 1)
    assert best_step(tmp_path) == 3


def test_validation_after_a_failed_save_keeps_what_beats_the_kept_one(
    tmp_path,
    full_disk,  # noqa: F811
):
    model = Model()
    full_disk(tmp_path, [2])
    run(validating(model, tmp_path, [3.0, 1.0, 2.0]), model, 3)
    assert best_step(tmp_path) == 3


def test_soft_error_of_directions_learnt_by_their_angle_knows_no_lengths():
    register_task("mine", {"kind": "direction"})
    vectors = np.random.default_rng(1).normal(size=(2, 1, 4, 4, 3))
    lengths = np.random.default_rng(2).uniform(0.2, 5.0, (4, 4, 1))

    def predict(images):
        stretched = images * tf.constant(lengths, tf.float32)
        return {"mine": stretched, "normal": stretched}, {
            "mine": images,
            "normal": images,
        }

    values = soft_errors.soft_errors(predict, batches_of(vectors))
    assert values["validation/soft/mine"] < 1e-6
    assert values["validation/soft/normal"] > 0.1  # as it was
