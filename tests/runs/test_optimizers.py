"""Optimizers by name and what their kinds of weight decay take off a weight."""

import sys

import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.runs.optimizers import OPTIMIZERS, make_optimizer
from tests.stacks import needs_tfa

TFA = pytest.param("tfa", marks=needs_tfa)


def after_one_step(optimizer, gradient=0.0, start=1.0):
    weight = tf.Variable([start])
    optimizer.apply_gradients([(tf.constant([gradient]), weight)])
    return float(weight[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "kind, loss",
    [
        ("none", 0.0),
        ("l2_loss", 0.0),
        pytest.param("tfa", 1e-2, marks=needs_tfa),
        ("keras", 1e-5),
    ],
)
def test_decay_of_each_kind_takes_what_the_table_says(name, kind, loss):
    optimizer = make_optimizer(name, 1e-3, 1e-2, kind)
    assert 1.0 - after_one_step(optimizer) == pytest.approx(loss, rel=0.01, abs=1e-9)


@needs_tfa
def test_decay_of_kind_tfa_follows_its_schedule():
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [1e-2, 0.0])
    optimizer = make_optimizer("sgd", 1e-3, schedule, "tfa")
    weight = tf.Variable([1.0])
    for _ in range(3):
        optimizer.apply_gradients([(tf.constant([0.0]), weight)])
    assert float(weight[0]) == pytest.approx(0.99, rel=1e-5)


def test_decay_of_kind_keras_that_is_a_schedule_is_refused():
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [1e-2, 0.0])
    with pytest.raises(UserError, match="'keras' is a number.*kind 'tfa'"):
        make_optimizer("adam", 1e-3, schedule, "keras")


@pytest.mark.parametrize("kind", ["none", TFA, "keras"])
def test_adam_with_a_tiny_gradient_moves_by_the_original_epsilon(kind):
    # 1e-8 / (1e-8 + epsilon): one half with TensorFlow 1's epsilon of 1e-8.
    optimizer = make_optimizer("adam", 1e-3, 0.0, kind)
    moved = -after_one_step(optimizer, gradient=1e-8, start=0.0)
    assert optimizer.epsilon == 1e-8
    # Keras and TFA add epsilon to the uncorrected root, which is small at step 1.
    assert 0 < moved <= 0.5e-3 * 1.01
    coarse = make_optimizer("adam", 1e-3, 0.0, kind, epsilon=1e-3)
    assert -after_one_step(coarse, gradient=1e-8, start=0.0) < 1e-3 * moved


@pytest.mark.parametrize("kind", ["none", TFA, "keras"])
def test_sgd_moves_by_rate_gradient_and_momentum(kind):
    optimizer = make_optimizer("sgd", 0.1, 0.0, kind, momentum=0.5)
    weight = tf.Variable([1.0])
    for _ in range(2):
        optimizer.apply_gradients([(tf.constant([1.0]), weight)])
    assert float(weight[0]) == pytest.approx(1.0 - 0.1 - 0.15, rel=1e-6)


@pytest.mark.parametrize("name, kind", [("lamb", "none"), ("adam", "l2")])
def test_name_that_is_unknown_is_refused_with_what_is_allowed(name, kind):
    with pytest.raises(UserError, match="'adam', 'sgd'.*'tfa', 'keras'.*Received"):
        make_optimizer(name, 1e-3, 0.0, kind)


def test_decay_of_kind_tfa_without_the_package_names_what_serves(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    with pytest.raises(UserError, match="pip install.*bind 'keras'.*or 'l2_loss'"):
        make_optimizer("adam", 1e-3, 1e-2, "tfa")


def test_decay_of_kind_keras_takes_what_tfa_does_divided_by_the_rate():
    optimizer = make_optimizer("adam", 1e-3, 1e-2 / 1e-3, "keras")
    assert 1.0 - after_one_step(optimizer) == pytest.approx(1e-2, rel=1e-4)
