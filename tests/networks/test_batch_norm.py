import threading

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.batch_norm import (
    MODES,
    BatchNorm,
    apply_collected,
    statistics,
)

CHANNELS = 5


def batch(seed):
    return tf.constant(
        np.random.RandomState(seed).normal(1.0, 2.0, (3, 4, 6, CHANNELS)), tf.float32
    )


def filled(layer):
    """The layer with values that are neither zeros nor ones, the same every time."""
    layer.build((None, None, None, CHANNELS))
    random = np.random.RandomState(3)
    layer.set_weights([random.uniform(0.5, 1.5, CHANNELS) for _ in range(4)])
    return layer


def keras_twin():
    return filled(tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5))


def run(layer, inputs):
    """Outputs and gradients (inputs, gamma, beta) of a loss that is not linear."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(outputs**3)
    return outputs, tape.gradient(loss, [inputs, *layer.trainable_variables])


def moving(layer):
    return layer.moving_mean.numpy(), layer.moving_variance.numpy()


def assert_all_equal(actual, expected):
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(params=["eager", "graph"])
def wrap(request):
    return (lambda f: f) if request.param == "eager" else tf.function


def test_layer_outside_any_block_equals_keras_bit_for_bit(wrap):
    layer, twin = filled(BatchNorm()), keras_twin()
    inputs = batch(0)
    assert_all_equal(
        wrap(lambda: run(layer, inputs))(), wrap(lambda: run(twin, inputs))()
    )
    assert_all_equal(moving(layer), moving(twin))
    assert_all_equal(layer(inputs), twin(inputs))


@pytest.mark.parametrize("mode", MODES)
def test_outputs_and_gradients_in_every_mode_are_those_of_keras(wrap, mode):
    layer, twin = filled(BatchNorm()), keras_twin()
    inputs = batch(1)

    def step():
        with statistics(layer, mode):
            return run(layer, inputs)

    assert_all_equal(wrap(step)(), wrap(lambda: run(twin, inputs))())


def test_gradient_in_every_mode_flows_through_the_batch_statistics():
    inputs = batch(1)
    for mode in MODES:
        layer = filled(BatchNorm())
        with statistics(layer, mode):
            _, (gradient, *_) = run(layer, inputs)
        # Shifting a whole channel changes nothing, if the mean follows.
        np.testing.assert_allclose(tf.reduce_sum(gradient, (0, 1, 2)), 0, atol=1e-3)


def test_update_moves_as_keras_does_and_takes_the_unbiased_variance(wrap):
    layer, twin = filled(BatchNorm()), keras_twin()
    before_mean, before_variance = moving(layer)
    inputs = batch(2)

    def step():
        with statistics(layer, "update"):
            return layer(inputs, training=True)

    wrap(step)()
    twin(inputs, training=True)
    assert_all_equal(moving(layer), moving(twin))
    pixels = inputs.numpy().reshape(-1, CHANNELS).astype(np.float64)
    mean, variance = moving(layer)
    np.testing.assert_allclose(
        mean, 0.9 * before_mean + 0.1 * pixels.mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(
        variance, 0.9 * before_variance + 0.1 * pixels.var(0, ddof=1), rtol=1e-5
    )


def test_keep_leaves_statistics_exactly_alone(wrap):
    layer = filled(BatchNorm())
    before = moving(layer)

    def step():
        with statistics(layer, "keep"):
            return layer(batch(3), training=True)

    wrap(step)()
    assert_all_equal(moving(layer), before)


def test_collect_then_apply_equals_update_even_for_several_passes(wrap):
    layer, twin = filled(BatchNorm()), filled(BatchNorm())
    before = moving(layer)

    def step(apply):
        with statistics(layer, "collect") as collected:
            layer(batch(4), training=True)
            layer(batch(5), training=True)
        assert len(collected) == 2
        if apply:
            apply_collected(collected)
            assert not collected

    wrap(lambda: step(apply=False))()
    assert_all_equal(moving(layer), before)
    wrap(lambda: step(apply=True))()
    twin(batch(4), training=True)
    twin(batch(5), training=True)
    for one, other in zip(moving(layer), moving(twin)):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_other_modes_collect_nothing():
    layer = filled(BatchNorm())
    for mode in ("update", "keep"):
        with statistics(layer, mode) as collected:
            layer(batch(0), training=True)
        assert collected == []


def test_graph_traced_in_a_mode_keeps_it():
    layer = filled(BatchNorm())
    step = tf.function(lambda inputs: layer(inputs, training=True))
    before = moving(layer)
    with statistics(layer, "keep"):
        step(batch(0))
    step(batch(1))
    assert_all_equal(moving(layer), before)


def moves(layer):
    """Whether a training pass moves the statistics right now."""
    before = moving(layer)
    layer(batch(6), training=True)
    return not np.array_equal(moving(layer)[0], before[0])


def test_modes_nest_and_end_even_by_an_exception():
    one, two = filled(BatchNorm()), filled(BatchNorm())
    with statistics([one, two], "keep"):
        assert not moves(one) and not moves(two)
        with pytest.raises(RuntimeError), statistics(one, "update"):
            assert moves(one) and not moves(two)
            raise RuntimeError
        assert not moves(one) and not moves(two)
    assert moves(one) and moves(two)


def test_mode_of_one_thread_is_not_seen_by_another():
    layer = filled(BatchNorm())
    seen = []
    with statistics(layer, "keep"):
        thread = threading.Thread(target=lambda: seen.append(moves(layer)))
        thread.start()
        thread.join()
        assert not moves(layer)
    assert seen == [True]


@pytest.mark.parametrize("mode", MODES)
def test_inference_and_frozen_layers_use_moving_statistics_in_every_mode(mode):
    layer, twin = filled(BatchNorm()), keras_twin()
    before = moving(layer)
    with statistics(layer, mode) as collected:
        assert_all_equal(layer(batch(7), training=False), twin(batch(7)))
        assert_all_equal(layer(batch(7)), twin(batch(7)))
        layer.trainable = False
        assert_all_equal(layer(batch(7), training=True), twin(batch(7)))
    assert collected == []
    assert_all_equal(moving(layer), before)


def test_layers_are_found_in_models_lists_and_dictionaries():
    class Holder(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = {
                "a": tf.keras.Sequential([filled(BatchNorm())]),
                "b": [filled(BatchNorm())],
            }

    holder = Holder()
    layers = [holder.parts["a"].layers[0], holder.parts["b"][0]]
    with statistics(holder, "keep"):
        assert not any(moves(layer) for layer in layers)
    with statistics((part for part in layers), "keep"):
        assert not any(moves(layer) for layer in layers)


def test_half_precision_keep_equals_update():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer, twin = filled(BatchNorm()), filled(BatchNorm())
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    with statistics(layer, "keep"):
        kept = layer(batch(0), training=True)
    assert kept.dtype == tf.bfloat16
    updated = twin(batch(0), training=True)
    assert_all_equal(tf.cast(kept, tf.float32), tf.cast(updated, tf.float32))


def test_config_round_trip_keeps_momentum_and_epsilon():
    layer = BatchNorm(momentum=0.8, epsilon=1e-3, synchronized=True, name="bn")
    twin = BatchNorm.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert (twin.momentum, twin.epsilon, twin.name) == (0.8, 1e-3, "bn")
    assert twin.synchronized and not BatchNorm().synchronized
    assert (BatchNorm().momentum, BatchNorm().epsilon) == (0.9, 1e-5)


def test_mistakes_are_refused_by_name():
    with pytest.raises(ValueError, match="'freeze'. Allowed: update, keep, collect"):
        with statistics(filled(BatchNorm()), "freeze"):
            pass
    plain = tf.keras.layers.BatchNormalization(name="plain")
    with pytest.raises(ValueError, match="'plain', a BatchNormalization"):
        with statistics(plain, "keep"):
            pass
    layer = filled(BatchNorm(name="bn"))
    with pytest.raises(ValueError, match="bn: in mode 'keep' training must be known"):
        with statistics(layer, "keep"):
            layer(batch(0), training=tf.constant(True))
