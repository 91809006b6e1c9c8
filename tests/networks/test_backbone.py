"""What every backbone tells of itself, and the graphs that are none."""

import pytest
import tensorflow as tf

from soka_tf.networks.backbone import Backbone, FeatureLayer

layers = tf.keras.layers


def backbone(before=None, cut="deep", aside=False, head=None, padding="same"):
    """A graph of two layers and a head of two kernels, or one with a fault."""
    images = tf.keras.Input((None, None, 3))
    first = layers.Conv2D(4, 3, 2, padding, name="first")(images)
    if before is not None:
        first = before(first)
    second = layers.Conv2D(5, 3, 2, padding, name="second")(images if aside else first)

    def two_kernels(x):
        return layers.Conv2D(7, 3, 2, "same", name="b")(layers.Dense(6, name="a")(x))

    features = {"shallow": first, "deep": second}
    return Backbone(images, features, cut, head or two_kernels, {"width": 2})


def test_sizes_cut_and_last_kernel_are_those_of_the_graph():
    network = backbone()
    assert network.feature_layers == {
        "shallow": FeatureLayer(4, 2),
        "deep": FeatureLayer(5, 4),
        "representation": FeatureLayer(7, 8),
    }
    assert (network.output_stride, network.representation_channels) == (8, 7)
    assert (network.shared_layer, network.image_channels) == ("deep", 3)
    assert network.last_shared_kernel is network.get_layer("b").kernel
    assert network.get_config() == {"width": 2}
    images = tf.random.stateless_uniform((2, 24, 16, 3), (1, 2))
    outputs, trunk = network(images), network.trunk(images)
    assert set(trunk) == {"shallow", "deep"}
    for name, layer in network.feature_layers.items():
        assert outputs[name].shape[-1] == layer.channels
        assert outputs[name].shape[1] == 24 // layer.stride
    tf.debugging.assert_equal(
        network.compress(trunk["deep"]), outputs["representation"]
    )


@pytest.mark.parametrize(
    "fault, message",
    [
        ({"cut": "third"}, r"Backbone: .*shared layer, 'third'.*\['shallow', 'deep'\]"),
        (
            {"aside": True},
            "Backbone: .*lead to the shared layer, 'deep'.*beside it: first/",
        ),
        ({"head": layers.ReLU()}, "Backbone: the head must have a kernel"),
        ({"before": layers.BatchNormalization(name="bn")}, "Received: 'bn'"),
        (
            {"padding": "valid"},
            "Backbone: .*stride of 'shallow' must be a whole number",
        ),
    ],
)
def test_graph_that_is_no_backbone_is_refused(fault, message):
    with pytest.raises(ValueError, match=message):
        backbone(**fault)
