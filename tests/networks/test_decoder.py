import functools

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.decoder import LAYOUTS, Decoder


@functools.cache
def small(channels, **arguments):
    return Decoder(channels, **{"width": 1 / 32, **arguments})


def convolutions(decoder):
    return {
        layer.name: layer.filters
        for layer in decoder.layers
        if hasattr(layer, "filters")
    }


SIZES = [("map", n) for n in range(5)] + [("colours", n) for n in range(3)]


@pytest.mark.parametrize("layout, upsamplings", SIZES)
@pytest.mark.parametrize("height, width", [(4, 4), (3, 5)])
def test_output_is_a_map_of_the_size_asked_for(layout, upsamplings, height, width):
    decoder = small(3, upsamplings=upsamplings, layout=layout)
    prediction = decoder(tf.random.normal((2, height, width, 8)))
    scale = 2**upsamplings
    assert prediction.shape == (2, height * scale, width * scale, 3)
    assert (decoder.channels, decoder.upsamplings) == (3, upsamplings)
    assert decoder.layout == layout


def test_default_doubles_as_often_as_the_original():
    assert {name: small(3, layout=name).upsamplings for name in LAYOUTS} == {
        "map": 4,
        "colours": 2,
    }


def test_config_saved_before_layouts_still_builds_the_map():
    config = small(3).get_config()
    del config["layout"]
    assert config["upsamplings"] == 4
    assert Decoder.from_config(config).get_config() == small(3).get_config()


def test_first_stages_are_left_out_and_the_rest_keeps_its_names():
    trunk = [f"conv{n}" for n in range(2, 8)]
    tails = {
        4: ["deconv8", "conv9", "deconv10", "conv11", "deconv12", "conv13", "deconv14"],
        3: ["deconv10", "conv11", "deconv12", "conv13", "deconv14"],
        2: ["deconv12", "conv13", "deconv14"],
        1: ["deconv14"],
        0: [],
    }
    for upsamplings, tail in tails.items():
        names = list(convolutions(small(3, upsamplings=upsamplings)))
        assert names == [*trunk, *tail, "decoder_output"]


def test_stages_of_colours_are_left_out_from_the_first_on():
    trunk = ["conv2", "conv3", "conv4", "conv5", "conv6", "conv_extra", "conv7"]
    trunk += ["conv8", "conv9"]
    tails = {2: ["deconv10", "conv11", "deconv12"], 1: ["deconv12"], 0: []}
    for upsamplings, tail in tails.items():
        names = list(convolutions(small(3, upsamplings=upsamplings, layout="colours")))
        assert names == [*trunk, *tail, "decoder_output"]


def test_filters_are_scaled_by_width_but_not_below_the_least():
    filters = convolutions(small(3, width=1 / 16, min_filters=8))
    assert filters == {
        "conv2": 64,
        "conv3": 64,
        "conv4": 32,
        "conv5": 16,
        "conv6": 16,
        "conv7": 8,
        "deconv8": 8,
        "conv9": 8,
        "deconv10": 8,
        "conv11": 8,
        "deconv12": 8,
        "conv13": 8,
        "deconv14": 8,
        "decoder_output": 3,
    }


def test_output_is_tanh_and_alone_has_a_bias():
    decoder = small(3, upsamplings=4)
    prediction = decoder(100 * tf.random.normal((2, 4, 4, 8)), training=True)
    assert np.abs(prediction).max() <= 1
    biased = [layer.name for layer in decoder.layers if getattr(layer, "use_bias", 0)]
    assert biased == ["decoder_output"]
    logits = tf.keras.Model(decoder.input, decoder.get_layer("decoder_output").output)
    x = tf.random.normal((2, 4, 4, 8))
    np.testing.assert_allclose(tf.tanh(logits(x)), decoder(x), rtol=1e-6)


def test_output_of_colours_has_no_bounds_and_sees_single_pixels():
    decoder = small(5, layout="colours")
    logits = decoder(1e6 * tf.random.normal((2, 4, 4, 8)))
    assert np.abs(logits).max() > 1
    output = decoder.get_layer("decoder_output")
    assert output.kernel_size == (1, 1) and output.use_bias


def test_hidden_layers_leak_a_fifth_and_kernels_begin_as_xavier():
    decoder = Decoder(1, width=0.1)
    for layer in decoder.layers:
        if isinstance(layer, tf.keras.layers.LeakyReLU):
            assert layer(tf.constant([-1.0])).numpy() == np.float32(-0.2)
        if hasattr(layer, "kernel"):
            height, width, one, other = layer.kernel.shape
            limit = np.float32(np.sqrt(6 / (height * width * (one + other))))
            assert np.abs(layer.kernel).max() <= limit
            if layer.kernel.shape.num_elements() > 1000:
                assert np.abs(layer.kernel).max() > 0.98 * limit, layer.name


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"channels": 0}, "channels must be positive. Received: 0"),
        (
            {"upsamplings": 5},
            "upsamplings must be a whole number .*0 .* 4. Received: 5",
        ),
        (
            {"upsamplings": 3, "layout": "colours"},
            "upsamplings .* at least 0 and at most 2",
        ),
        ({"layout": "colors"}, r"layout must be one of .*'map', 'colours'.*'colors'"),
        ({"width": -1.0}, r"width must be a number in \(0, 100\]. .* -1.0"),
        ({"min_filters": 0}, "min_filters must be a whole number of at least 1"),
        ({"representation_channels": 0}, "representation_channels must be positive"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match="Decoder: " + message):
        Decoder(**{"channels": 1, **arguments})


@pytest.mark.parametrize(
    "activation, applied",
    [
        (None, tf.tanh),
        ("sigmoid", tf.sigmoid),
        ("softmax", tf.nn.softmax),
        ("linear", tf.identity),
    ],
)
def test_activation_is_that_of_the_output(activation, applied):
    decoder = Decoder(3, 1 / 64, 1, activation=activation)
    before = tf.keras.Model(decoder.input, decoder.get_layer("decoder_output").output)
    inputs = tf.random.stateless_normal((2, 4, 4, 8), (1, 2))
    np.testing.assert_allclose(decoder(inputs), applied(before(inputs)), atol=1e-6)
    twin = Decoder.from_config(decoder.get_config())
    assert twin.activation == decoder.activation == (activation or "tanh")
    assert decoder.get_config()["activation"] == twin.activation


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation must be one of .*'relu'"):
        Decoder(3, activation="relu")
