"""UPGrad's projections: against non-negative least squares, and what they are for."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.balancing.rule import Observation
from soka_tf.soka.balancing.upgrad import UPGrad, projections
from tests.soka.reference import upgrad_shares


def jacobians(n, seed):
    """Pulls of many kinds: of any size, few dimensions, all but opposed."""
    random = np.random.default_rng(seed)
    free = random.normal(size=(n, n + 1))
    axis = np.outer(random.choice([-1.0, 1.0], n), random.normal(size=n + 1))
    yield free
    yield free * 10.0 ** random.uniform(-2, 2, (n, 1))
    yield free[:, : max(1, n // 2)]
    yield axis + 0.05 * free
    yield axis


def shares_of(jacobian, regularization=1e-4):
    gram = np.float32(jacobian @ jacobian.T)
    rule = UPGrad(len(jacobian), regularization)
    return rule.encoder_shares(Observation(tf.zeros(len(jacobian)), gram=gram)).numpy()


@pytest.mark.parametrize("n", [2, 3, 6])
def test_shares_agree_with_non_negative_least_squares(n):
    conflicts = 0
    for seed in range(10):
        for jacobian in jacobians(n, seed):
            shares = shares_of(jacobian)
            expected = upgrad_shares(jacobian, 1e-4)
            np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-4)
            conflicts += expected.max() > 1.1
    assert conflicts > 10


@pytest.mark.parametrize("n", [2, 3, 6, 12])
def test_step_conflicts_with_no_task(n):
    plain = 0.0
    for seed in range(10):
        for jacobian in jacobians(n, seed):
            jacobian /= np.linalg.norm(jacobian)
            shares = shares_of(jacobian, 1e-6)
            gram = jacobian @ jacobian.T
            plain = min(plain, (gram @ np.ones(n)).min())
            # At the minimum (G + 1e-6 I) v >= 0; the rest is rounding of float32.
            assert (gram @ shares >= -1e-6 * shares - 1e-6 * shares.max()).all()
            assert (gram @ shares).min() > -2e-3
    assert plain < -0.1  # the sum of the pulls does conflict


def test_projection_of_two_opposed_pulls_by_hand_is_as_calculated():
    # g = (1, 0), (-1, 1): each loses its part against the other, as in PCGrad.
    jacobian = np.float64([[1.0, 0.0], [-1.0, 1.0]])
    weights = projections(tf.constant(jacobian @ jacobian.T), 1e-6).numpy()
    np.testing.assert_allclose(weights, [[1.0, 0.5], [1.0, 1.0]], atol=1e-5)
    np.testing.assert_allclose(weights @ jacobian, [[0.5, 0.5], [0.0, 1.0]], atol=1e-5)


@pytest.mark.parametrize("scales", [[1.0, 1.0, 1.0], [1e-3, 1.0, 1e3], [0.0, 0.0, 2.0]])
def test_pulls_that_do_not_conflict_have_shares_of_one(scales):
    orthogonal = np.diag(scales)
    np.testing.assert_allclose(shares_of(orthogonal), np.ones(3), rtol=1e-6)
    agreeing = np.outer(scales, [1.0, 2.0])
    np.testing.assert_allclose(shares_of(agreeing), np.ones(3), rtol=1e-6)


def test_shares_do_not_depend_on_the_scale_of_all_pulls():
    jacobian = next(jacobians(4, seed=3))
    for scale in (1e-6, 1e6):
        np.testing.assert_allclose(
            shares_of(scale * jacobian), shares_of(jacobian), rtol=1e-4
        )


def test_graph_computes_what_is_computed_eagerly():
    jacobian = next(jacobians(4, seed=1))
    gram = tf.constant(jacobian @ jacobian.T)
    traced = tf.function(lambda g: projections(g, 1e-4), autograph=False)
    np.testing.assert_allclose(traced(gram), projections(gram, 1e-4), rtol=1e-9)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_pulls_that_are_not_finite_give_shares_that_are_not(wrong):
    gram = np.float32([[1.0, wrong], [wrong, 1.0]])
    assert np.isnan(UPGrad(2).encoder_shares(Observation(tf.zeros(2), gram=gram))).all()


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1e-9, 2.0, float("nan")])
def test_regularization_that_is_impossible_is_refused(wrong):
    with pytest.raises(
        ValueError, match=r"regularization must be a number .*Received: "
    ):
        UPGrad(2, wrong)
