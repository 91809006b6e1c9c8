import pytest
import tensorflow as tf

from soka_tf.networks.discriminator import Discriminator


@pytest.mark.parametrize(
    "strides, size, logits",
    [((4, 4, 4), 256, 4), ((4, 4, 4), 64, 1), ((2, 2, 2), 64, 8), ((4, 2, 1), 36, 5)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_follow_size_and_strides(strides, size, logits, channels):
    discriminator = Discriminator(channels, width=1 / 32, strides=strides)
    pairs = tf.random.normal((2, size, size, 3 + channels))
    assert discriminator(pairs).shape == (2, logits, logits, 1)
    assert discriminator.channels == channels


def test_first_and_last_layers_alone_have_a_bias_and_no_batch_norm():
    discriminator = Discriminator(1, width=1 / 8)
    names = {layer.name for layer in discriminator.layers}
    for number in range(1, 6):
        layer = discriminator.get_layer(f"conv{number}")
        assert layer.use_bias == (number in (1, 5))
        assert (f"conv{number}/BatchNorm" in names) == (number not in (1, 5))
    filters = [discriminator.get_layer(f"conv{n}").filters for n in range(1, 6)]
    assert filters == [8, 16, 32, 64, 1]


def test_logits_are_not_squashed():
    discriminator = Discriminator(1, width=1 / 8)
    logits = discriminator(1000 * tf.random.normal((2, 256, 256, 4)))
    assert float(tf.reduce_max(tf.abs(logits))) > 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"channels": 0}, "channels must be positive. Received: 0"),
        ({"strides": (4, 4)}, r"strides must be 3 integers .* 1 and 4.*\(4, 4\)"),
        ({"strides": (4, 4, 5)}, "strides must be 3 integers between 1 and 4"),
        ({"width": 0}, r"width must be a number in \(0, 100\]. Received: 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match="Discriminator: " + message):
        Discriminator(**{"channels": 1, **arguments})
