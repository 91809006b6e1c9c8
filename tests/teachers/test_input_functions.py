"""What networks are shown, against the original's own input functions."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.teachers.input_functions import INPUTS
from tests.data import test_encodings
from tests.encode_rgb import encode_rgb

# Recorded array -> our input's name.
GOLDEN = {
    "resize_rescale_image/rgb_512@2": "plain",
    "low_sat/rgb_512@4": "low_sat",
    "low_sat/rgb_64x48@2": "low_sat",
    "context_encoder_input/rgb_512@4": "hole",
    "to_light/rgb_512@2": "light",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_input_of_each_kind_equals_the_recorded_array(name, shared_folder):
    source, stride = name.split("/")[1].split("@")
    with np.load(shared_folder / "golden" / "preprocessing.npz") as golden:
        rgb = encode_rgb(golden[f"in/{source}"], 256)
        wanted = golden[f"out/{name}"]
    shown = INPUTS[GOLDEN[name]](tf.constant(rgb)[None])
    assert shown.dtype == tf.float32
    # An enlarged image has its rim repeated here, darkened in the original.
    inside = np.s_[:, :] if source == "rgb_512" else np.s_[4:-4, 4:-4]
    step = int(stride)
    np.testing.assert_allclose(
        shown[0, ::step, ::step][inside], wanted[inside], rtol=0, atol=1e-6
    )


def test_every_recorded_array_is_compared_by_some_test(shared_folder):
    with np.load(shared_folder / "golden" / "preprocessing.npz") as golden:
        recorded = {key[len("out/") :] for key in golden if key.startswith("out/")}
    assert recorded == {*test_encodings.GOLDEN, *GOLDEN}


@pytest.mark.parametrize(
    "name, channels", [(n, 1 if n == "light" else 3) for n in INPUTS]
)
def test_input_of_any_batch_and_size_is_the_same_in_a_graph(name, channels):
    function = INPUTS[name]
    graph = tf.function(
        function, input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)]
    )
    for shape in ((1, 8, 8, 3), (2, 5, 14, 3)):
        rgb = tf.random.stateless_uniform(shape, (1, 2), -1, 1)
        shown = function(rgb)
        assert shown.shape == (*shape[:3], channels)
        assert np.abs(shown).max() <= 1
        np.testing.assert_allclose(graph(rgb), shown, rtol=0, atol=1e-6)


def test_hole_takes_the_middle_half_rounded_down():
    shown = INPUTS["hole"](tf.ones((1, 6, 8, 3)))[0, :, :, 0].numpy()
    wanted = np.ones((6, 8))
    wanted[1:4, 2:6] = 0
    np.testing.assert_array_equal(shown, wanted)


def test_light_of_black_grey_and_white_is_their_lightness():
    grey = np.array([0, 5, 119, 255]) / 255 * 2 - 1  # both branches of both curves
    rgb = np.repeat(grey, 3).reshape(1, 1, 4, 3).astype(np.float32)
    lightness = (INPUTS["light"](tf.constant(rgb)).numpy().ravel() + 1) * 50
    np.testing.assert_allclose(lightness, [0, 1.3709, 50.0344, 100], atol=1e-3)
