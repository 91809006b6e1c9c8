"""The last steps of a run, with BatchNorm's moving statistics."""

import numpy as np
import pytest

from soka_tf.soka.schedule import Schedule
from tests.soka import small

ALL = dict(max_steps=9, settle_share=1.0)  # of the steps


def statistics_and_weights_moved(before, after):
    moved = {path for path, d in small.differences(before, after).items() if d > 0}
    statistics = {path for path in moved if "moving_" in path}
    weights = {path for path in moved if "kernel" in path and "optimizer" not in path}
    return statistics, weights


@pytest.mark.parametrize("stage", [{"joint_steps": 9}, {}, {"gan": 0}])
def test_settled_step_moves_weights_and_no_statistic(stage):
    model = small.build(**ALL, **stage)
    before = small.trained_state(model)
    small.fit(model, small.batches(1))
    statistics, weights = statistics_and_weights_moved(
        before, small.trained_state(model)
    )
    assert not statistics
    assert any(path.startswith("encoder") for path in weights)
    assert any(path.startswith("decoder") for path in weights)


def test_steps_before_settling_move_the_statistics():
    model = small.build(max_steps=2, settle_share=0.5)
    before = small.trained_state(model)
    images = small.batches(2)
    small.fit(model, images[:1])
    between = small.trained_state(model)
    assert statistics_and_weights_moved(before, between)[0]
    small.fit(model, images[1:])
    assert not statistics_and_weights_moved(between, small.trained_state(model))[0]


def test_settled_losses_are_those_of_the_student_in_use():
    model = small.build(**ALL, joint_steps=9)
    images = small.batches(1)
    predictions = model.student(images[0], training=False)
    taught = model.teachers(images[0])
    logs = small.fit(model, images)
    for task in model.tasks:
        expected = np.mean((predictions[task] - taught.maps[task]) ** 2)
        assert logs[f"loss/soft/{task}"][-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_impossible_share_is_refused_by_name(share):
    with pytest.raises(ValueError, match="settle_share.*Received"):
        Schedule(settle_share=share, max_steps=100)
