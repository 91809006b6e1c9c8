"""Backbones of tf.keras.applications: Keras' function, trained, folded, exported."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf.data.samples import Sample
from soka_tf.errors import UserError
from soka_tf.networks.applications import APPLICATIONS, Application
from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.networks.folding import fold
from soka_tf.networks.multiply_adds import count_multiply_adds
from soka_tf.runs.build_networks import bound_encoder, build_student
from soka_tf.runs.checkpoints import restore_student
from soka_tf.runs.config import parse_gin
from soka_tf.runs.training_loop import train
from soka_tf.serving import formats
from soka_tf.serving.saved_model import export_student
from soka_tf.tasks import get_targets
from tests.soka.small import scatter

keras = tf.keras.applications
# Architecture -> its Keras network, that one's preprocessing, and the layer it ends in.
KERAS = {
    "MobileNetV2": (keras.MobileNetV2, keras.mobilenet_v2, "block_12_add"),
    "EfficientNetV2B0": (keras.EfficientNetV2B0, keras.efficientnet_v2, "block5e_add"),
    "ResNet50": (keras.ResNet50, keras.resnet50, "conv4_block6_out"),
}
SIZE = 32
PAIRS = [("block3", "C4"), ("representation", "representation")]
ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "tf2onnx")))
# Largest rms error of the maps, in parts of their spread, as in tests/serving.
TOLERANCE = {
    "saved_model": 0.05,
    "tflite_float16": 0.01,
    "tflite_int8": 0.15,
    "onnx": 1e-4,
}


def keras_network(architecture, **arguments):
    make = KERAS[architecture][0]
    return make(include_top=False, weights=None, **arguments)


def test_every_architecture_is_tested():
    assert set(KERAS) == set(APPLICATIONS)


@pytest.mark.parametrize("architecture", APPLICATIONS)
def test_published_weights_make_it_the_function_of_keras(architecture, tmp_path):
    _, module, end = KERAS[architecture]
    theirs = keras_network(architecture)
    norms = [
        x for x in theirs.layers if isinstance(x, tf.keras.layers.BatchNormalization)
    ]
    scatter([v for norm in norms for v in norm.variables], seed=1)
    theirs.save_weights(tmp_path / "no_top.h5")
    ours = Application(architecture)
    before = ours.last_shared_kernel.numpy()
    ours.read_weights(str(tmp_path / "no_top.h5"))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 48, 3)).astype("f4")
    stage = tf.keras.Model(theirs.input, theirs.get_layer(end).output)
    expected = stage(module.preprocess_input((images + 1) * 127.5)).numpy()
    found = ours(images)["C4"].numpy()
    assert np.sqrt(np.mean((found - expected) ** 2)) < 1e-5 * expected.std()
    np.testing.assert_array_equal(ours.last_shared_kernel, before)
    theirs = {norm.name: norm.epsilon for norm in norms}
    for layer in ours.layers:
        if isinstance(layer, BatchNorm):
            assert layer.momentum == 0.9
            assert layer.epsilon == theirs.get(layer.name, 1e-5)


@pytest.mark.parametrize("architecture", APPLICATIONS)
@pytest.mark.parametrize("output_stride", [4, 8, 16])
def test_features_are_the_stages_up_to_the_output_stride(architecture, output_stride):
    network = Application(architecture, 0.1, output_stride, 5)
    strides = [layer.stride for layer in network.feature_layers.values()]
    assert strides == [s for s in (4, 8, 16) if s <= output_stride] + [output_stride]
    assert list(network.feature_layers)[:-1] == ["C2", "C3", "C4"][: len(strides) - 1]
    outputs = network(tf.zeros([1, 48, 32, 3]))
    for name, layer in network.feature_layers.items():
        shape = (1, 48 // layer.stride, 32 // layer.stride, layer.channels)
        assert outputs[name].shape == shape


@pytest.mark.parametrize("architecture", APPLICATIONS)
def test_training_passes_agree_and_every_weight_has_a_gradient(architecture):
    network = Application(architecture, 0.1)
    images = tf.random.stateless_uniform((2, 32, 32, 3), (1, 2), -1)
    with tf.GradientTape() as tape:
        first = network(images, training=True)
        loss = tf.add_n([tf.reduce_sum(x * x * x) for x in first.values()])
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    second = network(images, training=True)
    tf.debugging.assert_equal(second["representation"], first["representation"])


@pytest.mark.parametrize("architecture", APPLICATIONS)
def test_folded_network_keeps_no_batch_norm_and_is_the_same_function(architecture):
    network = Application(architecture, 0.25)
    scatter(network.variables, seed=1)
    images = tf.random.stateless_uniform((2, 32, 48, 3), (1, 2), -1)
    expected = network(images)
    for precision, tolerance in (("float32", 1e-5), ("bfloat16", 0.05)):
        folded = fold(network, precision)
        assert not [x for x in folded.layers if isinstance(x, BatchNorm)]
        for name, found in folded(images).items():
            error = tf.sqrt(tf.reduce_mean((found - expected[name]) ** 2))
            assert error < tolerance * tf.math.reduce_std(expected[name]), name


def test_multiply_adds_of_a_depthwise_convolution_are_one_channels_each():
    counts = {
        c.layer: c for c in count_multiply_adds(Application("MobileNetV2"), (64, 64, 3))
    }
    strided = counts["block_1_depthwise"]
    assert strided.kernel_shape == (3, 3, 96, 1) and strided.stride == 2
    assert strided.multiply_adds == 16 * 16 * 9 * 96
    assert counts["Conv1"].multiply_adds == 32 * 32 * 9 * 3 * 32


def vary(variables):
    """Moves all but the kernels, as tests/serving/test_formats.py does."""
    random = np.random.default_rng(0)
    for variable in variables:
        name = variable.name.split("/")[-1][:-2]
        if not name.endswith("kernel"):
            around = 1.0 if name in ("gamma", "moving_variance") else 0.0
            variable.assign(around + 0.2 * random.uniform(-1, 1, variable.shape))


@pytest.fixture(
    params=[
        "MobileNetV2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in APPLICATIONS[1:]),
    ]
)
def run(request, tiny, tmp_path, fresh_gin):
    return tiny.build(
        tmp_path,
        "max_steps = 3",
        f"image_size = {SIZE}",
        f"build_student.backbone = '{request.param}'",
        "Application.width = 0.1",
        f"build_amalgamation.layers = {PAIRS}",
        "schedule.joint_steps = 1",
        "build_adversary.enabled = True",
        "Adversary.start_step = 2",
        "Discriminator.strides = (2, 2, 2)",
    )


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    samples = []
    for i in range(4):
        path = str(tmp_path / f"photo_{i}.png")
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((SIZE, SIZE)).save(path)
        samples.append(Sample(str(i), str(i), {"rgb": path}))
    return formats.Images(samples, samples, SIZE, antialias=True)


def test_backbone_trains_every_stage_and_its_exports_agree(run, images, tmp_path):
    encoder = run.model.student.encoder
    before = [v.numpy() for v in encoder.trainable_variables]
    train(run, str(tmp_path))
    rows = (tmp_path / "metrics.csv").read_text()
    assert all(stage in rows for stage in ("joint", "cycle", "cycle_gan"))
    after = [v.numpy() for v in encoder.trainable_variables]
    assert all((a != b).any() for a, b in zip(after, before))
    assert all(np.isfinite(a).all() for a in after)

    student = restore_student(str(tmp_path), run.settings)
    for one, other in zip(student.encoder.variables, encoder.variables):
        tf.debugging.assert_equal(one, other)
    vary(student.variables)  # three steps leave maps nearly flat
    tasks, folder = get_targets(student.tasks), str(tmp_path / "export")
    export_student(student, tasks, SIZE, folder, precision="bfloat16")
    files = [n for n in formats.FILES if n != "onnx" or ONNX]
    formats.write_formats(student, tasks, folder, files, images)
    names = [formats.SAVED_MODEL, *files]
    report = formats.compare(student, tasks, folder, names, images)
    rgb = np.stack([np.asarray(Image.open(s.files["rgb"])) for s in images.comparison])
    reference = formats.FixedSizeStudent(student, tasks, SIZE, None).serve(rgb)
    for name in names:
        for task, entry in report["files"][name]["tasks"].items():
            bound = TOLERANCE[name] * float(tf.math.reduce_std(reference[task]))
            if name == "tflite_float16":
                # The bias of a map whose mean is many times its spread (60 times, after
                # three steps) is rounded, too, by half of float16's last place at most.
                bound += 2.0**-11 * float(tf.reduce_max(tf.abs(reference[task])))
            assert entry["rms_error"] < bound, (name, task)


def test_encoder_starts_from_a_file_and_a_restored_student_asks_for_none(
    tiny, tmp_path, fresh_gin
):
    theirs = keras_network("MobileNetV2", alpha=0.35)
    path = tmp_path / "weights.h5"
    theirs.save_weights(path)
    params = [
        "max_steps = 1",
        f"image_size = {SIZE}",
        "build_student.backbone = 'MobileNetV2'",
        "Application.width = 0.35",
        "Application.output_stride = 8",
        "build_amalgamation.layers = ['representation']",
        f"initialize_student.encoder_weights = '{path}'",
    ]
    run = tiny.build(tmp_path / "run", *params)
    kernel = run.model.student.encoder.get_layer("Conv1").kernel
    tf.debugging.assert_equal(kernel, theirs.get_layer("Conv1").kernel)
    train(run, str(tmp_path / "run"))
    path.unlink()
    restored = restore_student(str(tmp_path / "run"), run.settings)
    tf.debugging.assert_equal(restored.encoder.get_layer("Conv1").kernel, kernel)


@pytest.mark.parametrize("content, message", [
    (None, r"a.h5: not the weights of tf.keras.applications.MobileNetV2 .*No such f"),
    (b"PK", "a.h5: not the weights .* it is no HDF5 file"),
    (b"\x89HDF\r\n\x1a\n" + bytes(9), "a.h5: not the weights .*_no_top.h5 files"),
    ("ResNet50", "a.h5: not the weights .*MobileNetV2 of width 1 without its top"),
])  # fmt: skip
def test_file_of_other_weights_is_one_sentence_and_changes_nothing(
    content, message, tmp_path
):
    path = tmp_path / "a.h5"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        keras_network(content).save_weights(path)
    network = Application("MobileNetV2")
    before = [v.numpy() for v in network.variables]
    with pytest.raises(UserError, match=message) as raised:
        network.read_weights(str(path))
    assert "\n" not in str(raised.value)
    assert all((v == b).numpy().all() for v, b in zip(network.variables, before))


def test_weights_of_another_width_are_refused(tmp_path):
    with pytest.raises(UserError, match="are of width 1. .*Application.width = 0.5"):
        Application("ResNet50", 0.5).read_weights("a.h5")


@pytest.mark.parametrize("binding, message", [
    ("build_student.backbone = 'MobileNetV3'", "must be one of taskonomy, MobileNetV2, "
     ".*, or a reference.*Received: 'MobileNetV3'; did you mean 'MobileNetV2'"),
    ("Application.output_stride = 32", "must be 4, 8 or 16. Received: 32"),
    ("image_size = 18", "multiple of the encoder's output stride, 4, .*Received: 18"),
    ("Application.width = 0", r"must be a number in \(0, 100\]. Received: 0"),
    ("initialize_student.encoder_weights = 'a.h5'", "encoder_weights is for an encoder "
     "of MobileNetV2, .* starts from no teacher. Received: a.h5, and "),
])  # fmt: skip
def test_what_does_not_fit_is_refused(binding, message, tiny, tmp_path, fresh_gin):
    with pytest.raises(UserError, match=message):
        tiny.build(tmp_path, binding)


def test_taskonomy_by_name_and_by_reference_are_the_same_encoder(tiny, fresh_gin):
    parse_gin(["gin/rooms/soka.gin"], tiny.params())
    one = build_student(["edge2d"]).encoder
    other = build_student(["edge2d"], backbone=bound_encoder).encoder
    assert one.get_config() == other.get_config()
    for a, b in zip(one.variables, other.variables):
        tf.debugging.assert_equal(a, b)
