"""Means and deviations of the teachers' features against numpy's."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.teachers.feature_statistics import measure_features
from soka_tf.teachers.pool import TeacherPool
from tests.soka import small

TASKS = ("normal", "depth_zbuffer")
LAYERS = {"block1": ("block2", "block1"), "end": (None, "representation")}


@pytest.fixture(scope="module")
def pool():
    return TeacherPool({task: small.teacher(task) for task in TASKS})


@pytest.fixture
def batches():
    return [batch[:n] for batch, n in zip(small.batches(2, batch_size=3), (3, 2))]


def test_moments_are_those_of_all_images_and_positions(pool, batches):
    found = measure_features(pool, LAYERS, batches)
    images = tf.concat(batches, 0)
    wanted = {
        "block1": [("normal", "block2"), ("depth_zbuffer", "block1")],
        "end": [("depth_zbuffer", "representation")],
    }
    assert {k: len(v) for k, v in found.items()} == {"block1": 2, "end": 1}
    for layer, owners in wanted.items():
        for moments, (task, name) in zip(found[layer], owners):
            values = pool.run(task, images, [name])[name].numpy().astype(np.float64)
            values = values.reshape(-1, values.shape[-1])
            deviation = np.sqrt(values.var(axis=0).mean())
            # A mean near 0 is what float32 leaves of values as large as the deviation.
            np.testing.assert_allclose(
                moments.mean, values.mean(axis=0), rtol=1e-5, atol=1e-6 * deviation
            )
            assert moments.deviation == pytest.approx(deviation, rel=1e-5)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_features_that_do_not_vary_are_refused_by_name(value, pool, batches):
    class Constant(type(pool.targets["normal"])):
        def __call__(self, images, layers=None):
            said = super().__call__(images, layers)
            return {k: tf.fill(tf.shape(v), value) for k, v in said.items()}

    teacher = pool.targets["normal"]
    constant = Constant("normal", teacher.encoder, teacher.decoder)
    broken = TeacherPool({"normal": constant})
    with pytest.raises(
        UserError, match="teacher of 'normal' for the layer 'block3' do"
    ):
        measure_features(broken, ("block3",), batches)
