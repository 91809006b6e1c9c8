"""Who moves in which phase, to the last bit; and who never does."""

import contextlib
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.model import SokaModel
from tests.soka import small

ENCODER, DECODERS, MIA, WEIGHTS, DISCRIMINATORS = (
    {"encoder"},
    {f"decoder/{t}" for t in small.TASKS},
    {"amalgamation"},
    {"task_weights"},
    {f"discriminator/{t}" for t in small.TASKS},
)
# Stage -> phase, in this order -> the players that move; all the others do not.
EXPECTED = {
    "joint": {"joint": ENCODER | DECODERS},
    "joint_with_amalgamation": {"joint": ENCODER | DECODERS | MIA},
    "joint_with_weighting": {"joint": ENCODER | DECODERS, "weighting": WEIGHTS},
    "cycle": {
        "competition": DECODERS,
        "collaboration": ENCODER | MIA,
        "weighting": WEIGHTS,
    },
    "cycle_gan": {
        "competition": DECODERS | DISCRIMINATORS,
        "collaboration": ENCODER | MIA,
        "weighting": WEIGHTS,
    },
}
OPTIMIZER_OF = {"decoder": "decoders", "discriminator": "discriminators"}


@pytest.fixture(scope="module")
def built():
    model = small.build(gan=10, initial_losses_step=100)
    return model, small.trained_state(model)


@pytest.fixture
def model(built):
    """The same model for every test, as it was built."""
    model, start = built
    small.set_state(model, start)
    return model


@contextlib.contextmanager
def watched_phases(seen):
    """Notes (phase, state before, state after) of every phase."""

    @contextlib.contextmanager
    def phase(self, name):
        before = small.trained_state(self)
        yield
        seen.append((name, before, small.trained_state(self)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SokaModel, "around_phase", phase)
        yield


def one_step(model, stage):
    """Runs a step of a stage; returns start, phases, end and the logs."""
    weighs = stage == "joint_with_weighting"
    model.schedule = dataclasses.replace(
        model.schedule,
        joint_steps=1 if stage.startswith("joint") else 0,
        joint_amalgamation=stage == "joint_with_amalgamation",
        joint_weighting=weighs,
        initial_losses_step=0 if weighs else 100,
    )
    model.step.assign(10 if stage == "cycle_gan" else 0)
    model.movement_every_steps = 1
    start, seen = small.trained_state(model), []
    with watched_phases(seen):
        size = 3 * model.batches_per_step
        images = small.batches(1, seed=len(stage), batch_size=size)
        logs = small.fit(model, images)
    return start, seen, small.trained_state(model), logs


def changed(before, after):
    return {p for p in before if not np.array_equal(before[p], after[p])}


def player_of(path):
    parts = path.split("/")
    return "/".join(parts[: 2 if parts[0] in OPTIMIZER_OF else 1])


@pytest.mark.parametrize("stage", EXPECTED)
def test_who_moves_in_every_phase_is_as_the_table_says(model, stage):
    start, seen, end, _ = one_step(model, stage)
    expected = EXPECTED[stage]
    assert [name for name, _, _ in seen] == list(expected)
    for name, before, after in seen:
        movers = expected[name]
        # Every variable and moving statistic of a mover, and nothing else.
        wanted = {p for p in before if player_of(p) in movers}
        optimizers = {
            OPTIMIZER_OF.get(player.split("/")[0], player) for player in movers
        }
        moved = changed(before, after)
        assert {
            p for p in moved if player_of(p) in set(model.players.variables)
        } == wanted
        slots = {p.split("/")[1] for p in moved if p.startswith("optimizer/")}
        assert slots == optimizers
    # Nothing moves between the phases either.
    between = [start] + [state for _, *states in seen for state in states] + [end]
    for before, after in zip(between[::2], between[1::2]):
        assert changed(before, after) <= {"step", "initial_losses"}


def test_who_moves_is_the_same_in_the_simultaneous_order():
    model = small.build(gan=10, initial_losses_step=100, order="simultaneous")
    _, seen, _, _ = one_step(model, "cycle_gan")
    assert [name for name, _, _ in seen] == list(EXPECTED["cycle_gan"])
    for name, before, after in seen:
        movers = EXPECTED["cycle_gan"][name]
        moved = {p for p in changed(before, after) if not p.startswith("optimizer/")}
        assert moved == {p for p in before if player_of(p) in movers}


@pytest.mark.parametrize("stage", EXPECTED)
def test_movement_ledger_agrees_with_the_movement(model, stage):
    _, seen, _, logs = one_step(model, stage)
    ledger = {k: v[0] for k, v in logs.items() if k.startswith("movement")}
    expected = {}
    for name, before, after in seen:
        for player in model.players.variables:
            for prefix, statistics in (
                ("movement", False),
                ("movement_statistics", True),
            ):
                paths = [
                    p
                    for p in before
                    if player_of(p) == player and ("moving_" in p) == statistics
                ]
                if paths:
                    change = norm([after[p] - before[p] for p in paths])
                    size = norm([before[p] for p in paths])
                    expected[f"{prefix}/{name}/{player}"] = change / size
    assert ledger.keys() == expected.keys()
    for name, value in expected.items():
        assert ledger[name] == pytest.approx(value, rel=1e-4, abs=0), name
        phase, player = name.split("/", 2)[1:]
        assert (value > 0) == (player in EXPECTED[stage][phase]), name


def norm(arrays):
    return np.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays))


def test_who_moves_is_the_same_with_a_batch_each_and_moving_statistics():
    model = small.build(
        gan=10,
        initial_losses_step=100,
        new_batch_in_collaboration=True,
        frozen_statistics="moving",
    )
    _, seen, _, _ = one_step(model, "cycle_gan")
    for name, before, after in seen:
        movers = EXPECTED["cycle_gan"][name]
        moved = {
            p for p in changed(before, after) if player_of(p) in model.players.variables
        }
        assert moved == {p for p in before if player_of(p) in movers}


def test_compress1_not_trained_keeps_its_weights():
    model = small.build(train_compress=False, variant=None, auxiliaries=0)
    start = small.trained_state(model)
    small.fit(model, small.batches(1))
    still = set(start) - changed(start, small.trained_state(model))
    assert {p.split("/", 2)[2] for p in still if p.startswith("encoder/")} == {
        "compress1/kernel:0",
        "compress1/BatchNorm/gamma:0",
        "compress1/BatchNorm/beta:0",
    }


def test_teachers_never_change_by_a_bit():
    model = small.build(gan=2, joint_steps=1, joint_amalgamation=True, weight_decay=0.1)
    variables = [v for t in model.teachers.teachers for v in t.variables]
    before = [v.numpy() for v in variables]
    assert len(before) > 100
    small.fit(model, small.batches(3))
    for value, variable in zip(before, variables):
        np.testing.assert_array_equal(value, variable.numpy(), variable.name)


def test_teachers_are_part_of_nothing_that_is_trained_or_saved(model, tmp_path):
    teachers = [v for t in model.teachers.teachers for v in t.variables]
    ids = {id(v) for v in teachers}
    assert not ids & {id(v) for v in model.variables}
    assert not ids & {id(v) for vs in model.players.optimized.values() for v in vs}
    assert not ids & {id(v) for vs in model.players.variables.values() for v in vs}

    # Restoring brings the student back, and leaves teachers as they are.
    checkpoint = tf.train.Checkpoint(**model.checkpoint_items(), model=model)
    path = checkpoint.write(str(tmp_path / "all"))
    before = small.trained_state(model)
    old = [v.numpy() for v in teachers]
    try:
        for v in [*teachers, *model.student.variables]:
            v.assign(tf.ones_like(v) * 7)
        checkpoint.read(path).assert_consumed()
        assert not changed(before, small.trained_state(model))
        assert all(np.all(v.numpy() == 7) for v in teachers)
    finally:
        for v, value in zip(teachers, old):
            v.assign(value)


@pytest.mark.parametrize(
    "options",
    [dict(gan=0), dict(variant=None, auxiliaries=0), dict(train_compress=False)],
    ids=["all_players", "fewest_players", "compress_fixed"],
)
def test_every_variable_belongs_to_one_player_and_one_optimizer(options):
    model = small.build(**options)
    owned = [id(v) for vs in model.players.variables.values() for v in vs]
    assert len(owned) == len(set(owned))
    moved = [id(v) for vs in model.players.optimized.values() for v in vs]
    assert len(moved) == len(set(moved))
    assert set(moved) <= set(owned)

    trainable = {id(v): v.name for v in model.trainable_variables}
    unmoved = {name for key, name in trainable.items() if key not in set(moved)}
    assert all(name.startswith("compress1") for name in unmoved)
    assert len(unmoved) == (3 if options.get("train_compress") is False else 0)
    assert set(moved) - set(trainable) == {id(model.balancing.task_weights)}

    bookkeeping = [
        model.step,
        model.balancing.initial_losses,
        model.ledger.not_finite_since,
    ]
    bookkeeping += [v for metric in model.metrics for v in metric.variables]
    bookkeeping += [
        v for optimizer in model.optimizers.values() for v in small.slots(optimizer)
    ]
    rest = {id(v): v.name for v in model.variables if id(v) not in set(owned)}
    assert not set(rest) - {id(v) for v in bookkeeping}, rest
