"""The closed form of GradNorm against second-order tapes, and its properties."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.balancing.gradnorm import (
    NORMS,
    GradNorm,
    gradnorm_gradient,
    renormalize,
    target_norms,
)
from soka_tf.soka.balancing.rule import Observation

COUNTS = [2, 3, 5]


def random_case(n, seed):
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(n)).astype("float32")
    norms, losses, initial = random.uniform(0.1, 2.0, (3, n)).astype("float32")
    return weights, norms, losses, initial


def taped(weights, directions, losses, initial, alpha, norm):
    """L_grad of Eq. 7 and its gradient through the gradients of toy tasks.

    Task i is losses[i] + <directions[i], W> at W = 0: a loss with a known gradient.
    """
    weights, shared = tf.constant(weights), tf.zeros(directions.shape[1])
    with tf.GradientTape() as outer:
        outer.watch(weights)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(shared)
            tasks = losses + tf.linalg.matvec(directions, shared)
            weighted = tf.unstack(weights * tasks)
        norms = tf.stack([tf.norm(inner.gradient(w, shared)) for w in weighted])
        if norm == "squared_l2":
            norms = norms**2
        rates = tasks / initial
        target = tf.reduce_mean(norms) * (rates / tf.reduce_mean(rates)) ** alpha
        loss = tf.reduce_sum(tf.abs(norms - tf.stop_gradient(target)))
    return loss, outer.gradient(loss, weights)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_closed_form_equals_the_second_order_tape(norm, n, alpha):
    for seed in range(5):
        weights, _, losses, initial = random_case(n, seed)
        directions = np.random.default_rng(seed).normal(size=(n, 7)).astype("float32")
        norms = np.linalg.norm(directions, axis=1)
        loss, gradient = gradnorm_gradient(
            tf.constant(weights), norms, losses, initial, alpha, norm
        )
        expected, slopes = taped(weights, directions, losses, initial, alpha, norm)
        np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)


def test_target_norms_of_a_case_by_hand_are_as_calculated():
    # Rates 0.5 and 1 of mean 0.75; mean norm 2.
    target = target_norms(
        tf.constant([1.0, 3.0]), tf.constant([1.0, 3.0]), tf.constant([2.0, 3.0]), 2.0
    )
    np.testing.assert_allclose(target, [2 * (2 / 3) ** 2, 2 * (4 / 3) ** 2], rtol=1e-6)


def test_norm_of_unknown_kind_is_refused():
    ones = tf.ones(2)
    with pytest.raises(ValueError, match="norm must be one of .*Received: 'l3'"):
        gradnorm_gradient(ones, ones, ones, ones, 1.0, "l3")
    with pytest.raises(ValueError, match="norm must be one of .*Received: 'l3'"):
        GradNorm(2, norm="l3")


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("floor", [0.0, 0.02, 0.15])
def test_renormalize_random_weights_sums_to_one_above_the_floor(n, floor):
    random = np.random.default_rng(n)
    for scale in (0.1, 1.0, 100.0):
        weights = (scale * random.normal(0.5, 1.0, n)).astype("float32")
        weights[0] = scale  # one is above the floor
        result = renormalize(tf.constant(weights), floor).numpy()
        assert result.sum() == pytest.approx(1.0, abs=1e-6)
        assert result.min() >= floor - 1e-7
        order = random.permutation(n)
        permuted = renormalize(tf.constant(weights[order]), floor)
        np.testing.assert_allclose(permuted, result[order], atol=1e-7)
        # What it returns, it leaves alone.
        np.testing.assert_allclose(renormalize(result, floor), result, atol=1e-6)
        # Order is kept.
        assert (np.diff(result[np.argsort(weights)]) >= -1e-7).all()


def test_renormalize_without_floor_divides_by_the_sum():
    weights = np.float32([0.2, 0.5, 1.3])
    np.testing.assert_allclose(renormalize(weights, 0.0), weights / 2.0, rtol=1e-6)


def test_renormalize_all_below_the_floor_gives_equal_weights():
    weights = renormalize(tf.constant([-1.0, -2.0, 0.01]), 0.02)
    np.testing.assert_allclose(weights, np.full(3, 1 / 3), rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_weights_under_extreme_steps_stay_finite_and_above_the_floor(norm):
    state = GradNorm(3, floor=0.02, norm=norm)
    optimizer = tf.keras.optimizers.legacy.SGD(1e3)
    random = np.random.default_rng(0)
    for _ in range(30):
        losses, norms = (10.0 ** random.uniform(-6, 6, (2, 3))).astype("float32")
        state.record_initial(losses, tf.constant(True))
        state.step(Observation(losses, norms), optimizer)
        weights = state.task_weights.numpy()
        assert np.isfinite(weights).all() and weights.min() >= 0.02 - 1e-7
        assert weights.sum() == pytest.approx(1.0, abs=1e-5)


def test_step_permutes_with_the_tasks():
    weights, norms, losses, initial = random_case(5, 11)
    order = np.array([3, 0, 4, 2, 1])
    results = []
    for index in (np.arange(5), order):
        state = GradNorm(5, initial_weights=weights[index].tolist())
        state.initial_losses.assign(initial[index])
        seen = Observation(losses[index], norms[index])
        state.step(seen, tf.keras.optimizers.legacy.SGD(0.01))
        results.append(state.task_weights.numpy())
    assert np.abs(results[0] - weights).max() > 1e-3
    np.testing.assert_allclose(results[1], results[0][order], atol=1e-6)


def test_equal_tasks_are_a_fixed_point():
    state = GradNorm(4)
    for scale in (1.0, 0.5, 0.25):
        losses = tf.fill([4], scale)
        state.record_initial(losses, tf.constant(True))
        loss = state.step(
            Observation(losses, tf.fill([4], 2.0)), tf.keras.optimizers.legacy.SGD(1)
        )
        assert float(loss) == pytest.approx(0.0, abs=1e-6)
        np.testing.assert_array_equal(state.task_weights, np.full(4, 0.25))


def test_step_raises_the_weight_of_the_slow_and_of_the_weak_task():
    slow = GradNorm(2)
    slow.initial_losses.assign([1.0, 1.0])
    optimizer = tf.keras.optimizers.legacy.SGD(0.01)
    slow.step(Observation(tf.constant([0.9, 0.3]), tf.constant([1.0, 1.0])), optimizer)
    assert slow.task_weights[0] > 0.5 > slow.task_weights[1]
    weak = GradNorm(2)
    weak.initial_losses.assign([1.0, 1.0])
    weak.step(Observation(tf.constant([0.5, 0.5]), tf.constant([0.1, 2.0])), optimizer)
    assert weak.task_weights[0] > 0.5 > weak.task_weights[1]


def test_initial_losses_are_recorded_once_and_not_before_they_are_due():
    state = GradNorm(2)
    state.record_initial(tf.constant([9.0, 9.0]), tf.constant(False))
    np.testing.assert_array_equal(state.initial_losses, [0.0, 0.0])
    state.record_initial(tf.constant([1.0, 2.0]), tf.constant(True))
    state.record_initial(tf.constant([0.5, 0.6]), tf.constant(True))
    np.testing.assert_array_equal(state.initial_losses, [1.0, 2.0])


@pytest.mark.parametrize("initial", [[0.0, 0.0], [0.0, 1.0]])
def test_weights_stay_until_all_initial_losses_are_recorded(initial):
    state = GradNorm(2, initial_weights=[0.3, 0.7])
    state.initial_losses.assign(initial)
    optimizer = tf.keras.optimizers.legacy.Adam(0.1)
    losses, norms = tf.constant([0.5, 0.9]), tf.constant([1.0, 5.0])
    assert float(state.step(Observation(losses, norms), optimizer)) == 0.0
    np.testing.assert_array_equal(state.task_weights, np.float32([0.3, 0.7]))
    state.record_initial(losses, tf.constant(True))
    assert float(state.step(Observation(losses, norms), optimizer)) > 0.0
    assert abs(float(state.task_weights[0]) - 0.3) > 1e-3


def test_weights_not_trainable_never_move():
    state = GradNorm(2, adaptive=False, initial_weights=[0.3, 0.7])
    state.initial_losses.assign([1.0, 1.0])
    optimizer = tf.keras.optimizers.legacy.SGD(1.0)
    loss = state.step(
        Observation(tf.constant([0.1, 0.9]), tf.constant([1.0, 5.0])), optimizer
    )
    assert float(loss) > 0
    np.testing.assert_array_equal(state.task_weights, np.float32([0.3, 0.7]))
    assert int(optimizer.iterations) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(floor=0.5), r"floor must be in \[0, 1/2\).*Received: 0.5"),
        (dict(floor=-0.1), "Received: -0.1"),
        (dict(initial_weights=[0.5, 0.6]), "2 non-negative numbers of sum 1"),
        (dict(initial_weights=[1.0]), r"Received: \[1.0\]"),
        (dict(initial_weights=[1.5, -0.5]), "non-negative"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradNorm(2, **arguments)
