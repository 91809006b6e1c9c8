import functools

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.encoder import ENCODER_26, Encoder


@functools.cache
def small(**arguments):
    return Encoder(**{"units": (1, 1, 1, 1), "width": 1 / 8, **arguments})


def images(height, width):
    return tf.random.stateless_uniform((2, height, width, 3), (1, 2), -1, 1)


@pytest.mark.parametrize(
    "units, strides, height, width, sizes",
    [
        ((1, 1, 1, 1), (2, 2, 2, 2), 64, 64, [(8, 8), (4, 4), (4, 4), (4, 4)]),
        ((1, 1, 1, 1), (2, 2, 2, 2), 50, 50, [(7, 7), (4, 4), (4, 4), (4, 4)]),
        ((2, 2, 1, 1), (2, 2, 2, 2), 50, 50, [(7, 7), (4, 4), (4, 4), (4, 4)]),
        ((1, 1, 1, 1), (2, 2, 2, 1), 64, 96, [(8, 12)] * 4),
        ((1, 1, 1, 1), (2, 1, 2, 2), 32, 32, [(8, 8), (4, 4), (4, 4), (4, 4)]),
        ((1, 1, 1, 1), (1, 1, 1, 1), 8, 8, [(8, 8)] * 4),
    ],
)
def test_output_shapes_follow_size_and_strides(units, strides, height, width, sizes):
    encoder = small(units=units, strides=strides)
    outputs = encoder(images(height, width))
    expected = {
        f"block{n + 1}": (2, *sizes[n], channels)
        for n, channels in enumerate((32, 64, 128, 256))
    }
    expected["representation"] = (2, *sizes[3], 8)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == expected
    assert encoder.output_stride == np.prod(strides)


def test_compress_of_trunk_equals_the_whole():
    encoder = small(strides=(2, 2, 2, 1))
    for training in (False, True):
        whole = encoder(images(32, 32), training=training)
        blocks = encoder.trunk(images(32, 32), training=training)
        assert set(blocks) == {"block1", "block2", "block3", "block4"}
        for name, value in blocks.items():
            np.testing.assert_array_equal(value, whole[name])
        np.testing.assert_array_equal(
            encoder.compress(blocks["block4"], training=training),
            whole["representation"],
        )


def test_trunk_and_compress_share_the_variables_and_part_them():
    encoder = small()
    trunk = {id(v) for v in encoder.trunk.weights}
    compress = {id(v) for v in encoder.compress.weights}
    assert not trunk & compress
    assert trunk | compress == {id(v) for v in encoder.weights}
    assert {v.name.split("/")[0] for v in encoder.compress.weights} == {"compress1"}
    assert not any(isinstance(layer, tf.keras.Model) for layer in encoder.layers)


def test_last_shared_kernel_is_that_of_compress1():
    encoder = small(representation_channels=5)
    assert encoder.last_shared_kernel is encoder.compress.trainable_variables[0]
    assert encoder.last_shared_kernel.shape == (3, 3, 256, 5)
    assert encoder.representation_channels == 5


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_other_channels_than_three(channels):
    encoder = small(image_channels=channels)
    assert encoder.image_channels == channels
    assert encoder.get_layer("conv1").kernel.shape == (7, 7, channels, 8)
    x = tf.random.stateless_uniform((2, 32, 32, channels), (1, 2), -1, 1)
    np.testing.assert_array_equal(encoder.trunk(x)["block3"], encoder(x)["block3"])


def test_config_saved_before_image_channels_still_builds_the_same():
    config = small().get_config()
    assert config.pop("image_channels") == 3
    assert Encoder.from_config(config).get_config() == small().get_config()


def test_representation_is_never_negative_and_partly_zero():
    representation = small()(images(64, 64), training=True)["representation"].numpy()
    assert representation.min() == 0
    assert 0.2 < (representation == 0).mean() < 0.8


def test_width_scales_all_filters_but_those_of_the_representation():
    encoder = small(width=0.3)
    assert encoder.get_layer("conv1").filters == round(64 * 0.3)
    assert encoder.feature_layers["block3"].channels == round(1024 * 0.3)
    assert encoder.get_layer("compress1").filters == 8
    assert small(width=1e-6).feature_layers["block3"].channels == 1


def test_stride_sits_on_the_last_unit_with_a_pooled_shortcut():
    encoder = small(units=(2, 3, 1, 2))
    strides = {
        layer.name: layer.strides[0]
        for layer in encoder.layers
        if hasattr(layer, "strides") and layer.strides[0] > 1
    }
    assert strides == {
        "conv1": 2,
        "pool1": 2,
        "block1/unit_2/bottleneck_v1/shortcut": 2,
        "block1/unit_2/bottleneck_v1/conv2": 2,
        "block2/unit_3/bottleneck_v1/shortcut": 2,
        "block2/unit_3/bottleneck_v1/conv2": 2,
    }
    shortcut = encoder.get_layer("block1/unit_2/bottleneck_v1/shortcut")
    assert isinstance(shortcut, tf.keras.layers.MaxPool2D)
    assert shortcut.pool_size == (1, 1)


def test_stride_of_a_single_unit_is_taken_by_its_projection():
    shortcut = small().get_layer("block1/unit_1/bottleneck_v1/shortcut")
    assert isinstance(shortcut, tf.keras.layers.Conv2D)
    assert (shortcut.strides, shortcut.kernel_size) == ((2, 2), (1, 1))


def test_pool_with_stride_one_is_left_out():
    names = [layer.name for layer in small(strides=(2, 1, 2, 2)).layers]
    assert "pool1" not in names


def test_strided_convolutions_pad_alike_on_all_sides():
    # SAME would pad 2 on the top and left, and 3 on the bottom and right.
    encoder = Encoder((1, 1, 1, 1), width=1 / 64)  # one of its own, to be changed
    conv1 = tf.keras.Model(encoder.input, encoder.get_layer("conv1").output)
    kernel = np.zeros(conv1.layers[-1].kernel.shape, np.float32)
    kernel[0, 0] = 1
    conv1.layers[-1].kernel.assign(kernel)
    response = conv1(tf.ones((1, 16, 16, 3)))[0, :, :, 0].numpy()
    # The kernel's first tap looks 3 pixels up and left: rows 0, 1 see only padding.
    assert (response[:2] == 0).all() and (response[:, :2] == 0).all()
    assert (response[2:, 2:] == 3).all()


def test_convolutions_have_no_bias_and_he_initial_kernels():
    encoder = small(width=0.3)
    for layer in encoder.layers:
        if isinstance(layer, tf.keras.layers.Conv2D):
            assert not layer.use_bias
            kernel = layer.kernel.numpy()
            deviation = np.sqrt(2 / np.prod(kernel.shape[:-1]))
            if kernel.size > 5000:
                assert kernel.std() == pytest.approx(deviation, rel=0.1), layer.name
                assert np.abs(kernel).max() < 2.3 * deviation, layer.name


def test_units_of_the_small_resnet_give_its_layers():
    encoder = Encoder(ENCODER_26, width=1 / 64)
    convolutions = [
        layer.name
        for layer in encoder.layers
        if isinstance(layer, tf.keras.layers.Conv2D) and "shortcut" not in layer.name
    ]
    assert len(convolutions) == 1 + 3 * sum(ENCODER_26) + 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"units": (3, 4, 6)}, r"units must be 4 integers .*\(3, 4, 6\)"),
        ({"units": (3, 4, 0, 3)}, "units must be 4 integers between 1 and 99"),
        ({"units": "3463"}, "units must be 4 integers.*Received: '3463'"),
        ({"strides": (2, 2, 2, 4)}, "strides must be 4 integers between 1 and 2"),
        ({"strides": (2, 2, 2, 1.5)}, "strides must be 4 integers between 1 and 2"),
        ({"width": 0}, r"width must be a number in \(0, 100\]. Received: 0"),
        ({"image_channels": 0}, "image_channels must be positive. Received: 0"),
        ({"representation_channels": -1}, "representation_channels must be positive"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match="Encoder: " + message):
        Encoder(**arguments)
