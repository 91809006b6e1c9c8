"""A variant of MIA from outside the package: this file is all that it takes."""

import gin
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.runs.training_loop import train
from soka_tf.soka.variants import AmalgamationLosses, Variant, unit_deviation


@gin.register
class Cosine(Variant):
    """1 - cos between student and sigma; W and C learn to be near every teacher."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def losses(self, amalgamate, teachers, student, weights):
        teachers = unit_deviation(teachers)
        sigma = amalgamate(teachers)
        own = [
            weight * tf.reduce_mean(tf.square(sigma - activation))
            for weight, activation in zip(weights, teachers)
        ]
        angle = tf.keras.losses.cosine_similarity(student, tf.stop_gradient(sigma))
        return AmalgamationLosses(
            self.scale * (1.0 + tf.reduce_mean(angle)), tf.add_n(own)
        )


@pytest.mark.usefixtures("fresh_gin")
def test_variant_of_this_file_is_bound_and_trains(tiny, tmp_path):
    params = ["max_steps = 3", "schedule.joint_steps = 1", "Cosine.scale = 0.5"]
    params += ["build_amalgamation.variant = @Cosine"]
    run = tiny.build(tmp_path, *params)
    variables = run.model.amalgamation.trainable_variables
    assert not [v for v in variables if "V1" in v.name]
    before = [v.numpy() for v in variables]
    train(run, str(tmp_path))
    assert all((v.numpy() != b).any() for v, b in zip(variables, before))
    assert "Cosine.scale = 0.5" in run.config
    assert "build_amalgamation.variant = @Cosine" in run.config
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(",")))
    assert 0 < float(last["loss/transfer"]) < 2 * 0.5 * 2
    assert float(last["loss/amalgamation"]) != float(last["loss/transfer"])


@gin.register
def no_variant():
    return {}


@pytest.mark.usefixtures("fresh_gin")
def test_what_is_no_variant_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="build_amalgamation: variant .*Received: {}"):
        tiny.build(tmp_path, "build_amalgamation.variant = @no_variant")
