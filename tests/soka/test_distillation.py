"""Soft-target losses against their formulas."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.distillation import soft_target_loss, soft_target_losses
from soka_tf.soka.objective import Objective
from soka_tf.tasks import register_task


@pytest.fixture
def maps():
    random = np.random.default_rng(0)
    return random.uniform(-1, 1, (2, 3, 5, 4, 3)).astype("float32")


@pytest.mark.parametrize("kind, power", [("l2", 2), ("l1", 1)])
def test_loss_of_each_kind_is_the_mean_over_all_elements(maps, kind, power):
    loss = soft_target_loss(maps[0], maps[1], kind)
    expected = np.mean(np.abs(maps[0].astype("float64") - maps[1]) ** power)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind, power", [("l2", 2), ("l1", 1)])
def test_loss_with_weights_is_the_mean_where_they_are_not_zero(maps, kind, power):
    weights = np.random.default_rng(1).choice([0.0, 0.5, 1.0], (3, 5, 4, 1))
    loss = soft_target_loss(maps[0], maps[1], kind, weights)
    errors = weights * np.abs(maps[0].astype("float64") - maps[1]) ** power
    expected = errors.sum() / (3 * np.count_nonzero(weights))  # not weights.sum()
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    nowhere = soft_target_loss(maps[0], maps[1], kind, tf.zeros((3, 5, 4, 1)))
    assert float(nowhere) == 0.0
    everywhere = soft_target_loss(maps[0], maps[1], kind, tf.ones((3, 1, 1, 1)))
    plain = soft_target_loss(maps[0], maps[1], kind)
    assert float(everywhere) == pytest.approx(float(plain), rel=1e-6)


def test_loss_of_equal_maps_is_zero(maps):
    for kind in ("l2", "l1"):
        assert float(soft_target_loss(maps[0], maps[0], kind)) == 0.0


def test_loss_of_half_precision_maps_is_calculated_in_float32(maps):
    half = tf.cast(maps, tf.bfloat16)
    expected = soft_target_loss(
        tf.cast(half[0], tf.float32), tf.cast(half[1], "float32")
    )
    loss = soft_target_loss(half[0], half[1])
    assert loss.dtype == tf.float32 and float(loss) == float(expected)


def test_gradient_reaches_the_prediction_and_never_the_soft_target(maps):
    prediction, target = tf.constant(maps[0]), tf.constant(maps[1])
    with tf.GradientTape() as tape:
        tape.watch([prediction, target])
        loss = soft_target_loss(prediction, target)
    mine, teachers = tape.gradient(loss, [prediction, target])
    np.testing.assert_allclose(mine, 2 * (maps[0] - maps[1]) / maps[0].size, atol=1e-7)
    assert teachers is None


def test_losses_of_all_tasks_keep_the_order_of_the_predictions(maps):
    predictions = {"normal": maps[0], "depth_zbuffer": maps[1]}
    targets = {"depth_zbuffer": maps[1], "normal": maps[1]}
    losses = soft_target_losses(predictions, targets)
    assert list(losses) == ["normal", "depth_zbuffer"]
    assert float(losses["depth_zbuffer"]) == 0.0 < float(losses["normal"])


def test_kind_that_is_unknown_is_refused(maps):
    with pytest.raises(ValueError, match="kind must be one of .*Received: 'huber'"):
        soft_target_loss(maps[0], maps[1], "huber")


@pytest.fixture
def shares():
    """Probabilities of 3 classes: the student's, and the teacher's."""
    random = np.random.default_rng(7)
    found = random.dirichlet([1.0, 1.0, 1.0], (2, 4, 5, 4)).astype(np.float32)
    return found[0], found[1]


def test_kl_is_the_divergence_from_the_teacher_a_pixel(shares):
    student, teacher = shares
    expected = np.sum(teacher * np.log(teacher / student), -1).mean()
    loss = soft_target_loss(*map(tf.constant, shares), kind="kl")
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_bce_is_the_cross_entropy_less_the_teachers_own(shares):
    student, teacher = shares

    def entropy(p, q):
        return -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()

    expected = entropy(teacher, student) - entropy(teacher, teacher)
    loss = soft_target_loss(*map(tf.constant, shares), kind="bce")
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_cosine_knows_directions_and_no_lengths():
    first = tf.constant([[[[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]]]])
    second = tf.constant([[[[0.5, 0, 0], [1.0, 0, 0], [0, 0, -1.0]]]])
    loss = soft_target_loss(first, second, "cosine")
    assert float(loss) == pytest.approx((0 + 1 + 2) / 3)


@pytest.mark.parametrize("kind", ["bce", "kl", "cosine"])
def test_loss_of_agreement_is_its_least_and_weights_choose_pixels(shares, kind):
    student, teacher = map(tf.constant, shares)
    assert abs(float(soft_target_loss(teacher, teacher, kind))) < 1e-6
    assert float(soft_target_loss(student, teacher, kind)) > 1e-3
    weights = np.zeros((4, 5, 4, 1), np.float32)
    weights[1, 2] = 1
    one = soft_target_loss(student[1:2, 2:3], teacher[1:2, 2:3], kind)
    chosen = soft_target_loss(student, teacher, kind, tf.constant(weights))
    assert float(chosen) == pytest.approx(float(one), rel=1e-5)


@pytest.mark.parametrize("kind", ["bce", "kl", "cosine"])
def test_gradient_stays_finite_where_the_student_is_wholly_wrong(kind):
    wrong = tf.Variable([[[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]])
    right = tf.constant([[[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]])
    with tf.GradientTape() as tape:
        loss = soft_target_loss(wrong, right, kind)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, wrong)).all()


def test_losses_of_tasks_are_each_of_its_own_kind(shares):
    student, teacher = map(tf.constant, shares)
    kinds = {"b": "kl", "a": "l1"}
    losses = soft_target_losses(
        {"a": student, "b": student}, {"b": teacher, "a": teacher}, kinds
    )
    assert list(losses) == ["a", "b"]
    for task, kind in kinds.items():
        assert float(losses[task]) == float(soft_target_loss(student, teacher, kind))


def test_objective_gives_the_runs_loss_to_tasks_without_their_own():
    register_task("mine", {"kind": "direction"})
    objective = Objective(soft_loss="l2")
    names = ("depth_zbuffer", "segment_semantic", "mine", "of nobody")
    assert [objective.loss_of(name) for name in names] == ["l2", "kl", "cosine", "l2"]
