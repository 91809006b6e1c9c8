"""Stages, `fit`, logs, resuming and what SokaModel refuses."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.model import SokaModel
from soka_tf.soka.objective import Objective
from tests.soka import small
from tests.stacks import DECOUPLED_DECAY

JOINT_LOGS = {f"{k}/{t}" for k in ("loss/soft", "task_weight") for t in small.TASKS}
CYCLE_LOGS = JOINT_LOGS | {f"gradient_norm/{t}" for t in small.TASKS}
CYCLE_LOGS |= {"loss/transfer", "loss/amalgamation", "loss/gradnorm"}
GAN_LOGS = CYCLE_LOGS | {
    f"{kind}/{t}"
    for kind in ("loss/generator", "loss/discriminator", "accuracy/discriminator")
    for t in small.TASKS
}


class StepLogs(tf.keras.callbacks.Callback):
    """Keeps every step's logs and the host's idea of the stage."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(dict(logs))


def fit(model, images):
    logs = StepLogs()
    model.fit(small.dataset(images), verbose=0, callbacks=[logs])
    return logs.steps


@pytest.fixture(scope="module")
def graph_model():
    """Joint in step 0, cycle in step 1, cycle_gan from step 2 on; traced."""
    model = small.build(joint_steps=1, gan=2, run_eagerly=False)
    return model, small.trained_state(model)


def test_stage_at_every_boundary_is_that_of_the_settings():
    model = small.build(joint_steps=3, gan=5)
    stages = [model.stage_at(step) for step in range(7)]
    assert stages == ["joint"] * 3 + ["cycle"] * 2 + ["cycle_gan"] * 2
    model.adversary = None
    assert model.stage_at(10**9) == "cycle"


def test_fit_over_the_stages_logs_their_keys_and_traces_each_once(graph_model):
    model, start = graph_model
    small.set_state(model, start)
    images = small.batches(3)
    steps = fit(model, images)
    assert [set(step) for step in steps] == [JOINT_LOGS, CYCLE_LOGS, GAN_LOGS]
    assert int(model.step) == 3
    # One stage after the other, taken up at each step: nothing is traced again.
    resumed = small.trained_state(model)
    small.set_state(model, start)
    eager = small.build(joint_steps=1, gan=2)
    for batch in images:
        small.set_state(eager, small.trained_state(model))
        fit(model, batch[None])
        # The same step run eagerly ends in the same state.
        fit(eager, batch[None])
        traced = small.trained_state(model)
        far = small.differences(traced, small.trained_state(eager))
        assert max(far.values()) < 1e-5, max(far, key=far.get)
    far = small.differences(traced, resumed)
    assert max(far.values()) < 1e-4, max(far, key=far.get)
    assert set(model._compiled_steps) == {
        (stage, True, False, False) for stage in ("joint", "cycle", "cycle_gan")
    }
    for function in model._compiled_steps.values():
        assert function.experimental_get_tracing_count() == 1


def test_fit_starts_at_the_step_of_the_variable():
    model = small.build(joint_steps=2, variant=None, auxiliaries=0)
    model.step.assign(1)
    steps = fit(model, small.batches(2))
    assert ["loss/gradnorm" in step for step in steps] == [False, True]
    assert int(model.step) == 3


def test_movement_every_steps_logs_movement_on_these_steps_only():
    model = small.build(joint_steps=10, variant=None, auxiliaries=0)
    model.movement_every_steps = 2
    model.step.assign(3)
    steps = fit(model, small.batches(3))
    moved = [any(k.startswith("movement/") for k in step) for step in steps]
    assert moved == [False, True, False]
    expected = {"movement/joint/task_weights"}
    for player in ("encoder", *(f"decoder/{t}" for t in small.TASKS)):
        expected |= {
            f"movement/joint/{player}",
            f"movement_statistics/joint/{player}",
        }
    assert {k for k in steps[1] if k.startswith("movement")} == expected
    assert steps[1]["movement/joint/encoder"] > 0
    assert steps[1]["movement/joint/task_weights"] == 0


def test_logs_of_an_epoch_are_means_over_its_steps():
    model = small.build(joint_steps=10, variant=None, auxiliaries=0)
    start = small.trained_state(model)
    images = small.batches(2)
    singles = [small.fit(model, batch[None]) for batch in images]
    small.set_state(model, start)
    both = small.fit(model, images)
    for name in JOINT_LOGS:
        mean = np.mean([single[name][0] for single in singles])
        assert both[name][0] == pytest.approx(mean, rel=1e-4), name


def test_nothing_but_rgb_of_a_batch_is_read():
    model = small.build(joint_steps=1, variant=None, auxiliaries=0)
    start, image = small.trained_state(model), small.batches(1)
    small.fit(model, image)
    end = small.trained_state(model)
    small.set_state(model, start)
    nan = np.full((1, 3, small.SIZE, small.SIZE, 1), np.nan, "float32")
    batch = {"rgb": image, **{task: nan for task in small.TASKS}, "mask": nan}
    model.fit(tf.data.Dataset.from_tensor_slices(batch), verbose=0)
    assert not any(small.differences(end, small.trained_state(model)).values())


def test_compile_creates_all_slots_and_leaves_the_weights():
    for kind in ("none", DECOUPLED_DECAY):
        model = small.build(gan=0)
        before = small.trained_state(model)
        model.compile(small.sgd_optimizers(kind), run_eagerly=True)
        after = small.trained_state(model)
        for path, value in before.items():
            if not path.startswith("optimizer/"):
                np.testing.assert_array_equal(value, after[path], path)
        for player, variables in model.players.optimized.items():
            optimizer = model.optimizers[player]
            # The counter and one momentum a variable.
            assert len(small.slots(optimizer)) == 1 + len(variables), player
            assert int(optimizer.iterations) == 0
        small.fit(model, small.batches(1))
        assert list(small.trained_state(model)) == list(after)  # no slot came late


def test_compile_without_an_optimizer_of_a_player_is_refused():
    model = small.build(auxiliaries=0)
    optimizers = small.sgd_optimizers()
    del optimizers["amalgamation"], optimizers["decoders"]
    with pytest.raises(ValueError, match=r"Missing: \['amalgamation', 'decoders'\]"):
        model.compile(optimizers)


def test_impossible_settings_are_refused():
    model = small.build(auxiliaries=0, variant=None)
    with pytest.raises(ValueError, match="soft_loss must be one of .*'huber'"):
        Objective(soft_loss="huber")
    turned = small.build(tasks=small.TASKS[::-1], auxiliaries=0, variant=None)
    with pytest.raises(ValueError, match="the same tasks in the same order"):
        SokaModel(model.student, turned.teachers, GradNorm(2))


def test_first_not_finite_names_terms_in_the_order_of_their_making():
    model = small.build(joint_steps=1, gan=2)
    images = small.batches(3)
    start = small.trained_state(model)
    fit(model, images)
    assert model.ledger.first_not_finite() == {}
    small.set_state(model, start)
    images[1, 0, 0, 0, 0] = np.nan
    fit(model, images)
    found = model.ledger.first_not_finite()
    assert min(found.values()) == 1
    # The decoders meet it first; what the next stage alone computes follows.
    first = f"loss/competition/{small.TASKS[0]}"
    assert next(iter(found)) == first
    assert model.phase_of(first, found[first]) == "competition"
    assert model.phase_of("loss/gradnorm", 1) == "weighting"
    last = f"loss/discriminator/{small.TASKS[1]}"
    assert list(found)[-1] == last and found[last] == 2
    assert list(found.values()) == sorted(found.values())
    assert {f"loss/soft/{t}" for t in small.TASKS} <= set(found)

    # A joint step has one phase, and a new `fit` forgets.
    small.set_state(model, start)
    fit(model, images[1:2])
    found = model.ledger.first_not_finite()
    assert set(found) == {f"loss/soft/{t}" for t in small.TASKS}
    assert {model.phase_of(term, step) for term, step in found.items()} == {"joint"}


def test_phases_cover_every_log():
    model = small.build(gan=0)
    assert GAN_LOGS <= set(model.ledger.terms)
    for term in model.ledger.terms:
        assert model.phase_of(term, 0) in ("competition", "collaboration", "weighting")
