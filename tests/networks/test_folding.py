import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.networks.building import as_float32
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


def test_what_cannot_be_folded_is_kept_with_its_weights():
    inputs = tf.keras.Input((None, None, 3))
    x = BatchNorm(name="first")(inputs)
    x = tf.keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = BatchNorm(name="depthwise/BatchNorm")(x)
    x = tf.keras.layers.Conv2D(4, 3, activation="relu", name="with_activation")(x)
    x = BatchNorm(name="with_activation/BatchNorm")(x)
    x = tf.keras.layers.Conv2D(4, 3, dilation_rate=2, padding="same", name="wide")(x)
    x = BatchNorm(name="wide/BatchNorm")(x)
    x = tf.keras.layers.Conv2D(4, 1, groups=2, name="groups")(x)
    before = tf.keras.layers.Conv2D(4, 1, name="seen_twice")(x)
    x = BatchNorm(name="seen_twice/BatchNorm")(before) + before
    x = tf.keras.layers.Conv2DTranspose(4, 3, 2, "valid", name="enlarged")(x)
    x = tf.keras.layers.Conv2D(4, 1, name="plain")(x)
    x = BatchNorm(name="plain/BatchNorm")(x)
    network = tf.keras.Model(inputs, as_float32(x, "end"))
    scatter(network.variables, seed=1)
    folded = fold(network)
    assert error(network, folded) < 1e-5 and folded.trainable_variables == []
    kinds = [type(layer) for layer in folded.layers]
    assert kinds.count(BatchNorm) == 4  # all but those of "plain" and "depthwise"


def test_unknown_precision_is_refused(network):
    with pytest.raises(ValueError, match="Received: 'float16'"):
        fold(network, "float16")
