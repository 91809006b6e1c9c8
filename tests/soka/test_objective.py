"""The settings of Eqs. 5 and 8."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.objective import Objective


@pytest.mark.parametrize(
    "curve, expected",
    [("linear", [0.1, 0.3, 0.5, 0.9, 0.9]), ("cosine", [0.1, 0.217157, 0.5, 0.9, 0.9])],
)
def test_soft_weight_goes_to_its_end_and_stays(curve, expected):
    objective = Objective(
        soft_weight=0.1,
        final_soft_weight=0.9,
        soft_weight_steps=40,
        soft_weight_curve=curve,
    )
    steps = tf.constant([0, 10, 20, 40, 1000], tf.int64)
    np.testing.assert_allclose(objective.soft_weight_at(steps), expected, rtol=1e-5)
    assert objective.grows


def test_soft_weight_that_stays_is_the_number_itself():
    objective = Objective(soft_weight=0.05, soft_weight_steps=10)
    assert objective.soft_weight_at(tf.constant(7)) == 0.05
    assert isinstance(objective.soft_weight_at(tf.constant(7)), float)


def test_growth_without_steps_is_refused():
    with pytest.raises(ValueError, match="final_soft_weight = 1.0.*soft_weight_steps"):
        Objective(final_soft_weight=1.0)
