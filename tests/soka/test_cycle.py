"""The shared cycle against the plain one of reference.py."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.balancing.fixed import Fixed
from soka_tf.soka.balancing.gradnorm import gradnorm_gradient, renormalize
from soka_tf.soka.balancing.uncertainty import Uncertainty
from soka_tf.soka.balancing.upgrad import UPGrad
from soka_tf.tasks import register_task
from tests import own_tasks
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
        gradnorm=dict(adaptive=False),
    ),
    "new_batch": dict(new_batch_in_collaboration=True, gan=1),
    "moving_statistics": dict(frozen_statistics="moving", gan=1),
    "all_choices": dict(
        new_batch_in_collaboration=True,
        frozen_statistics="moving",
        gradnorm=dict(layer="representation"),
        weighted_collaboration=True,
    ),
    # Beside l2: kl, bce and cosine.
    "losses_of_their_own": dict(
        tasks=("normal", "segment_semantic", "outline", "facing"), auxiliaries=0
    ),
    "norms_of_activations": dict(gradnorm=dict(layer="representation"), gan=1),
    "adam": dict(optimizers="adam", weighted_collaboration=True),
    "fixed": dict(
        rule=lambda n: Fixed(n, [0.8, 0.2]),
        weighted_collaboration=True,
        auxiliaries=0,
        variant=None,
    ),
    # A heavy weight, so that a mistake in the shares is seen.
    "uncertainty": dict(rule=Uncertainty, soft_weight=1.0, weight_decay=1e-2),
    "upgrad": dict(rule=UPGrad, soft_weight=1.0, tasks=THREE, gan=1),
    # As gin/paper/literal.gin has it.
    "sums": dict(
        variant="literal",
        transfer=dict(reduction="sum"),
        soft_reduction="sum",
        gradnorm=dict(norm="squared_l2", floor=0.0),
        optimizers="adam",
    ),
    "mended_amalgamation": dict(
        transfer=dict(adapter=True, layer_weights="equal", teacher_dropping=0.4),
        weight_decay=1e-2,
        final_soft_weight=1.0,
        soft_weight_steps=2,
        soft_weight_curve="cosine",
    ),
    "transfer_as_task": dict(
        transfer_as_task=True,
        transfer=dict(adapter=True),
        soft_weight=0.5,
        gradnorm=dict(floor=0.05),
    ),
    "transfer_as_task_of_activations": dict(
        transfer_as_task=True, gradnorm=dict(layer="representation"), gan=1
    ),
    "transfer_as_task_fixed": dict(
        transfer_as_task=True, rule=lambda n: Fixed(n, [0.6, 0.1, 0.3])
    ),
    "transfer_as_task_uncertainty": dict(
        transfer_as_task=True, rule=Uncertainty, soft_weight=1.0
    ),
    "transfer_as_task_upgrad": dict(
        transfer_as_task=True, rule=UPGrad, soft_weight=1.0, gan=1
    ),
    "hints": dict(variant="hints", transfer=dict(teacher_dropping=0.4)),
}
# Sums over images are large: rounding is then in proportion to them.
OF_SUMS = ("sums",)
SIMULTANEOUS = (
    *("plain", "three_tasks_two_auxiliaries", "outer_product_gan", "adam"),
    *("uncertainty", "upgrad", "transfer_as_task_upgrad"),
)
# What only these have, others have together.
SLOW = {
    *("literal_without_auxiliary", "no_amalgamation", "new_batch"),
    *("moving_statistics", "norms_of_activations", "fixed", "adam"),
    *("outer_product_gan", "three_tasks_two_auxiliaries"),
    *("transfer_as_task_of_activations", "transfer_as_task_fixed"),
    *("transfer_as_task_uncertainty", "transfer_as_task_upgrad"),
}
SLOW_SIMULTANEOUS = {"plain", "uncertainty"}
MOVED = ("encoder/", "decoder/normal/", "optimizer/encoder/")


def plain_cycle(model, batch):
    adversary = model.adversary
    adversarial = adversary is not None and int(model.step) >= adversary.start_step
    if model.schedule.new_batch_in_collaboration:
        reference.cycle(model, batch[::2], adversarial, batch[1::2])
    else:
        reference.cycle(model, batch, adversarial)


def assert_every_step_is_equal(
    model, plain_step, steps, tolerance=1e-5, moved=MOVED, relative=False
):
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
        if relative:
            far = {p: d / max(1.0, np.abs(plain[p]).max()) for p, d in far.items()}
        assert not {path: size for path, size in far.items() if not size <= tolerance}
        far = small.differences(shared, start)  # else equality would say nothing
        for prefix in moved:
            assert max(d for p, d in far.items() if p.startswith(prefix)) > 1e-3


def build(case, **further):
    for name in ("outline", "facing"):
        register_task(name, own_tasks.DEFINITIONS[name])
    options = {**CASES[case], **further}
    if options.get("optimizers") == "adam":
        options["optimizers"] = small.adam_optimizers()
    return small.build(**options)


def slow(case, cases):
    return pytest.param(case, marks=pytest.mark.slow) if case in cases else case


@pytest.mark.parametrize("case", [slow(case, SLOW) for case in CASES])
def test_cycle_equals_its_plain_form_in_every_cycle(case):
    steps = 3 if case == "plain" else 2
    relative = case in OF_SUMS
    assert_every_step_is_equal(build(case), plain_cycle, steps, relative=relative)


@pytest.mark.parametrize(
    "case", [slow(case, SLOW_SIMULTANEOUS) for case in SIMULTANEOUS]
)
def test_simultaneous_cycle_equals_its_plain_form_in_every_cycle(case):
    model = build(case, order="simultaneous")
    gan_from = model.adversary.start_step if model.adversary else 1000

    def plain(model, batch):
        reference.simultaneous_cycle(model, batch, int(model.step) >= gan_from)

    assert_every_step_is_equal(model, plain, steps=2)


def test_orders_differ_where_the_encoder_meets_the_decoders():
    ends = []
    for order in ("alternating", "simultaneous"):
        model = small.build(order=order)
        small.fit(model, small.batches(1))
        ends.append(small.trained_state(model))
    far = small.differences(*ends)
    moved = {path.split("/")[0] for path, size in far.items() if size > 1e-6}
    # The decoders of both step alike, the encoder against others than these.
    assert "encoder" in moved and "decoder" not in moved


@pytest.mark.parametrize(
    "choice", [dict(new_batch_in_collaboration=True), dict(frozen_statistics="moving")]
)
def test_simultaneous_order_with_a_pass_of_its_own_is_refused(choice):
    with pytest.raises(ValueError, match="one pass of the decoders.*'alternating'"):
        small.build(order="simultaneous", **choice)


@pytest.mark.parametrize(
    "options",
    [
        dict(variant=None, auxiliaries=0, weight_decay=1e-2),
        dict(joint_amalgamation=True, auxiliaries=1),
        pytest.param(
            dict(joint_amalgamation=True, variant="literal", train_compress=False),
            marks=pytest.mark.slow,
        ),
        dict(joint_weighting=True, rule=UPGrad, tasks=THREE, weight_decay=1e-2),
        pytest.param(
            dict(joint_weighting=True, rule=UPGrad, joint_amalgamation=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(joint_weighting=True, rule=Uncertainty, joint_amalgamation=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(rule=Uncertainty, joint_amalgamation=True), marks=pytest.mark.slow
        ),
        dict(
            joint_loss="of_cycle",
            joint_amalgamation=True,
            transfer=dict(adapter=True, teacher_dropping=0.4),
            weight_decay=1e-2,
        ),
        pytest.param(
            dict(joint_loss="of_cycle", transfer=dict(adapter=True)),
            marks=pytest.mark.slow,
        ),
        dict(
            transfer_as_task=True,
            joint_amalgamation=True,
            joint_weighting=True,
            rule=UPGrad,
            transfer=dict(adapter=True),
        ),
        pytest.param(
            dict(
                transfer_as_task=True,
                joint_amalgamation=True,
                rule=lambda n: Fixed(n, [0.6, 0.1, 0.3]),
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(
                transfer_as_task=True,
                joint_amalgamation=True,
                joint_weighting=True,
                rule=Uncertainty,
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(joint_amalgamation=True, transfer=dict(adapter=True)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "soft_targets_and_decay",
        "reconstruction",
        "literal",
        "upgrad_of_three",
        "upgrad_with_amalgamation",
        "uncertainty",
        "uncertainty_that_rests",
        "losses_of_the_cycle",
        "losses_of_the_cycle_of_soft_targets_alone",
        "transfer_as_task_upgrad",
        "transfer_as_task_fixed",
        "transfer_as_task_uncertainty",
        "adapter",
    ],
)
def test_joint_step_equals_its_plain_form_in_every_step(options):
    model = small.build(joint_steps=10, initial_losses_step=1, **options)
    assert_every_step_is_equal(model, reference.joint_step, steps=2)
    if "rule" not in options and not model.objective.transfer_as_task:
        assert model.balancing.initial_losses.numpy().all()


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
@pytest.mark.parametrize("joint_steps", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_upgrad_on_tasks_that_conflict_moves_the_encoder_elsewhere(order, joint_steps):
    ends, shares = {}, {}
    for rule in (Fixed, UPGrad):
        model = small.build(
            rule=rule,
            tasks=THREE,
            order=order,
            soft_weight=1.0,
            joint_steps=joint_steps,
            joint_weighting=True,
        )
        logs = small.fit(model, small.batches(1))
        ends[rule] = small.trained_state(model)
        shares = {k: v[0] for k, v in logs.items() if k.startswith("encoder_share/")}
    assert list(shares) == [f"encoder_share/{task}" for task in THREE]
    assert max(shares.values()) > 1.01  # there is something to resolve
    far = small.differences(*ends.values())
    assert max(size for path, size in far.items() if path.startswith("encoder/")) > 1e-4


def test_joint_weighting_moves_the_weights_by_gradnorm_and_all_else_as_before():
    options = dict(joint_steps=10, initial_losses_step=1, weight_decay=1e-2)
    (model, plain) = (
        small.build(joint_weighting=weighting, **options) for weighting in (True, False)
    )
    first, second = small.batches(2)
    small.fit(model, first[None])
    assert not model.balancing.initial_losses.numpy().any()
    np.testing.assert_array_equal(model.balancing.task_weights, [0.5, 0.5])

    model.balancing.initial_losses.assign([0.3, 2.0])
    start = small.trained_state(model)
    taught = reference.run_teachers(model, second)
    with tf.GradientTape(persistent=True) as tape:
        predictions, _ = reference.run_student(model, second)
        losses = reference.soft_losses(model, taught, predictions)
        each = tf.unstack(losses)
    kernel = model.student.encoder.last_shared_kernel
    norms = tf.stack([tf.norm(tape.gradient(loss, kernel)) for loss in each])
    loss, gradient = gradnorm_gradient(
        tf.constant([0.5, 0.5]), norms, losses, tf.constant([0.3, 2.0]), 1.5
    )
    expected = renormalize(0.5 - small.RATES["task_weights"] * gradient, 0.02)
    small.set_state(model, start)
    small.set_state(plain, start)
    logs = small.fit(model, second[None])
    small.fit(plain, second[None])

    np.testing.assert_allclose(model.balancing.task_weights, expected, atol=1e-6)
    assert abs(float(expected[0]) - 0.5) > 1e-4
    assert logs["loss/gradnorm"][0] == pytest.approx(float(loss), rel=1e-4)
    for task, norm in zip(model.tasks, norms):
        assert logs[f"gradient_norm/{task}"][0] == pytest.approx(float(norm), rel=1e-4)
    far = small.differences(small.trained_state(model), small.trained_state(plain))
    moved = {path for path, size in far.items() if size}
    assert moved and {path for path in moved if "task_weights" not in path} == set()
    assert model.phase_of("loss/gradnorm", 1) == "weighting"
    assert model.phase_of("gradient_norm/normal", 1) == "joint"


def test_losses_keep_their_scale_from_the_joint_start_to_the_cycles():
    """Gradients of decoders and encoder by SGD without momentum: steps over rates."""
    moved = {}
    for joint_loss in ("shared", "of_cycle"):
        for joint_steps in (0, 1):
            model = small.build(
                joint_steps=joint_steps,
                joint_amalgamation=True,
                joint_loss=joint_loss,
                order="simultaneous",
                auxiliaries=0,
            )
            start = small.trained_state(model)
            small.fit(model, small.batches(1))
            far = small.differences(start, small.trained_state(model))
            for player in ("encoder/", "decoder/normal/"):
                kernels = [p for p in far if p.startswith(player) and "kernel" in p]
                moved[joint_loss, joint_steps, player] = np.array(
                    [far[path] for path in kernels]
                )
    for player, factor in (("encoder/", 1.0), ("decoder/normal/", 10.0)):
        jump = moved["shared", 0, player] / moved["shared", 1, player]
        np.testing.assert_allclose(jump, factor, rtol=2e-2)  # 1 / (0.05 n)
        kept = moved["of_cycle", 0, player] / moved["of_cycle", 1, player]
        np.testing.assert_allclose(kept, 1.0, rtol=2e-2)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(variant=None, auxiliaries=0), "no amalgamation"),
        (dict(rule=lambda n: Fixed(2)), "and L_A, 3. Received: a rule of 2"),
    ],
)
def test_transfer_as_task_without_a_place_for_it_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small.build(transfer_as_task=True, **options)
