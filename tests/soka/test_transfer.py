"""How L_A is put together: sums, layers' weights, adapters, teachers left out."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.linear import Adapter
from soka_tf.soka.transfer import Transfer
from soka_tf.soka.variants import VARIANTS
from tests.soka import small
from tests.soka.test_amalgamation import (
    LAYERS,
    activations,
    build,
    sigma_by_hand,
    transfer_by_hand,
)

POSITIONS = 2 * 2  # of `activations`


def transfers_by_hand(variant, student, sigmas):
    """Layer -> the mean over elements."""
    return {k: transfer_by_hand(variant, student[k], sigmas[k]) for k in LAYERS}


def sigmas_by_hand(layer, teachers, presence=None):
    presence = np.ones([3, len(teachers["block3"])]) if presence is None else presence
    sigmas = {}
    for name, part in layer.amalgamations.items():
        given = [a.astype("float64") for a in teachers[name]]
        if part.reconstruct:
            given = [a / (a.std() + 1e-6) for a in given]
        given = [a * presence[:, i, None, None, None] for i, a in enumerate(given)]
        sigmas[name] = sigma_by_hand(part, given)
    return sigmas


@pytest.mark.parametrize(
    "variant", ["literal", "normalized", "outer_product", "reconstruction"]
)
def test_sum_is_over_the_elements_of_an_image(variant):
    layer = build(2, variant=variant, transfer=dict(reduction="sum"))
    teachers, student = activations(2)
    losses = layer(teachers, student)
    means = transfers_by_hand(variant, student, sigmas_by_hand(layer, teachers))
    elements = {name: POSITIONS * width for name, width in LAYERS.items()}
    if variant == "outer_product":
        elements = dict.fromkeys(LAYERS, 3)  # an image's row: its products with 3
    expected = sum(means[name] * elements[name] for name in LAYERS)
    assert float(losses.transfer) == pytest.approx(expected, rel=1e-5)
    plain = build(2, variant=variant)(teachers, student)
    if variant == "reconstruction":  # of Eq. 3 only
        assert float(losses.amalgamation) == float(plain.amalgamation)
    else:
        assert float(losses.amalgamation) == float(losses.transfer)


def test_literal_sum_is_the_squared_norm_of_eq_3():
    layer = build(2, variant="literal", transfer=dict(reduction="sum"))
    teachers, student = activations(2)
    sigmas = sigmas_by_hand(layer, teachers)
    norms = [
        np.sum((student[name][image] - sigmas[name][image]) ** 2)
        for name in LAYERS
        for image in range(3)
    ]
    assert float(layer(teachers, student).transfer) == pytest.approx(
        np.sum(norms) / 3, rel=1e-5
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equal_layers_count_the_same_at_a_position_and_as_much_in_sum(reduction):
    teachers, student = activations(2)
    how = dict(layer_weights="equal", reduction=reduction)
    layer = build(2, transfer=how)
    means = transfers_by_hand(
        "reconstruction", student, sigmas_by_hand(layer, teachers)
    )
    # ||u - s||^2 at a position, the mean over positions.
    distances = {name: means[name] * width for name, width in LAYERS.items()}
    each = {name: 1.0 / width for name, width in LAYERS.items()}  # of the mean
    if reduction == "sum":
        each = dict.fromkeys(LAYERS, POSITIONS)
    share = np.mean(list(each.values()))
    expected = share * sum(distances.values())
    assert float(layer(teachers, student).transfer) == pytest.approx(expected, rel=1e-5)


def test_numbers_are_the_layers_factors():
    teachers, student = activations(2)
    each = [
        float(build(2, transfer=dict(layer_weights=w))(teachers, student).transfer)
        for w in ([1.0, 0.0], [0.0, 1.0], (3.0, 0.5))
    ]
    assert each[2] == pytest.approx(3.0 * each[0] + 0.5 * each[1], rel=1e-6)
    assert min(each[:2]) > 1e-3


@pytest.mark.parametrize(
    "how, variant, message",
    [
        (dict(reduction="max"), "literal", "reduction must be one of mean, sum"),
        (dict(layer_weights="equal"), "literal", "'normalized' and 'reconstruction'"),
        (dict(layer_weights=[1.0]), "literal", r"each of \['block3'.*\[1.0\]"),
        (dict(layer_weights=[1.0, -1.0]), "literal", "one of elements, equal, or"),
        (dict(teacher_dropping=1.0), "literal", r"teacher_dropping .*\[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(how, variant, message):
    with pytest.raises(ValueError, match=message):
        build(2, scatter=False, variant=variant, transfer=how)


def test_config_keeps_how_the_losses_are_put_together():
    how = dict(layer_weights=[1.0, 2.0], adapter=True, teacher_dropping=0.5, seed=3)
    layer = build(2, transfer=how)
    again = type(layer).from_config(layer.get_config())
    assert again.transfer == layer.transfer == Transfer(**how)


# Adapters


def test_adapter_is_a_1x1_convolution_that_begins_as_nothing():
    random = np.random.default_rng(0)
    activation = random.normal(size=(2, 3, 4, 5)).astype("float32")
    adapter = Adapter(5)
    np.testing.assert_array_equal(adapter(activation), activation)
    kernel, bias = random.normal(size=(5, 5)), random.normal(size=5)
    adapter.kernel.assign(kernel)
    adapter.bias.assign(bias)
    expected = np.einsum("bhwi,ij->bhwj", activation, kernel) + bias
    np.testing.assert_allclose(adapter(activation), expected, rtol=1e-4, atol=1e-5)
    assert Adapter.from_config(adapter.get_config()).channels == 5


def least_transfer(adapter):
    """L_A where a student behind ReLU has learnt what it can of a sigma with signs."""
    layer = build(1, variant="normalized", transfer=dict(adapter=adapter))
    random = np.random.default_rng(0)
    teachers = {
        name: [random.normal(size=(3, 2, 2, width)).astype("float32")]
        for name, width in LAYERS.items()
    }
    before_relu = {
        name: tf.Variable(random.normal(size=(3, 2, 2, width)).astype("float32"))
        for name, width in LAYERS.items()
    }
    variables = [*before_relu.values(), *layer.adapter_variables]
    optimizer = tf.keras.optimizers.legacy.Adam(0.05)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            student = {name: tf.nn.relu(v) for name, v in before_relu.items()}
            loss = layer(teachers, student).transfer
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    return [float(step()) for _ in range(200)][-1]


def test_adapter_reaches_a_sigma_that_features_behind_relu_cannot():
    without = least_transfer(False)
    assert without > 0.05  # the negative part of sigma
    assert least_transfer(True) < 0.2 * without


def test_adapters_move_with_the_encoder_and_are_no_part_of_the_student(tmp_path):
    model = small.build(transfer=dict(adapter=True))
    adapters = model.amalgamation.adapter_variables
    assert [v.shape.rank for v in adapters] == [2, 1, 2, 1]
    ids = {id(v) for v in adapters}
    assert not ids & {id(v) for v in model.student.variables}  # what is exported
    assert {id(v) for v in model.players.optimized["adapter"]} == ids
    assert not ids & {id(v) for v in model.players.optimized["amalgamation"]}
    moved = {}
    for phase in ("competition", "collaboration", "weighting"):
        moved[phase] = f"movement/{phase}/adapter"
    model.movement_every_steps = 1
    logs = small.fit(model, small.batches(1))
    assert [logs[name][0] > 0 for name in moved.values()] == [False, True, False]
    # A checkpoint has them, with the amalgamation.
    checkpoint = tf.train.Checkpoint(**model.checkpoint_items())
    path = checkpoint.write(str(tmp_path / "all"))
    before = small.trained_state(model)
    for v in adapters:
        v.assign(tf.zeros_like(v))
    checkpoint.read(path).assert_consumed()
    assert not any(small.differences(before, small.trained_state(model)).values())


def test_checkpoint_without_adapters_has_no_trace_of_them(tmp_path):
    layer = build(2)
    path = tf.train.Checkpoint(amalgamation=layer).write(str(tmp_path / "before"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert names and not [name for name in names if "adapter" in name]


# Teachers left out


def test_presence_is_0_or_what_makes_up_for_the_others():
    how, count, images = Transfer(teacher_dropping=0.4, seed=7), 3, 4000
    drawn = how.presence(count, tf.constant(images), tf.constant(5, tf.int64)).numpy()
    assert drawn.shape == (images, count)
    np.testing.assert_allclose(drawn.sum(axis=1), count, rtol=1e-6)
    kept = drawn > 0
    counts = kept.sum(axis=1)
    # By hand: all kept where all would have been left out.
    expected = {1: 3 * 0.6 * 0.16, 2: 3 * 0.36 * 0.4, 3: 0.216 + 0.064}
    for size, share in expected.items():
        assert np.mean(counts == size) == pytest.approx(share, abs=0.03)
    np.testing.assert_allclose(kept.mean(axis=0), 0.664, atol=0.03)


def test_presence_depends_on_seed_and_step_alone():
    def draw(seed, step):
        how = Transfer(teacher_dropping=0.5, seed=seed)
        return how.presence(3, tf.constant(20), tf.constant(step, tf.int64)).numpy()

    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    assert (draw(1, 2) != draw(1, 3)).any() and (draw(1, 2) != draw(2, 2)).any()
    nobody = Transfer().presence(3, tf.constant(20), tf.constant(0, tf.int64))
    assert nobody is None


PRESENCE = np.float32([[3, 0, 0], [1.5, 0, 1.5], [1, 1, 1]])


@pytest.mark.parametrize(
    "variant", ["literal", "normalized", "outer_product", "reconstruction"]
)
def test_sigma_lacks_the_teachers_left_out(variant):
    layer = build(3, variant=variant)
    teachers, student = activations(3)
    losses, plain = layer(teachers, student, PRESENCE), layer(teachers, student)
    sigmas = sigmas_by_hand(layer, teachers, PRESENCE)
    expected = sum(transfers_by_hand(variant, student, sigmas).values())
    assert float(losses.transfer) == pytest.approx(expected, rel=1e-5)
    assert abs(float(plain.transfer) / expected - 1) > 1e-3
    if variant == "reconstruction":  # it has to read all of them out of sigma
        assert float(losses.amalgamation) == float(plain.amalgamation)


# Hints


@pytest.mark.parametrize("presence", [None, PRESENCE])
def test_hints_are_the_errors_of_a_regressor_a_teacher(presence):
    layer = build(3, variant="hints", auxiliaries=1)
    teachers, student = activations(3)
    losses = layer(teachers, student, presence)
    shares = np.ones([3, 3]) if presence is None else presence
    expected = 0.0
    for name, part in layer.amalgamations.items():
        for i, (head, a) in enumerate(zip(part.heads, teachers[name])):
            error = (student[name] @ head.numpy() - a / (a.std() + 1e-6)) ** 2
            weight = [1.0, 1.0, 0.1][i] / 2.1
            expected += weight * np.mean(shares[:, i, None, None, None] * error)
    assert float(losses.transfer) == pytest.approx(expected, rel=1e-5)
    assert float(losses.amalgamation) == float(losses.transfer)


def test_hints_have_no_sigma():
    layer = build(2, scatter=False, variant="hints")
    names = sorted(v.name for v in layer.trainable_variables)
    assert names == ["V1:0", "V1:0", "V2:0", "V2:0"]
    assert "hints" in VARIANTS
