"""MIA against brute force; who gets which gradient; why the default is what it is."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.soka.amalgamation import (
    MIXINGS,
    Amalgamation,
    LayerAmalgamation,
    resized,
)
from soka_tf.soka.variants import VARIANTS as ALL_VARIANTS

LAYERS = {"block3": 5, "representation": 4}
# Those with a sigma; hints are in test_transfer.py.
VARIANTS = [name for name, variant in ALL_VARIANTS.items() if variant.mixes]


def activations(count, seed=0, widths=None):
    """Layer -> `count` activations like ReLU's; and the student's."""
    random = np.random.default_rng(seed)
    teachers, student = {}, {}
    for layer, width in LAYERS.items():
        mine = widths or [width] * count
        teachers[layer] = [
            np.maximum(random.normal(0.2, 1 + i, (3, 2, 2, w)), 0).astype("float32")
            for i, w in enumerate(mine)
        ]
        student[layer] = random.normal(size=(3, 2, 2, width)).astype("float32")
    return teachers, student


def build(count=3, widths=None, scatter=True, variant="reconstruction", **options):
    layer = Amalgamation(
        {name: widths or [width] * count for name, width in LAYERS.items()},
        LAYERS,
        variant,
        **options,
    )
    if scatter:
        random = np.random.default_rng(5)
        for v in layer.variables:
            v.assign(random.normal(size=v.shape))
    return layer


def sigma_by_hand(part, teachers):
    """C (.) sum_i W_i (x) A_i, position by position."""
    sigma = np.zeros(teachers[0].shape[:3] + (part.channels,))
    for position in np.ndindex(sigma.shape[:3]):
        for weight, activation in zip(part.mixing_weights, teachers):
            weight = weight.numpy().astype("float64")
            if part.mixing == "diagonal":
                weight = np.diag(weight)
            sigma[position] += weight.T @ activation[position]
    return part.gate.numpy() * sigma


def unit(vector):
    return vector / np.sqrt(np.sum(np.square(vector)))


def transfer_by_hand(variant, student, sigma):
    positions = list(np.ndindex(sigma.shape[:3]))
    if variant == "literal":
        return np.mean((student - sigma) ** 2)
    if variant == "outer_product":
        batch = len(student)
        total = 0.0
        for i in range(batch):
            rows = [
                unit(np.array([np.sum(a[i] * a[j]) for j in range(batch)]))
                for a in (student, sigma)
            ]
            total += np.sum((rows[0] - rows[1]) ** 2)
        return total / batch**2
    return np.mean(
        [np.mean((unit(student[p]) - unit(sigma[p])) ** 2) for p in positions]
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_losses_equal_brute_force(variant, mixing, count):
    auxiliaries = 1 if count > 1 else 0
    layer = build(count, variant=variant, mixing=mixing, auxiliaries=auxiliaries)
    teachers, student = activations(count)
    losses = layer(teachers, student)
    transfer, own = 0.0, 0.0
    for name, part in layer.amalgamations.items():
        given = [a.astype("float64") for a in teachers[name]]
        if variant == "reconstruction":
            given = [a / (a.std() + 1e-6) for a in given]
        sigma = sigma_by_hand(part, given)
        transfer += transfer_by_hand(variant, student[name], sigma)
        if variant == "reconstruction":
            for i, (head, a) in enumerate(zip(part.heads, given)):
                weight = 0.1 if i >= count - auxiliaries else 1.0
                own += weight * np.mean((sigma @ head.numpy() - a) ** 2)
    assert float(losses.transfer) == pytest.approx(transfer, rel=1e-5)
    expected = own if variant == "reconstruction" else transfer
    assert float(losses.amalgamation) == pytest.approx(expected, rel=1e-5)
    assert losses.transfer.dtype == losses.amalgamation.dtype == tf.float32


def test_losses_of_half_precision_activations_are_those_of_their_float32_values():
    layer = build(2)
    teachers, student = activations(2)
    half = [
        tf.nest.map_structure(lambda a: tf.cast(a, "float16"), x)
        for x in (teachers, student)
    ]
    full = [tf.nest.map_structure(lambda a: tf.cast(a, "float32"), x) for x in half]
    for mine, other in zip(layer(*half), layer(*full)):
        assert mine.dtype == tf.float32 and float(mine) == float(other)


def resized_by_hand(activation, side):
    """Means of whole blocks; else the triangle filter along both axes."""
    size = activation.shape[1]
    scale = size / side
    matrix = np.zeros((side, size))
    for i, j in np.ndindex(side, size):
        if size % side == 0:
            matrix[i, j] = j // (size // side) == i
        else:
            distance = abs((j + 0.5) - (i + 0.5) * scale) / max(scale, 1.0)
            matrix[i, j] = max(0.0, 1.0 - distance)
    matrix /= matrix.sum(axis=1, keepdims=True)
    return np.einsum("yi,xj,bijc->byxc", matrix, matrix, activation)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [4, 1, 3])
def test_teachers_of_other_strides_are_brought_to_the_students_size(variant, side):
    """The student is 2 x 2 (stride 16 of 32 pixels), the second teacher `side`."""
    layer = build(2, variant=variant)
    teachers, student = activations(2)
    random = np.random.default_rng(1)
    for name, width in LAYERS.items():
        other = random.normal(size=(3, side, side, width)).astype("float32")
        teachers[name][1] = other
    same_size = {
        name: [first, resized_by_hand(second, 2).astype("float32")]
        for name, (first, second) in teachers.items()
    }
    found = layer(teachers, student)
    np.testing.assert_allclose(found, layer(same_size, student), rtol=1e-5)
    own = layer.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.function(layer)(teachers, student).amalgamation
    assert all(np.isfinite(g).all() for g in tape.gradient(loss, own))


def test_activations_of_the_students_size_are_not_touched():
    activation = tf.ones([3, 4, 6, 5])
    assert resized(activation, tf.ones([3, 4, 6, 8])) is activation
    assert resized(activation, tf.ones([3, 2, 2, 8])).shape == (3, 2, 2, 5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_go_where_the_variant_says(variant):
    layer = build(2, variant=variant)
    teachers, student = tf.nest.map_structure(tf.constant, activations(2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([teachers, student])
        losses = layer(teachers, student)
    flat = tf.nest.flatten(teachers)
    assert all(g is None for g in tape.gradient(losses.transfer, flat))
    assert all(g is None for g in tape.gradient(losses.amalgamation, flat))
    for g in tape.gradient(losses.transfer, tf.nest.flatten(student)):
        assert np.abs(g).max() > 1e-4
    weights = layer.trainable_variables
    own = tape.gradient(losses.amalgamation, weights)
    assert len(weights) == (2 * 5 if variant == "reconstruction" else 2 * 3)
    transfer = tape.gradient(losses.transfer, weights)
    if variant == "reconstruction":
        assert all(g is None for g in transfer)
        mine = tape.gradient(losses.amalgamation, tf.nest.flatten(student))
        assert all(g is None for g in mine)
        assert all(np.abs(g).max() > 1e-5 for g in own)
    else:
        for g, t in zip(own, transfer):
            np.testing.assert_array_equal(g, t)
        if variant == "literal":
            assert all(np.abs(g).max() > 1e-5 for g in own)


def test_sigma_starts_as_the_mean_of_teachers_as_wide_as_the_student():
    teachers, _ = activations(4)
    for mixing in MIXINGS:
        part = LayerAmalgamation([5] * 4, 5, mixing)
        expected = np.mean(teachers["block3"], axis=0)
        np.testing.assert_allclose(part(teachers["block3"]), expected, atol=1e-6)


def test_teachers_of_other_widths_are_mixed_by_matrices():
    layer = build(2, widths=[7, 5])
    teachers, student = activations(2, widths=[7, 5])
    assert [w.shape for w in layer.amalgamations["block3"].mixing_weights] == [
        (7, 5),
        (5, 5),
    ]
    assert all(np.isfinite(loss) for loss in layer(teachers, student))


def test_zero_activations_give_finite_losses_and_gradients():
    teachers, student = tf.nest.map_structure(tf.zeros_like, activations(2))
    for variant in VARIANTS:
        layer = build(2, variant=variant)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(student)
            losses = layer(teachers, student)
        gradients = tape.gradient(losses.transfer, tf.nest.flatten(student))
        gradients += tape.gradient(losses.amalgamation, layer.trainable_variables)
        assert all(np.isfinite(loss) for loss in losses)
        assert all(np.all(np.isfinite(g)) for g in gradients if g is not None)


@pytest.mark.parametrize("count", [1, 3])
def test_reconstruction_error_falls_when_trained(count):
    layer = build(count, scatter=False, auxiliaries=1 if count > 1 else 0)
    teachers, student = activations(count)
    optimizer = tf.keras.optimizers.legacy.Adam(0.05)
    errors = []
    for _ in range(25):
        with tf.GradientTape() as tape:
            losses = layer(teachers, student)
        weights = layer.trainable_variables
        gradients = tape.gradient(losses.amalgamation, weights)
        optimizer.apply_gradients(zip(gradients, weights))
        errors.append(float(losses.amalgamation))
    # One teacher is reconstructed from the start: sigma is its activation.
    assert errors[-1] < (1e-3 if count == 1 else 0.8 * errors[0])


def sigma_norms(variant):
    """Norm of sigma before and after training it against a student that follows."""
    layer = build(2, scatter=False, variant=variant)
    teachers, student = activations(2)
    mine = {name: tf.Variable(a) for name, a in student.items()}
    optimizer = tf.keras.optimizers.legacy.Adam(0.05)

    def norm():
        given = teachers["block3"]
        return float(tf.norm(layer.amalgamations["block3"](given)))

    @tf.function(autograph=False)
    def step():
        followers = list(mine.values())
        with tf.GradientTape(persistent=True) as tape:
            losses = layer(
                teachers, {k: tf.convert_to_tensor(v) for k, v in mine.items()}
            )
        weights = layer.trainable_variables
        gradients = tape.gradient(losses.amalgamation, weights)
        pulls = tape.gradient(losses.transfer, followers)
        # Weight decay, however small, is what any student has.
        pulls = [p + 1e-3 * f for p, f in zip(pulls, followers)]
        optimizer.apply_gradients(zip(gradients + pulls, weights + followers))

    before = norm()
    for _ in range(400):
        step()
    return before, norm()


def test_sigma_of_the_literal_equation_collapses_and_of_reconstruction_does_not():
    before, after = sigma_norms("literal")
    assert after < 0.2 * before
    before, after = sigma_norms("reconstruction")
    assert after > 0.5 * before


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(variant="mean"), "variant must be one of .*Received: 'mean'"),
        (dict(mixing="full"), "mixing must be one of .*Received: 'full'"),
        (
            dict(mixing="diagonal", widths=[7, 5]),
            r"as wide as the student.*Received: teachers \[7, 5\], student 5",
        ),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(2, scatter=False, **options)


def test_layers_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"same layers.*\['block3'\] and \['block4'\]"):
        Amalgamation({"block3": [4]}, {"block4": 4}, "literal")
    with pytest.raises(ValueError, match="same layers"):
        Amalgamation({}, {}, "literal")


def test_config_round_trip_builds_the_same_layer():
    layer = build(
        3, variant="normalized", mixing="diagonal", auxiliaries=1, auxiliary_weight=0.3
    )
    again = Amalgamation.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    for mine, other in zip(layer.variables, again.variables):
        other.assign(mine)
    inputs = activations(3)
    assert float(again(*inputs).transfer) == float(layer(*inputs).transfer)
    part = LayerAmalgamation([3, 5], 4, reconstruct=True)
    assert LayerAmalgamation.from_config(part.get_config()).get_config() == (
        part.get_config()
    )
