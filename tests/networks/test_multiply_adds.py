"""Multiply-adds: counted one by one, and the known sums of the full networks."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.encoder import ENCODER_26, Encoder
from soka_tf.networks.multiply_adds import count_multiply_adds, total_multiply_adds


def _convolve(values, kernel, stride, pad):
    """A convolution in so many words; returns the output and its multiply-adds."""
    size, _, inputs, outputs = kernel.shape
    values = np.pad(values, (pad, pad, (0, 0)))
    height, width = ((n - size) // stride + 1 for n in values.shape[:2])
    result, done = np.zeros((height, width, outputs)), 0
    for y, x, dy, dx, i, o in itertools.product(
        *map(range, (height, width, size, size, inputs, outputs))
    ):
        pixel = values[y * stride + dy, x * stride + dx, i]
        result[y, x, o] += pixel * kernel[dy, dx, i, o]
        done += 1
    return result, done


def _transpose(values, kernel, stride):
    """A transposed convolution, padding "same", size 3; and its multiply-adds."""
    size, _, outputs, inputs = kernel.shape
    height, width, _ = values.shape
    spread, done = np.zeros((height * stride + 1, width * stride + 1, outputs)), 0
    for y, x, dy, dx, i, o in itertools.product(
        *map(range, (height, width, size, size, inputs, outputs))
    ):
        spread[y * stride + dy, x * stride + dx, o] += (
            values[y, x, i] * kernel[dy, dx, o, i]
        )
        done += 1
    return spread[: height * stride, : width * stride], done


def test_count_of_a_tiny_network_equals_counting_one_by_one():
    images = tf.keras.Input((None, None, 2))
    layers = [
        tf.keras.layers.Conv2D(3, 3, padding="same", use_bias=False, name="same"),
        tf.keras.layers.Conv2D(4, 3, strides=2, use_bias=False, name="strided"),
        tf.keras.layers.Conv2DTranspose(
            2, 3, strides=2, padding="same", use_bias=False, name="doubling"
        ),
    ]
    x = images
    for layer in layers:
        x = layer(x)
    network = tf.keras.Model(images, x)
    values = np.random.default_rng(0).normal(size=(7, 9, 2))

    kernels = [layer.kernel.numpy().astype(np.float64) for layer in layers]
    first, first_count = _convolve(values, kernels[0], 1, (1, 1))
    second, second_count = _convolve(first, kernels[1], 2, (0, 0))
    third, third_count = _transpose(second, kernels[2], 2)

    computed = network(values[None].astype(np.float32))[0].numpy()
    np.testing.assert_allclose(third, computed, atol=1e-4)
    counts = count_multiply_adds(network, values.shape)
    assert [c.layer for c in counts] == ["same", "strided", "doubling"]
    assert [c.multiply_adds for c in counts] == [
        first_count,
        second_count,
        third_count,
    ]
    assert [c.output_shape for c in counts] == [
        (7, 9, 3),
        (3, 4, 4),
        (6, 8, 2),
    ]
    assert counts[1].input_shape == (7, 9, 3)
    assert [(c.stride, c.transposed) for c in counts] == [
        (1, False),
        (2, False),
        (2, True),
    ]
    assert counts[1].parameters == 3 * 3 * 3 * 4


def test_count_of_the_full_networks_at_256_pixels_is_the_known_one():
    encoder = count_multiply_adds(Encoder(), (256, 256, 3))
    assert len(encoder) == 1 + 3 * 16 + 4 + 1
    assert sum(c.multiply_adds for c in encoder) == pytest.approx(7.616e9, abs=5e5)
    assert encoder[0].kernel_shape == (7, 7, 3, 64)
    assert encoder[-1].output_shape == (16, 16, 8)
    decoder = count_multiply_adds(Decoder(1), (16, 16, 8))
    assert len(decoder) == 14
    assert sum(c.multiply_adds for c in decoder) == pytest.approx(4.464e9, abs=5e5)
    assert decoder[-1].output_shape == (256, 256, 1)
    assert decoder[-1].parameters == 3 * 3 * 16 + 1


def test_count_grows_with_the_pixels_and_not_with_the_precision():
    encoder = Encoder(ENCODER_26, width=0.125)
    small, large = (total_multiply_adds(encoder, (n, n, 3)) for n in (64, 128))
    assert large == 4 * small
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = Encoder(ENCODER_26, width=0.125)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert total_multiply_adds(half, (64, 64, 3)) == small


def test_count_of_a_discriminator_sees_image_and_map():
    counts = count_multiply_adds(Discriminator(2, width=0.25), (64, 64, 5))
    assert counts[0].multiply_adds == 16 * 16 * 5 * 5 * 5 * 16
    assert counts[-1].output_shape == (1, 1, 1)


@pytest.mark.parametrize("shape", [(64, 64, 1), (64, 64), (1, 64, 64, 3)])
def test_count_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="takes inputs of shape .* Received"):
        count_multiply_adds(Encoder((1, 1, 1, 1), width=0.125), shape)
