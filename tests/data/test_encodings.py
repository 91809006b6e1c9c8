"""Encodings: the original's arithmetic, and the way back."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data import encodings, pipeline
from soka_tf.errors import UserError
from soka_tf.task_definitions import task_of
from soka_tf.tasks import TASKS
from tests import own_tasks
from tests.encode_rgb import encode_rgb

OWN = [task_of(*item) for item in own_tasks.DEFINITIONS.items()]
TARGETS = [task for task in TASKS.values() if task.role == "target"] + OWN


def _clipped(task):
    encoding = dataclasses.replace(task.encoding, clip=True)
    return dataclasses.replace(task, encoding=encoding)


def _label(name):
    return lambda pixels: encodings.encode(TASKS[name], pixels, 256)


GOLDEN = {
    "resize_rescale_image/rgb_512@2": _label("normal"),
    "resize_rescale_image/rgb_64x48@2": _label("normal"),
    "resize_and_rescale_image_log/depth_512@1": _label("depth_zbuffer"),
    "resize_and_rescale_image_log/depth_64x48@1": _label("depth_euclidean"),
    "resize_and_rescale_image_log/depth_300x340@2": _label("depth_zbuffer"),
    "edge3d_gaussian_blur/edge_512@1": _label("edge_occlusion"),
    "edge3d_gaussian_blur/edge_64x48@2": _label("edge_occlusion"),
    "edge3d_gaussian_blur_clipped/edge_512@2": lambda pixels: encodings.encode(
        _clipped(TASKS["edge_occlusion"]), pixels, 256
    ),
    "edge2d_scale_0.08/edge_512@2": _label("edge_texture"),
    "edge2d_scale_0.08/edge_64x48@2": _label("edge_texture"),
    "keypoint2d_scale_0.005/edge_512@2": _label("keypoints2d"),
    "keypoint2d_scale_0.005/edge_64x48@2": _label("keypoints2d"),
    "resize_rescale_image_16bit/depth_512@2": _label("keypoints3d"),
    "resize_rescale_image_16bit/depth_64x48@2": _label("keypoints3d"),
    "resize_rescale_image_16bit/depth_300x340@2": _label("reshading"),
    "curvature_preprocess/curv_512@2": _label("principal_curvature"),
    "make_mask_c1/depth_512@1": lambda pixels: encodings.valid_mask(pixels, 256),
    "make_mask_c1/depth_64x48@1": lambda pixels: encodings.valid_mask(pixels, 256),
    "make_mask_c2/depth_512@1": lambda pixels: np.repeat(
        encodings.valid_mask(pixels, 256, channels=2), 2, axis=-1
    ),
    "make_mask_c2/depth_64x48@1": lambda pixels: np.repeat(
        encodings.valid_mask(pixels, 256, channels=2), 2, axis=-1
    ),
    "mask_raw_c1/depth_64x48@1": lambda pixels: encodings.has_reading(pixels).astype(
        np.float32
    ),
    "low_sat/rgb_512@4": lambda pixels: encodings.low_saturation(
        encode_rgb(pixels, 256)
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_encode_original_input_equals_recorded_array(name, shared_folder):
    with np.load(shared_folder / "golden" / "preprocessing.npz") as golden:
        pixels = golden["in/" + name.split("/")[1].split("@")[0]]
        wanted = golden["out/" + name]
    stride = int(name.split("@")[1])
    values = GOLDEN[name](pixels)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[::stride, ::stride], wanted, rtol=0, atol=1e-6)


def test_encode_rgb_original_input_equals_recorded_array(shared_folder):
    with np.load(shared_folder / "golden" / "preprocessing.npz") as golden:
        reduced = encode_rgb(golden["in/rgb_512"], 256)[::2, ::2]
        wanted = golden["out/resize_rescale_image/rgb_512@2"]
        enlarged = encode_rgb(golden["in/rgb_64x48"], 256)[::2, ::2]
        wanted_enlarged = golden["out/resize_rescale_image/rgb_64x48@2"]
    np.testing.assert_allclose(reduced, wanted, rtol=0, atol=1e-6)
    inside = np.s_[4:-4, 4:-4]  # we repeat the rim, the original darkens it
    np.testing.assert_allclose(
        enlarged[inside], wanted_enlarged[inside], rtol=0, atol=1e-6
    )


def test_encode_depth_takes_the_logarithm_before_resizing():
    pixels = np.array([[1000, 9000], [1000, 9000]], np.uint16)[..., None]
    values = encodings.encode(TASKS["depth_zbuffer"], pixels, 1)
    logs = np.log([1001.0, 9001.0]) / np.log(65536.0)
    assert values[0, 0, 0] == pytest.approx(logs.mean(), abs=1e-7)


def test_encode_half_size_is_the_mean_of_four_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    values = encodings.encode(TASKS["normal"], pixels, 4)
    means = pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(values, means / 255 * 2 - 1, atol=1e-6)


def test_encode_clips_only_where_the_table_says_so():
    pixels = np.full((4, 4, 1), 65535, np.uint16)
    assert encodings.encode(TASKS["edge_texture"], pixels, 4).max() == 1
    assert encodings.encode(TASKS["edge_occlusion"], pixels, 4).max() > 300


def test_encode_divides_by_full_scale_of_the_file_not_of_the_table():
    eight = np.full((2, 2, 1), 255, np.uint8)
    sixteen = np.full((2, 2, 1), 65535, np.uint16)
    for pixels in (eight, sixteen):
        assert encodings.encode(TASKS["reshading"], pixels, 2).max() == 1


def test_encode_blur_is_scaled_with_the_image():
    pixels = np.zeros((64, 64, 1), np.uint16)
    pixels[32, 32] = 60000
    values = encodings.encode(TASKS["edge_occlusion"], pixels, 64)[..., 0] + 1
    offsets = np.arange(64) - 32
    variance = (values.sum(axis=0) * offsets**2).sum() / values.sum()
    assert variance == pytest.approx(1.0, rel=0.05)  # sigma 4 px of 256 is 1 px of 64


@pytest.mark.parametrize(
    "name, pixels, text",
    [
        ("depth_zbuffer", np.zeros((4, 4, 1), np.uint8), "needs 16 bits"),
        ("normal", np.zeros((4, 4, 1), np.uint8), "needs 3 channels"),
        ("normal", np.zeros((4, 4, 3), np.float32), "must be uint8 or uint16"),
        ("normal", np.zeros((4, 4), np.uint8), r"Received: uint8 \[4, 4\]"),
        ("jigsaw", np.zeros((4, 4, 1), np.uint8), "has no label files"),
    ],
)
def test_encode_impossible_label_says_what_it_needs(name, pixels, text):
    with pytest.raises(UserError, match=text):
        encodings.encode(TASKS[name], pixels, 4)


def _physical(task, rng, size=16):
    """Random values that a file of this task can hold without loss of range."""
    shape = (size, size, task.channels)
    kind = task.encoding.kind
    if kind == "log_depth":
        return rng.uniform(0.1, 120.0, shape)
    if kind == "direction":
        values = rng.standard_normal(shape)
        return values / np.linalg.norm(values, axis=-1, keepdims=True)
    if kind == "standardize":
        return rng.uniform(0.0, 255.0, shape)
    if kind == "classes":
        return np.eye(task.channels)[rng.integers(0, task.channels, shape[:2])]
    return rng.uniform(task.encoding.low, task.encoding.high, shape)


@pytest.mark.parametrize("task", TARGETS, ids=lambda task: task.name)
def test_decode_of_encoded_stored_values_returns_them(task):
    if task.encoding.blur_sigma_px:
        encoding = dataclasses.replace(task.encoding, blur_sigma_px=0.0)
        task = dataclasses.replace(task, encoding=encoding)
    physical = _physical(task, np.random.default_rng(1))
    pixels = encodings.store(task, physical)
    assert pixels.dtype == (np.uint8 if task.encoding.bits == 8 else np.uint16)
    decoded = encodings.decode(task, encodings.encode(task, pixels, 16))
    step = {"log_depth": 1 / 512, "standardize": 1.0, "direction": 3 / 255}.get(
        task.encoding.kind, 1 / (2**task.encoding.bits - 1)
    )
    if task.encoding.kind == "continuous":
        step *= task.encoding.high - task.encoding.low
    relative = 1e-5 if task.encoding.kind == "log_depth" else 1e-6
    np.testing.assert_allclose(decoded, physical, atol=0.51 * step, rtol=relative)


@pytest.mark.parametrize("task", TARGETS, ids=lambda task: task.name)
def test_decode_of_tensors_equals_decode_of_arrays(task):
    rng = np.random.default_rng(2)
    values = rng.uniform(-1, 1, (2, 4, 4, task.channels)).astype(np.float32)
    wanted = encodings.decode(task, values)
    eager = encodings.decode(task, tf.constant(values))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, task.channels])])
    def traced(inputs):
        return encodings.decode(task, inputs)

    symbolic = tf.keras.Input((None, None, task.channels))
    model = tf.keras.Model(symbolic, encodings.decode(task, symbolic))
    assert wanted.dtype == np.float32
    for result in (eager, traced(tf.constant(values)), model(values)):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


def test_decode_direction_zero_vector_stays_finite():
    values = np.zeros((1, 1, 3), np.float32)
    assert np.isfinite(encodings.decode(TASKS["normal"], values)).all()


def test_decode_depth_gives_metres():
    pixels = np.full((2, 2, 1), 1024, np.uint16)
    task = TASKS["depth_zbuffer"]
    metres = encodings.decode(task, encodings.encode(task, pixels, 2))
    np.testing.assert_allclose(metres, 2.0, rtol=1e-5)


def test_store_missing_values_become_the_datas_own_sign():
    nothing = np.array([np.nan, np.inf])[None, :, None]
    assert (encodings.store(TASKS["depth_zbuffer"], nothing) == 65535).all()
    directions = np.full((1, 2, 3), np.nan)
    assert (encodings.store(TASKS["normal"], directions) == 128).all()


def test_store_values_out_of_range_do_not_wrap():
    far = np.array([-1.0, 1000.0])[None, :, None]
    stored = encodings.store(TASKS["depth_zbuffer"], far)
    assert stored.ravel().tolist() == [0, 64499]
    assert (encodings.valid_mask(stored, 2)[0] == 1).all()
    shades = encodings.store(TASKS["reshading"], far)
    assert shades.ravel().tolist() == [0, 255]


def test_store_two_channels_gives_a_file_that_can_be_written():
    pixels = encodings.store(TASKS["principal_curvature"], np.full((2, 2, 2), 7.0))
    assert pixels.shape == (2, 2, 3) and pixels[0, 0].tolist() == [7, 7, 0]


def test_valid_mask_drops_neighbours_of_missing_pixels():
    pixels = np.full((8, 8, 1), 1000, np.uint16)
    pixels[0, 0] = 65535
    mask = encodings.valid_mask(pixels, 4)
    assert mask.dtype == np.float32 and mask.shape == (4, 4, 1)
    assert mask[0, 0, 0] == 0 and mask.sum() == 15


def test_low_saturation_cuts_at_a_tenth_and_nine_tenths():
    values = np.linspace(-1, 1, 41, dtype=np.float32)
    wanted = np.clip(values, -0.8, 0.8)
    np.testing.assert_allclose(encodings.low_saturation(values), wanted, atol=1e-6)
    tensor = encodings.low_saturation(tf.constant(values))
    np.testing.assert_allclose(tensor, wanted, atol=1e-6)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("height, width", [(64, 64), (128, 128), (80, 200), (24, 40)])
def test_encode_rgb_equals_its_twin_in_tensorflow(height, width, antialias):
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    wanted = encode_rgb(pixels, 64, antialias)
    whole = pipeline.preprocess_images(tf.constant(pixels)[None], 64, antialias)
    fractions = tf.constant(pixels / 255.0)[None]
    parts = pipeline.preprocess_images(fractions, 64, antialias)
    assert wanted.shape == (64, 64, 3) and wanted.dtype == np.float32
    for twin in (whole[0], parts[0]):
        assert twin.dtype == tf.float32
        np.testing.assert_allclose(twin, wanted, rtol=0, atol=2e-5)


def _own(kind, **fields):
    return task_of("own", {"kind": kind, **fields})


def test_labels_of_own_tasks_are_nan_where_the_file_has_no_value():
    depth = np.full((4, 4, 1), 1024, np.uint16)
    depth[0, 0] = 65535
    found = encodings.encode(_own("log_depth"), depth, 4)
    assert np.isnan(found[0, 0, 0]) and np.isnan(found).sum() == 1
    half = encodings.encode(_own("log_depth"), depth, 2)  # bled into its neighbours
    assert np.isnan(half[0, 0, 0]) and np.isnan(half).sum() == 1

    indices = np.array([[0, 1], [2, 255]], np.uint8)[..., None]
    classes = encodings.encode(_own("classes", channels=3), indices, 2)
    np.testing.assert_array_equal(classes[0], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(classes[1], [[0, 0, 1], [np.nan] * 3])

    vectors = np.array([[[255, 128, 128], [128, 128, 127]]] * 2, np.uint8)
    directions = encodings.encode(_own("direction"), vectors, 2)
    assert np.isnan(directions[:, 1]).all()
    np.testing.assert_allclose(directions[:, 0, 0], 1.0)


@pytest.mark.parametrize("size", [2, 3, 4, 8, 16])
def test_classes_are_resized_by_their_nearest_pixels(size):
    indices = np.zeros((8, 4), np.uint8)
    indices[:, 2:] = 3  # an edge in the middle, and none of the classes between
    label = encodings.encode(_own("classes", channels=4), indices[..., None], size)
    found = label.argmax(-1)
    assert set(np.unique(found)) == {0, 3}
    assert (found[:, : size // 2] == 0).all() and (
        found[:, (size + 1) // 2 :] == 3
    ).all()


def test_enlarged_label_of_an_own_task_has_no_dark_rim():
    pixels = np.full((2, 2, 1), 65535, np.uint16)
    for task in (_own("continuous", range=[2, 6]), _own("probability")):
        enlarged = encodings.decode(task, encodings.encode(task, pixels, 8))
        np.testing.assert_allclose(enlarged, task.display_range[1], rtol=1e-6)


def test_store_classes_keeps_indices_and_marks_missing():
    task = _own("classes", channels=3)
    maps = np.array([[[0.2, 0.5, 0.3], [0.9, 0.1, 0.0], [np.nan, 0.0, 1.0]]])
    assert encodings.store(task, maps).tolist() == [[[1], [0], [255]]]


@pytest.mark.parametrize(
    "task",
    [t for t in TARGETS if t.encoding.kind != "standardize"],
    ids=lambda t: t.name,
)
def test_to_network_range_is_the_way_back_from_units(task):
    values = np.random.default_rng(3).uniform(0.1, 0.9, (2, 3, 3, task.channels))
    values = values.astype(np.float32)
    if task.is_direction:
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
    physical = encodings.decode(task, values)
    for given in (physical, tf.constant(physical)):
        back = encodings.to_network_range(task, given)
        np.testing.assert_allclose(back, values, rtol=1e-5, atol=1e-5)
