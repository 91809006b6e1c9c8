"""float16: every optimizer scales its loss, and an overflow is left out."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.precision import compute_in
from soka_tf.soka.balancing.uncertainty import Uncertainty
from soka_tf.soka.balancing.upgrad import UPGrad
from tests import smooth
from tests.soka import small
from tests.soka.test_movement import EXPECTED

LossScaleOptimizer = tf.keras.mixed_precision.LossScaleOptimizer


def build(precision, optimizers=None, **options):
    # Rounding to float16 meets a kink at once, and each processor rounds otherwise.
    with compute_in(precision), smooth.activations():
        return small.build(
            joint_steps=1, gan=1, optimizers=optimizers, **DECAY, **options
        )


def scaling_optimizers(scale):
    return {
        player: LossScaleOptimizer(optimizer, initial_scale=scale)
        for player, optimizer in small.sgd_optimizers().items()
    }


DECAY = {"weight_decay": 1e-3}
NORM = "gradient_norm/"


@pytest.fixture(scope="module")
def half():
    model = build("mixed_float16")
    start = small.trained_state(model)
    small.fit(model, small.batches(4))  # the scales find their size
    return model, start


@pytest.mark.parametrize("step, stage", [(0, "joint"), (1, "cycle_gan")])
def test_step_in_float16_is_that_of_float32_and_moves_who_should(half, step, stage):
    model, start = half
    images = small.batches(1)
    logs = {}
    full = build("float32")
    assert not isinstance(full.optimizers["encoder"], LossScaleOptimizer)
    for name, model in (("float32", full), ("float16", half[0])):
        small.set_state(model, start)
        model.step.assign(step)
        model.movement_every_steps = 1
        logs[name] = small.fit(model, images)
    kinds = {type(optimizer) for optimizer in model.optimizers.values()}
    assert all(issubclass(kind, LossScaleOptimizer) for kind in kinds)
    norms = [value for name, (value,) in logs["float32"].items() if NORM in name]
    for name, (value,) in logs["float32"].items():
        # GradNorm's loss is a difference of norms, and has their error.
        error = 0.03 * (sum(norms) if name == "loss/gradnorm" else abs(value))
        other = logs["float16"][name][0]
        assert other == pytest.approx(value, rel=0, abs=max(error, 1e-5)), name
        if name.startswith("movement/"):
            phase, player = name.split("/", 2)[1:]
            assert (other > 0) == (player in EXPECTED[stage][phase]), name
    assert model.ledger.first_not_finite() == {}
    assert {v.dtype for vs in model.players.variables.values() for v in vs} == {
        tf.float32
    }


def test_overflow_is_left_out_lowers_the_scale_and_spoils_nothing(half):
    model, start = half
    small.set_state(model, start)
    model.movement_every_steps = 0
    huge = scaling_optimizers(2.0**60)
    model.compile(huge, run_eagerly=True)
    images = small.batches(2)
    # Joint, then a cycle: nobody moves, but who passed the batch has its statistics.
    for step, players in (
        (0, {"encoder", "decoders"}),
        (1, set(huge) - {"adapter"}),  # this model has none
    ):
        scales = {player: float(o.loss_scale) for player, o in huge.items()}
        logs = small.fit(model, images[step : step + 1])
        assert all(np.isfinite(v).all() for v in logs.values())
        for player, optimizer in huge.items():
            fell = 0.5 if player in players else 1.0
            assert float(optimizer.loss_scale) == fell * scales[player], player
    end = small.trained_state(model)
    for path, value in start.items():
        if path.startswith(("optimizer/", "step", "initial")) or "moving_" in path:
            continue
        np.testing.assert_array_equal(value, end[path], path)
    assert model.ledger.first_not_finite() == {}


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("rule", [UPGrad, Uncertainty])
def test_rule_that_shares_the_encoder_sees_pulls_without_their_scale(rule, step):
    options = dict(
        rule=rule, joint_weighting=True, tasks=(*small.TASKS, "edge_texture")
    )
    logs = {}
    for precision, scale in (
        ("float32", None),
        ("mixed_float16", 2.0**7),
        ("mixed_float16", 2.0**60),
    ):
        optimizers = scaling_optimizers(scale) if scale else None
        model = build(precision, optimizers, **options)
        model.step.assign(step)
        start = small.trained_state(model)
        logs[scale] = small.fit(model, small.batches(1))
        far = small.differences(start, small.trained_state(model))
        moved = {path.split("/")[0] for path, size in far.items() if size > 0}
        weights = {p for p in far if p.startswith("encoder/") and "moving_" not in p}
        assert any(far[p] for p in weights) == (scale != 2.0**60)
        assert ("task_weights" in moved) == model.balancing.learns
        assert model.ledger.first_not_finite() == {}
        assert all(np.isfinite(value).all() for value in logs[scale].values())
    seen = [n for n in logs[None] if n.startswith(("encoder_share", "gradient_norm"))]
    assert len(seen) == len(model.tasks) * (2 if model.balancing.needs else 1)
    for name in seen:
        near = pytest.approx(logs[None][name][0], rel=0.03)
        assert logs[2.0**7][name][0] == near, name


def test_scale_is_saved_with_its_optimizer(half, tmp_path):
    model, _ = half
    optimizer = model.optimizers["decoders"]
    path = tf.train.Checkpoint(**model.checkpoint_items()).write(str(tmp_path / "all"))
    names = [name for name, _ in tf.train.list_variables(path)]
    saved = [n for n in names if "loss_scale/current_loss_scale" in n]
    assert len(saved) == len(model.optimizers)
    assert isinstance(optimizer, LossScaleOptimizer)
