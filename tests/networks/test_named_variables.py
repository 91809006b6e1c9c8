import numpy as np
import pytest
import tensorflow as tf

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.discriminator import Discriminator
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.named_variables import assign_variables, named_variables


def network():
    return Discriminator(1, width=1 / 16)


def test_paths_are_layer_and_leaf():
    assert list(named_variables(network()))[:6] == [
        "conv1/kernel",
        "conv1/bias",
        "conv2/kernel",
        "conv2/BatchNorm/gamma",
        "conv2/BatchNorm/beta",
        "conv2/BatchNorm/moving_mean",
    ]
    encoder = Encoder((1, 1, 1, 1), width=1 / 16)
    paths = named_variables(encoder)
    assert paths["compress1/kernel"] is encoder.last_shared_kernel
    assert "block4/unit_1/bottleneck_v1/shortcut/BatchNorm/moving_variance" in paths
    assert "deconv14/kernel" in named_variables(Decoder(1, width=1 / 64))


def test_nested_models_are_refused():
    nested = tf.keras.Sequential([network()], name="outer")
    with pytest.raises(ValueError, match="'outer', which holds the model 'discrim"):
        named_variables(nested)


def test_assigned_values_of_half_precision_come_back():
    one, other = network(), network()
    values = {
        path: variable.numpy().astype(np.float16)
        for path, variable in named_variables(one).items()
    }
    assign_variables(other, values)
    for path, variable in named_variables(other).items():
        np.testing.assert_array_equal(variable, values[path].astype(np.float32))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda values: values.pop("conv5/bias"), "in 1 places: missing 'conv5/bias'"),
        (lambda values: values.update(x=np.zeros(1)), "unknown 'x'"),
        (
            lambda values: values.update({"conv5/bias": np.zeros(2)}),
            r"'conv5/bias' of shape \(2,\), not \(1,\)",
        ),
        (lambda values: values.clear(), "missing 'conv1/bias'.*; [.]{3}. Build"),
    ],
)
def test_values_that_do_not_fit_are_refused_and_change_nothing(change, message):
    model = network()
    before = model.get_weights()
    values = {path: v.numpy() + 1 for path, v in named_variables(model).items()}
    change(values)
    with pytest.raises(ValueError, match=message):
        assign_variables(model, values)
    for one, other in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, other)
