import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.folding import fold, sub_pixel_kernel
from tests.soka.small import scatter

NETWORKS = {
    "encoder": lambda: Encoder(units=(1, 2, 1, 1), width=1 / 16),
    "grey encoder": lambda: Encoder((1, 1, 1, 1), 1 / 32, (2, 1, 1, 2), 5, 1),
    "map decoder": lambda: Decoder(2, width=1 / 16),
    "colour decoder": lambda: Decoder(7, width=1 / 32, layout="colours"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    network = NETWORKS[request.param]()
    scatter(network.variables, seed=1)
    return network


def inputs_of(network, size=17, batch=3):
    shape = (batch, size, size + 8, network.input.shape[-1])
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def outputs_of(network, inputs):
    """Name -> array; a function, as it is exported, for kernels are fused there."""
    outputs = tf.function(network, autograph=False)(inputs, training=False)
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    assert all(value.dtype == tf.float32 for value in outputs.values())
    return {name: value.numpy() for name, value in outputs.items()}


def error(network, folded):
    """The largest error of any output, in its own deviations."""
    inputs = inputs_of(network)
    expected, found = outputs_of(network, inputs), outputs_of(folded, inputs)
    assert set(found) == set(expected)
    return max(
        np.sqrt(np.mean((found[name] - value) ** 2)) / value.std()
        for name, value in expected.items()
    )


def test_folded_network_is_the_same_function(network):
    assert error(network, fold(network)) < 1e-5


def test_folded_network_in_bfloat16_is_nearly_the_same(network):
    folded = fold(network, "bfloat16")
    assert 1e-4 < error(network, folded) < 0.03


def test_folded_network_has_neither_batch_norm_nor_what_could_be_trained(network):
    folded = fold(network)
    assert folded.trainable_variables == []
    assert {v.name.split("/")[-1] for v in folded.variables} == {"kernel:0", "bias:0"}
    graph = tf.function(folded).get_concrete_function(
        tf.TensorSpec(network.input.shape)
    )
    operations = {op.type for op in graph.graph.get_operations()}
    assert not operations & {"FusedBatchNormV3", "Conv2DBackpropInput"}


def test_folded_network_keeps_what_it_was_made_of():
    network = NETWORKS["map decoder"]()
    inputs = inputs_of(network)
    before = outputs_of(network, inputs)[""]
    folded = fold(network)
    scatter(network.variables, seed=2)
    assert np.abs(outputs_of(network, inputs)[""] - before).max() > 1e-3
    np.testing.assert_allclose(outputs_of(folded, inputs)[""], before, atol=1e-6)


@pytest.mark.parametrize("size, factor", [(3, 2), (4, 2), (5, 2), (3, 3), (3, 8)])
def test_sub_pixel_kernel_is_the_transposed_convolution(size, factor):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(size, size, 2, 3))
    x = random.normal(size=(2, 5, 4, 2))
    sub_pixel, padding = sub_pixel_kernel(kernel, factor)
    found = tf.nn.conv2d(tf.pad(x, padding), sub_pixel, 1, "VALID")
    expected = tf.nn.conv2d_transpose(
        x, kernel.swapaxes(2, 3), (2, 5 * factor, 4 * factor, 3), factor, "SAME"
    )
    np.testing.assert_allclose(
        tf.nn.depth_to_space(found, factor), expected, atol=1e-12
    )


def test_batch_norm_behind_no_convolution_is_refused():
    inputs = tf.keras.Input((None, None, 3))
    outputs = BatchNorm(name="conv1/BatchNorm")(inputs)
    with pytest.raises(ValueError, match="'conv1/BatchNorm' follows no convolution"):
        fold(tf.keras.Model(inputs, outputs))


def test_unknown_precision_is_refused(network):
    with pytest.raises(ValueError, match="Received: 'float16'"):
        fold(network, "float16")
