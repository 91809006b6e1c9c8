"""The shared cycle against the plain one of reference.py."""

import pytest

from soka_tf.networks import winograd
from tests.soka import reference, small

THREE = (*small.TASKS, "edge_texture")
CASES = {
    "plain": dict(),
    "three_tasks_two_auxiliaries": dict(
        tasks=THREE,
        auxiliaries=2,
        variant="normalized",
        weighted_collaboration=True,
        weight_decay=1e-2,
    ),
    "literal_without_auxiliary": dict(
        auxiliaries=0, variant="literal", train_compress=False
    ),
    "outer_product_gan": dict(
        variant="outer_product",
        gan=1,
        weight_decay=1e-2,
        gradnorm=dict(norm="squared_l2", alpha=0.5),
    ),
    "no_amalgamation": dict(
        auxiliaries=0,
        variant=None,
        gan=0,
        soft_loss="l1",
        gradnorm=dict(trainable_weights=False),
    ),
    "new_batch": dict(new_batch_in_collaboration=True, gan=1),
    "moving_statistics": dict(frozen_statistics="moving", gan=1),
    "all_choices": dict(
        new_batch_in_collaboration=True,
        frozen_statistics="moving",
        gradnorm=dict(layer="representation"),
        weighted_collaboration=True,
    ),
    "norms_of_activations": dict(gradnorm=dict(layer="representation"), gan=1),
    "adam": dict(optimizers="adam", weighted_collaboration=True),
}
MOVED = ("encoder/", "decoder/normal/", "optimizer/encoder/")


def plain_cycle(model, batch):
    adversary = model.adversary
    adversarial = adversary is not None and int(model.step) >= adversary.start_step
    if model.new_batch_in_collaboration:
        reference.cycle(model, batch[::2], adversarial, batch[1::2])
    else:
        reference.cycle(model, batch, adversarial)


def assert_every_step_is_equal(model, plain_step, steps, tolerance=1e-5):
    """Takes steps both ways, each from where the plain way has come to.

    From a common start, that is: networks of ReLUs, left alone, turn a difference of
    rounding into one that can be seen within a few steps.
    """
    for batch in small.batches(steps, batch_size=3 * model.batches_per_step):
        start = small.trained_state(model)
        small.fit(model, batch[None])
        shared = small.trained_state(model)
        small.set_state(model, start)
        plain_step(model, batch)
        plain = small.trained_state(model)

        far = small.differences(shared, plain)
        assert not {path: size for path, size in far.items() if not size <= tolerance}
        moved = small.differences(shared, start)  # else equality would say nothing
        for prefix in MOVED:
            assert max(d for p, d in moved.items() if p.startswith(prefix)) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_cycle_equals_its_plain_form_in_every_cycle(case):
    options = dict(CASES[case])
    if options.get("optimizers") == "adam":
        options["optimizers"] = small.adam_optimizers()
    model = small.build(**options)
    steps = 3 if case == "plain" else 2
    assert_every_step_is_equal(model, plain_cycle, steps)


def test_cycle_with_fewer_products_equals_its_plain_form(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_CHANNEL_PAIRS", 1)
    model = small.build(gan=0)
    assert model.winograd
    assert_every_step_is_equal(model, plain_cycle, steps=2)


@pytest.mark.parametrize(
    "options",
    [
        dict(variant=None, auxiliaries=0, weight_decay=1e-2),
        dict(joint_amalgamation=True, auxiliaries=1),
        dict(joint_amalgamation=True, variant="literal", train_compress=False),
    ],
    ids=["soft_targets_and_decay", "reconstruction", "literal"],
)
def test_joint_step_equals_its_plain_form_in_every_step(options):
    model = small.build(joint_steps=10, initial_losses_step=1, **options)
    assert_every_step_is_equal(model, reference.joint_step, steps=2)
    assert model.gradnorm.initial_losses.numpy().all()
