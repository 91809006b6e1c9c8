"""Properties of every rule; a new one is added to RULES."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka import balancing
from soka_tf.soka.balancing.fixed import Fixed
from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.balancing.rule import Observation, Rule
from soka_tf.soka.balancing.uncertainty import LARGEST_LOG_SCALE, Uncertainty
from soka_tf.soka.balancing.upgrad import UPGrad
from soka_tf.soka.ledger import PHASES
from tests.soka import small


class GradNormOfActivations(GradNorm):
    def __init__(self, tasks):
        super().__init__(tasks, layer="representation")


RULES = (Fixed, GradNorm, GradNormOfActivations, Uncertainty, UPGrad)
SUM_TO_ONE = (Fixed, GradNorm, GradNormOfActivations, UPGrad)
every_rule = pytest.mark.parametrize("make", RULES)
SGD = tf.keras.optimizers.legacy.SGD


def seen(rule, losses, jacobian):
    """What a rule needs of losses [n] and pulls [n, d], and no more."""
    losses, jacobian = np.float32(losses), np.float32(jacobian)
    norms, gram = np.linalg.norm(jacobian, axis=1), jacobian @ jacobian.T
    return Observation(
        tf.constant(losses),
        tf.constant(norms) if "norms" in rule.needs else None,
        tf.constant(gram) if "gram" in rule.needs else None,
    )


def take_step(rule, losses, jacobian, rate=0.01):
    """Records, shares and steps, as a cycle does; returns weights and shares."""
    one = seen(rule, losses, jacobian)
    shares = rule.encoder_shares(one)
    rule.record_initial(one.losses, tf.constant(True))
    loss = rule.step(one, SGD(rate) if rule.optimized else None)
    assert (loss is not None) == bool(rule.loss_name)
    assert loss is None or loss.shape == [] and np.isfinite(loss)
    assert (shares is not None) == rule.shares_encoder
    weights = tf.convert_to_tensor(rule.task_weights)
    assert weights.shape == one.losses.shape and weights.dtype == tf.float32
    return weights.numpy(), np.ones(len(weights)) if shares is None else shares.numpy()


def test_every_module_of_the_folder_is_in_the_list():
    folder = pathlib.Path(balancing.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "rule"}
    listed = {base.__module__.split(".")[-1] for rule in RULES for base in rule.mro()}
    assert modules == listed & modules and modules


@every_rule
def test_weights_under_any_steps_are_finite_and_positive(make):
    rule, random = make(3), np.random.default_rng(0)
    for _ in range(30):
        losses = 10.0 ** random.uniform(-6, 6, 3)
        jacobian = random.normal(size=(3, 4)) * 10.0 ** random.uniform(-6, 6, (3, 1))
        weights, shares = take_step(rule, losses, jacobian, rate=1e3)
        for values in (weights, shares):
            assert np.isfinite(values).all() and values.min() > 0
        if make in SUM_TO_ONE:
            assert weights.sum() == pytest.approx(1.0, abs=1e-5)


@every_rule
@pytest.mark.parametrize("n", [2, 5])
def test_weights_and_shares_permute_with_the_tasks(make, n):
    random = np.random.default_rng(n)
    order = np.roll(np.arange(n), 1)
    rules = make(n), make(n)
    for _ in range(3):
        losses, jacobian = random.uniform(0.1, 2.0, n), random.normal(size=(n, n + 1))
        jacobian[0] = 0.5 * jacobian[0] - 2.0 * jacobian[1]
        weights, shares = take_step(rules[0], losses, jacobian, 0.05)
        others = take_step(rules[1], losses[order], jacobian[order], 0.05)
        np.testing.assert_allclose(others[0], weights[order], atol=1e-6)
        np.testing.assert_allclose(others[1], shares[order], atol=1e-5)
    if rules[0].learns:
        assert np.ptp(weights) > 1e-3
    if make is UPGrad:
        assert np.ptp(shares) > 1e-2


@every_rule
def test_equal_tasks_that_do_not_conflict_stay_equal(make):
    rule = make(4)
    for scale in (1.0, 0.5, 0.25):
        weights, shares = take_step(rule, np.full(4, scale), scale * np.eye(4))
        np.testing.assert_allclose(weights, np.full(4, weights[0]), rtol=1e-6)
        np.testing.assert_allclose(shares, np.ones(4), rtol=1e-6)


@every_rule
def test_losses_and_pulls_of_zero_leave_everything_finite(make):
    for losses, jacobian in (
        (np.zeros(3), np.zeros((3, 5))),
        ([0.0, 1.0, 2.0], np.diag([0.0, 1.0, 2.0])),
        ([1.0, 1.0, 1.0], np.float32([[1, 0], [-1, 0], [0, 0]])),
    ):
        rule = make(3)
        for _ in range(3):
            for values in take_step(rule, losses, jacobian):
                assert np.isfinite(values).all() and values.min() > 0


@every_rule
def test_one_task_has_all_the_encoder(make):
    weights, shares = take_step(make(1), [0.3], [[1.0, -2.0]])
    assert shares == pytest.approx([1.0]) and weights > 0


@every_rule
def test_weights_begin_at_one_over_n_and_only_step_moves_them(make):
    rule = make(5)
    start = tf.convert_to_tensor(rule.task_weights).numpy()
    np.testing.assert_allclose(start, np.full(5, 0.2), rtol=1e-6)
    one = seen(rule, [0.1, 0.2, 0.3, 0.4, 0.5], np.eye(5))
    rule.encoder_shares(one)
    rule.record_initial(one.losses, tf.constant(True))
    np.testing.assert_array_equal(tf.convert_to_tensor(rule.task_weights), start)


@pytest.mark.parametrize("make", [r for r in RULES if r(2).learns])
def test_replicas_that_sum_their_gradients_move_as_one(make):
    ends = []
    for replicas in (1, 2):
        rule = make(2)
        one = seen(rule, [0.2, 0.9], [[1.0, 0.0], [0.5, 2.0]])
        rule.record_initial(one.losses, tf.constant(True))
        rule.step(one, SGD(0.01 * replicas), replicas)
        ends.append(tf.convert_to_tensor(rule.task_weights).numpy())
    assert np.ptp(ends[0]) > 1e-3
    np.testing.assert_allclose(*ends, rtol=1e-6)


@every_rule
def test_rule_is_described_as_the_model_reads_it(make):
    rule = make(3)
    assert isinstance(rule, Rule) and rule.needs <= {"norms", "gram"}
    assert rule.loss_name is None or PHASES[rule.loss_name] == "weighting"
    assert not rule.trainable_variables  # an optimizer of networks passes them over
    assert all(v.aggregation == tf.VariableAggregation.MEAN for v in rule.variables)
    assert rule.optimized or not rule.learns


@every_rule
@pytest.mark.parametrize("joint_steps", [0, 1])
def test_rule_in_a_step_moves_its_own_variables_alone(make, joint_steps):
    options = dict(joint_steps=joint_steps, initial_losses_step=0)
    model = small.build(
        rule=make, joint_weighting=True, variant=None, auxiliaries=0, **options
    )
    model.movement_every_steps = 1
    # Twice: with the first losses every task has the same training rate.
    logs = small.fit(model, small.batches(1))
    model.step.assign(0)
    logs = small.fit(model, small.batches(1, seed=1))
    moved = {
        name.split("/")[1]
        for name, value in logs.items()
        if name.endswith("/task_weights") and value[0] > 0
    }
    assert moved == ({"weighting"} if model.balancing.learns else set())
    assert ("task_weights" in model.optimizers) == bool(model.balancing.optimized)
    task = model.tasks[0]
    assert (f"gradient_norm/{task}" in logs) == bool(model.balancing.needs)
    assert (f"encoder_share/{task}" in logs) == model.balancing.shares_encoder
    losses = {name for name in ("loss/gradnorm", "loss/weighting") if name in logs}
    assert losses == {model.balancing.loss_name} - {None}
    assert model.ledger.first_not_finite() == {}


@pytest.mark.parametrize("make", [Uncertainty, UPGrad])
def test_rule_that_shares_the_encoder_refuses_other_weights_of_it(make):
    name = make.__name__.lower()
    with pytest.raises(ValueError, match=f"'{name}' weights .*Received.*Bind False"):
        small.build(rule=make, weighted_collaboration=True)


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.0], [1.5, -0.5]])
def test_fixed_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be 2 non-neg.*Received: "):
        Fixed(2, weights)


def test_fixed_weights_are_those_given():
    np.testing.assert_allclose(Fixed(2, [0.3, 0.7]).task_weights, [0.3, 0.7], rtol=1e-6)


def test_uncertainty_ends_where_every_scale_is_its_loss():
    rule, losses = Uncertainty(3), np.float32([0.02, 0.5, 1.7])
    optimizer = SGD(0.1)
    for _ in range(300):
        rule.step(Observation(tf.constant(losses)), optimizer)
    np.testing.assert_allclose(rule.log_scales, np.log(losses), atol=1e-4)
    np.testing.assert_allclose(rule.task_weights * losses, np.ones(3), rtol=1e-4)
    shares = rule.encoder_shares(Observation(tf.constant(losses)))
    np.testing.assert_allclose(shares, 3 / losses / np.sum(1 / losses), rtol=1e-3)


def test_uncertainty_of_a_loss_that_is_zero_for_ever_stops_at_a_bound():
    rule = Uncertainty(2)
    for _ in range(20):
        rule.step(Observation(tf.constant([0.0, 1.0])), SGD(1.0))
    np.testing.assert_allclose(rule.log_scales, [-LARGEST_LOG_SCALE, 0.0], atol=1e-3)
