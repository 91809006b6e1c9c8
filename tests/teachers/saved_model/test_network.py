"""A SavedModel with a manifest gives what calling it by hand gives."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.encodings import decode
from soka_tf.errors import UserError
from soka_tf.teachers import load_teacher
from soka_tf.teachers.pool import TeacherPool
from tests.teachers.saved_model import folders


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return random.uniform(-1, 1, (3, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def caffe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caffe")
    return folder, folders.write_caffe(folder)


def by_hand(module, images):
    """What the manifest of `folders.CAFFE` says, in other words."""
    pixels = tf.image.resize((images + 1) * 127.5, (100, 140), antialias=True)
    red, green, blue = tf.unstack(pixels, axis=-1)
    scaled = tf.stack(
        [(blue - 104.0) / 57.1, (green - 116.7) / 57.4, (red - 122.7) / 58.4], -1
    )
    layer, logits = module.by_hand(scaled)
    return layer, tf.image.resize(tf.sigmoid(logits), (64, 64), antialias=True)


def test_bgr_mean_nchw_another_size_and_logits_are_as_by_hand(caffe, images):
    folder, module = caffe
    teacher = load_teacher(folder)
    outputs = teacher(images)
    layer, prediction = by_hand(module, images)
    assert set(outputs) == {"prediction", "c/4"}
    assert outputs["prediction"].shape == (3, 64, 64, 1)
    assert outputs["prediction"].dtype == tf.float32
    np.testing.assert_allclose(outputs["prediction"], prediction, atol=1e-5)
    np.testing.assert_allclose(outputs["c/4"], layer, atol=1e-5)
    assert teacher.layers == {"c/4": (5, 4)}
    assert teacher.task.name == "my_edges" and teacher.task.channels == 1
    assert teacher.count_parameters() == 3 * 3 * 3 * 5 + 5
    spread = float(tf.math.reduce_std(outputs["prediction"]))
    assert spread > 0.01  # or a wrong order of the channels would not be seen


def save(folder, serve, manifest, shape=(None, None, None, 3), dtype=tf.float32):
    return folders.save(folder, tf.Module(), shape, manifest, dtype, serve)


@pytest.mark.parametrize("size", [None, [32, 32], [100, 140], [256, 40], [61, 67]])
def test_edge_stays_where_it_is_at_any_size_of_the_network(tmp_path, size):
    def serve(images):
        return {"logits": (images[..., :1] + images[..., 1:2]) / 2}

    manifest = {
        "input": {"range": [0, 1], "size": size},
        "prediction": {"output": "logits", "range": [0, 1]},
    }
    teacher = load_teacher(save(tmp_path, serve, manifest))
    for row, column in ((20, 37), (33, 11)):
        image = -np.ones((1, 64, 64, 3), np.float32)
        image[:, row:, column:] = 1
        said = teacher(image)["prediction"][0, ..., 0].numpy()
        # The area that is bright gives the place of an edge to parts of a pixel.
        assert abs(said[:, 50].sum() - (64 - row)) < 0.1
        assert abs(said[50, :].sum() - (64 - column)) < 0.1


@pytest.mark.parametrize(
    "given, dtype, wanted",
    [
        ({"range": [-1, 1]}, tf.float32, lambda x: x),
        ({"range": [0, 1]}, tf.float16, lambda x: (x + 1) / 2),
        ({"range": [0, 255]}, tf.float32, lambda x: (x + 1) * 127.5),
        ({"range": [0, 255]}, tf.uint8, lambda x: np.rint((x + 1) * 127.5)),
        (
            {"range": [0, 1], "mean": [0.485, 0.456, 0.406], "std": [0.2, 0.3, 0.4]},
            tf.float32,
            lambda x: ((x + 1) / 2 - (0.485, 0.456, 0.406)) / (0.2, 0.3, 0.4),
        ),
        (
            {"range": [0, 255], "channel_order": "bgr", "mean": [103, 116, 123]},
            tf.float32,
            lambda x: (x[..., ::-1] + 1) * 127.5 - (103, 116, 123),
        ),
    ],
)
def test_images_are_what_the_manifest_says(tmp_path, images, given, dtype, wanted):
    def serve(images):
        return {"logits": tf.cast(images, tf.float32)}

    task = {"kind": "continuous", "channels": 3, "range": [0, 1]}
    manifest = {
        "task": "three",
        "task_definition": task,
        "input": given,
        "prediction": {"output": "logits", "range": [0, 1]},
    }
    teacher = load_teacher(save(tmp_path, serve, manifest, dtype=dtype))
    said = teacher(images)["prediction"]
    assert said.dtype == tf.float32
    rounding = 1e-3 if dtype == tf.float16 else 1e-5
    np.testing.assert_allclose(said, wanted(images), rtol=1e-5, atol=rounding)


@pytest.mark.parametrize(
    "activation, by_hand, ends",
    [
        ("none", lambda x: x, [-9, 9]),
        ("sigmoid", tf.sigmoid, [0, 1]),
        ("softmax", tf.nn.softmax, [0, 1]),
        ("tanh", tf.tanh, [-1, 1]),
    ],
)
def test_activation_is_applied_and_the_range_is_that_of_its_values(
    tmp_path, images, activation, by_hand, ends
):
    def serve(images):
        return {"logits": tf.transpose(4.0 * images - 1.0, [0, 3, 1, 2])}

    manifest = {
        "task": "kinds",
        "task_definition": {"kind": "classes", "classes": ["a", "b", "c"]},
        "input": {"range": [0, 1]},
        "prediction": {
            "output": "logits",
            "layout": "nchw",
            "activation": activation,
            "range": ends,
        },
    }
    teacher = load_teacher(save(tmp_path, serve, manifest))
    said = teacher(images)["prediction"]
    np.testing.assert_allclose(said, by_hand(2 * images + 1), atol=1e-5)
    assert teacher.layers == {}


@pytest.mark.parametrize(
    "name, definition, said, ends, wanted",
    [
        ("metres", {"kind": "log_depth"}, 3.0, [0, 10], 3.0),
        ("edge_texture", None, 127.5, [0, 255], 0.04),
        ("height", {"kind": "continuous", "range": [2, 6]}, 0.25, [0, 1], 3.0),
        ("upright", {"kind": "direction"}, 0.5, [0, 1], 0.0),
        ("chance", {"kind": "probability"}, 0.5, [-1, 1], 0.75),
        ("principal_curvature", None, 0.5, [0, 1], 127.5),
    ],
)
def test_student_learns_it_in_the_unit_of_the_task(
    tmp_path, name, definition, said, ends, wanted
):
    channels = 3 if name == "upright" else 2 if "curvature" in name else 1

    def serve(images):
        return {"logits": 0 * images[..., :channels] + said}

    manifest = {
        "task": name,
        "task_definition": definition,
        "prediction": {"output": "logits", "range": ends},
    }
    teacher = load_teacher(save(tmp_path, serve, manifest))
    pool = TeacherPool({name: teacher})
    images = tf.zeros([1, 16, 16, 3])
    np.testing.assert_allclose(teacher(images)["prediction"], said, rtol=1e-6)
    inside = pool(images, ()).maps[name]
    np.testing.assert_allclose(decode(teacher.task, inside), wanted, rtol=1e-5)


def test_network_of_any_size_has_known_shapes_in_a_graph(tmp_path):
    module = folders.TwoConvolutions(nchw=False)
    manifest = {"layers": {"c/4": {"output": "c4"}}}
    teacher = load_teacher(
        folders.save(tmp_path, module, [None, None, None, 3], manifest)
    )
    run = tf.function(teacher, [tf.TensorSpec([None, 48, 80, 3])], autograph=False)
    shapes = run.get_concrete_function().structured_outputs
    assert shapes["c/4"].shape.as_list() == [None, 12, 20, 5]
    assert shapes["prediction"].shape.as_list() == [None, 48, 80, 1]
    unknown = tf.function(teacher, [tf.TensorSpec([None, None, None, 3])])
    images = tf.random.uniform([2, 48, 80, 3], -1, 1, seed=1)
    for name, value in teacher(images).items():
        np.testing.assert_allclose(run(images)[name], value, atol=1e-6)
        np.testing.assert_allclose(unknown(images)[name], value, atol=1e-6)


def test_teacher_is_frozen(caffe, images):
    folder, _ = caffe
    teacher = load_teacher(folder)
    with tf.GradientTape() as tape:
        said = tf.reduce_sum(teacher(images)["prediction"])
    assert tape.watched_variables() == () or all(
        gradient is None for gradient in tape.gradient(said, tape.watched_variables())
    )
    assert not isinstance(teacher, (tf.Module, tf.keras.Model))


@pytest.mark.parametrize(
    "shape, outputs, said",
    [
        (
            [1, None, None, 3],
            {},
            "takes (1, None, None, 3). Export the network with a f",
        ),
        ([None, None, None, 4], {}, "takes (None, None, None, 4)."),
        ([None, 9], {}, "takes (None, 9)."),
        (
            None,
            {"logits": lambda x: tf.reduce_sum(x, -1)},
            "of 4 dimensions. Received: ",
        ),
        (None, {"logits": lambda x: tf.cast(x, tf.int32)}, "'logits', int32 (1, 128, "),
        (
            None,
            {"logits": lambda x: tf.ensure_shape(x, [None, 96, 96, 3])},
            "cannot be run on images of 128 x 128 pixels",
        ),
    ],
)
def test_signature_that_cannot_teach_is_refused(tmp_path, shape, outputs, said):
    def serve(images):
        functions = {"logits": lambda x: x, **outputs}
        return {name: function(images) for name, function in functions.items()}

    save(tmp_path, serve, {}, shape or [None, None, None, 3])
    with pytest.raises(UserError) as refused:
        load_teacher(tmp_path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_signature_of_two_arguments_is_refused(tmp_path):
    spec = tf.TensorSpec([None, None, None, 3], name="images")
    more = tf.TensorSpec([], tf.float32, name="more")
    module = tf.Module()
    serve = tf.function(lambda images, more: {"logits": images + more})
    saved = serve.get_concrete_function(spec, more)
    tf.saved_model.save(module, str(tmp_path / "net"), signatures=saved)
    folders.write(tmp_path, {})
    with pytest.raises(UserError, match="takes images and nothing else. Received: "):
        load_teacher(tmp_path)


def test_xla_compiles_it_as_of_a_compiled_step(caffe, images):
    folder, _ = caffe
    teacher = load_teacher(folder)
    compiled = tf.function(teacher, jit_compile=True, autograph=False)(images)
    for name, value in teacher(images).items():
        np.testing.assert_allclose(compiled[name], value, atol=1e-5)
