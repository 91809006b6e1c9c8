"""A rule from outside the package: this file is all that it takes."""

import gin
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.runs.training_loop import train
from soka_tf.soka.balancing.rule import Rule, replicated_variable


@gin.register
class LossRatio(Rule):
    """omega_i in proportion to a running mean of L_i, which the encoder hears, too."""

    shares_encoder = True

    def __init__(self, tasks, momentum=0.9):
        super().__init__()
        self.momentum = momentum
        self.means = replicated_variable([1.0] * tasks, "means")

    @property
    def task_weights(self):
        return self.means / tf.reduce_sum(self.means)

    def encoder_shares(self, seen):
        return self.means / tf.reduce_mean(self.means)

    def step(self, seen, optimizer, replicas=1):
        mean = self.momentum * self.means + (1.0 - self.momentum) * seen.losses
        self.means.assign(mean)


@pytest.mark.usefixtures("fresh_gin")
def test_rule_of_this_file_is_bound_trained_saved_and_resumed(tiny, tmp_path):
    params = ["max_steps = 3", "schedule.joint_steps = 1"]
    params += ["build_balancing.rule = @LossRatio", "LossRatio.momentum = 0.5"]
    run = tiny.build(tmp_path, *params)
    rule = run.model.balancing
    train(run, str(tmp_path))
    weights = rule.task_weights.numpy()
    assert abs(weights[0] - weights[1]) > 1e-3 and abs(weights.sum() - 1) < 1e-6
    rows = (tmp_path / "metrics.csv").read_text()
    assert "encoder_share/depth_zbuffer" in rows and "gradient_norm" not in rows
    rule.means.assign([9.0, 9.0])
    train(run, str(tmp_path))  # restores the last step
    assert abs(rule.task_weights.numpy() - weights).max() == 0
    assert "LossRatio.momentum = 0.5" in run.config


@pytest.mark.usefixtures("fresh_gin")
def test_what_is_no_rule_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="build_balancing.rule .*Received: 'upgrad'"):
        tiny.build(tmp_path, "build_balancing.rule = 'upgrad'")
    with pytest.raises(UserError, match="UPGrad.regularization .*Received: 9"):
        binding = "UPGrad.regularization = 9.0"
        tiny.build(tmp_path, "build_balancing.rule = @UPGrad", binding)
