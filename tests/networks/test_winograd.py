"""The convolution with fewer multiplications against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks import winograd
from soka_tf.networks.decoder import Decoder
from tests.soka import small


def _random(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 10), (16, 16)])
@pytest.mark.parametrize("channels", [(3, 5), (8, 2)])
def test_convolution_and_its_gradient_equal_tensorflows(size, channels):
    x, kernel = _random(2, *size, channels[0]), _random(3, 3, *channels)
    pull = _random(2, *size, channels[1])
    results = []
    for convolve in (
        winograd.conv2d,
        lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = convolve(x, kernel)
        results.append((y, tape.gradient(y, x, output_gradients=pull)))
    (y, gradient), (true_y, true_gradient) = results
    np.testing.assert_allclose(y, true_y, atol=2e-5)
    np.testing.assert_allclose(gradient, true_gradient, atol=2e-5)


def test_batch_and_size_may_be_unknown_to_the_graph():
    kernel = _random(3, 3, 4, 4)
    spec = tf.TensorSpec([None, None, None, 4])
    convolve = tf.function(lambda x: winograd.conv2d(x, kernel), input_signature=[spec])
    for shape in ((1, 5, 6, 4), (3, 2, 3, 4)):
        x = _random(*shape)
        np.testing.assert_allclose(
            convolve(x), tf.nn.conv2d(x, kernel, 1, "SAME"), atol=2e-5
        )


def test_kernel_gets_no_gradient():
    x, kernel = _random(1, 4, 4, 2), tf.Variable(_random(3, 3, 2, 2))
    with tf.GradientTape() as tape:
        y = winograd.conv2d(x, kernel)
    assert tape.gradient(y, kernel) is None


def test_decoder_with_fixed_kernels_equals_its_call(monkeypatch):
    decoder = Decoder(3, width=1 / 16, upsamplings=2)
    small.scatter(decoder.variables, seed=0)
    representation = _random(2, 5, 5, 8)
    monkeypatch.setattr(winograd, "LEAST_CHANNEL_PAIRS", 1)
    taken = [winograd.pays(layer, representation) for layer in decoder.layers]
    assert sum(taken) == 7  # conv2 to conv7 and conv13; the last one has a bias
    fixed = decoder.with_fixed_kernels(representation, training=False)
    np.testing.assert_allclose(fixed, decoder(representation), atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        tf.keras.layers.Conv2D(512, 1, padding="same", use_bias=False),
        tf.keras.layers.Conv2D(512, 3, 2, padding="same", use_bias=False),
        tf.keras.layers.Conv2D(512, 3, padding="valid", use_bias=False),
        tf.keras.layers.Conv2D(512, 3, padding="same"),
        tf.keras.layers.Conv2D(127, 3, padding="same", use_bias=False),
        tf.keras.layers.Conv2DTranspose(512, 3, padding="same", use_bias=False),
        tf.keras.layers.Conv2D(
            512, 3, padding="same", use_bias=False, dtype="mixed_bfloat16"
        ),
    ],
)
def test_other_layers_compute_themselves(layer):
    x = tf.zeros([1, 4, 4, 512])
    assert not winograd.pays(layer, x)
    like = tf.keras.layers.Conv2D(512, 3, padding="same", use_bias=False)
    assert winograd.pays(like, x)
