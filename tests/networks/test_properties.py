"""What is true of every network, whichever it is."""

import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
import tensorflow as tf

import soka_tf.networks
from soka_tf.networks.applications import Application
from soka_tf.networks.backbone import Backbone
from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.networks.building import Rebuildable
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.named_variables import named_variables

# Case -> (class, small arguments, none of them a default in all cases of a class).
SMALL = {
    "encoder": (
        Encoder,
        dict(
            units=(1, 2, 1, 1),
            width=0.05,
            strides=(2, 2, 2, 1),
            representation_channels=6,
            image_channels=2,
            synchronized=True,
            name="small_encoder",
        ),
    ),
    "application": (
        Application,
        dict(
            architecture="MobileNetV2",
            width=0.05,
            output_stride=8,
            representation_channels=6,
            synchronized=True,
            name="small_application",
        ),
    ),
    "decoder": (
        Decoder,
        dict(
            channels=2,
            width=0.05,
            upsamplings=3,
            min_filters=4,
            representation_channels=6,
            layout="map",
            synchronized=True,
            name="small_decoder",
            activation="sigmoid",
        ),
    ),
    "decoder_of_colours": (
        Decoder,
        dict(
            channels=4,
            width=0.02,
            upsamplings=1,
            min_filters=6,
            representation_channels=3,
            layout="colours",
            synchronized=False,
            name="small_decoder_of_colours",
            activation="linear",
        ),
    ),
    "discriminator": (
        Discriminator,
        dict(
            channels=2,
            width=0.05,
            strides=(2, 3, 2),
            synchronized=True,
            name="small_discriminator",
        ),
    ),
}


@pytest.fixture(scope="module", params=SMALL)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def cls(case):
    return SMALL[case][0]


@pytest.fixture(scope="module")
def arguments(case):
    return SMALL[case][1]


@pytest.fixture(scope="module")
def network(cls, arguments):
    network = cls(**arguments)
    # Moving statistics of their own, lest a test pass by mean 0 and variance 1.
    network(inputs(network), training=True)
    return network


def inputs(network, batch=2, size=24, seed=0):
    shape = (batch, size, size, network.input.shape[-1])
    return tf.constant(np.random.RandomState(seed).uniform(-1, 1, shape), tf.float32)


def assert_same(actual, expected):
    tf.nest.assert_same_structure(actual, expected)
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_every_network_of_the_package_is_tested_here():
    found = set()
    for module in pkgutil.iter_modules(soka_tf.networks.__path__):
        module = importlib.import_module(f"soka_tf.networks.{module.name}")
        found |= {
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and issubclass(value, tf.keras.Model)
            and value.__module__ == module.__name__
        }
    assert found - {Backbone, Rebuildable} == {cls for cls, _ in SMALL.values()}


def test_config_names_every_argument_and_rebuilds_the_network(cls, arguments, network):
    config = network.get_config()
    assert set(config) == set(inspect.signature(cls).parameters)
    assert config == arguments
    twin = cls.from_config(config)
    assert twin.get_config() == config
    assert [layer.get_config() for layer in twin.layers] == [
        layer.get_config() for layer in network.layers
    ]


def test_clone_is_a_network_of_its_own(cls, network):
    twin = tf.keras.models.clone_model(network)
    assert type(twin) is cls
    twin.set_weights(network.get_weights())
    assert_same(twin(inputs(network)), network(inputs(network)))
    assert not {id(v) for v in twin.weights} & {id(v) for v in network.weights}


def test_layer_names_are_unique_and_documented(cls, network):
    documentation = inspect.getdoc(inspect.getmodule(cls))
    names = [layer.name for layer in network.layers[1:]]
    assert len(set(names)) == len(names)
    if cls is Application:
        return  # Keras' names
    for name in names:
        for part in re.sub(r"block(\d)", r"block", name).split("/"):
            if re.fullmatch(r"unit_\d+", part):
                part = "unit_"
            assert part in documentation, name


def test_activations_are_layers_of_their_own(network):
    for layer in network.layers:
        if hasattr(layer, "kernel"):
            assert layer.activation is tf.keras.activations.linear, layer.name


def test_all_batch_norms_obey_statistics(network):
    for layer in network.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            assert type(layer) is BatchNorm
            assert layer.momentum == 0.9
            # Keras' own: tests/networks/test_applications.py has them.
            assert layer.epsilon == 1e-5 or isinstance(network, Application)


def test_named_variables_are_all_variables(network):
    named = named_variables(network)
    assert {id(v) for v in named.values()} == {id(v) for v in network.weights}


def test_saved_model_round_trip_serves_any_batch_and_size(network, tmp_path):
    network.export(str(tmp_path / "export"))
    served = tf.saved_model.load(str(tmp_path / "export"))
    for batch, size in ((1, 24), (3, 40)):
        x = inputs(network, batch, size)
        assert_same(served.serve(x), network(x))


def test_keras_file_round_trip_needs_no_custom_objects(cls, network, tmp_path):
    network.save(tmp_path / "network.keras")
    twin = tf.keras.models.load_model(tmp_path / "network.keras")
    assert type(twin) is cls
    assert_same(twin(inputs(network)), network(inputs(network)))


def test_checkpoint_holds_every_variable_once(cls, arguments, network, tmp_path):
    path = tf.train.Checkpoint(network=network).write(str(tmp_path / "checkpoint"))
    saved = [
        name for name, _ in tf.train.list_variables(path) if "VARIABLE_VALUE" in name
    ]
    assert len(saved) == len(network.weights)
    twin = cls(**arguments)
    tf.train.Checkpoint(network=twin).read(path).assert_consumed()
    assert_same(twin(inputs(network)), network(inputs(network)))


def test_graph_and_eager_agree(network):
    assert_same(tf.function(network)(inputs(network)), network(inputs(network)))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_outputs_are_float32_under_a_mixed_policy(cls, arguments, network, policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        half = cls(**arguments)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    half.set_weights(network.get_weights())
    assert {v.dtype for v in half.weights} == {tf.float32}
    kernels = [layer for layer in half.layers if hasattr(layer, "kernel")]
    assert {layer.compute_dtype for layer in kernels} == {policy[len("mixed_") :]}
    for one, other in zip(
        tf.nest.flatten(half(inputs(network))),
        tf.nest.flatten(network(inputs(network))),
    ):
        assert one.dtype == tf.float32
        assert 0 < np.abs(one - other).max() < 0.1 * max(1, np.abs(other).max())
