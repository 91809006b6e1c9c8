"""A backbone from outside the package: this file is all that it takes."""

import gin
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.networks.backbone import Backbone
from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.runs.checkpoints import restore_student
from soka_tf.runs.training_loop import train
from soka_tf.serving.saved_model import export_student
from soka_tf.tasks import get_targets

conv, depthwise = tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D
pytestmark = pytest.mark.usefixtures("fresh_gin")


@gin.register
class Plain(Backbone):
    def __init__(self, representation_channels, synchronized, stride=4, cut="block3"):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        images = tf.keras.Input((None, None, 3))
        x = conv(6, 5, stride, "same", activation="relu", name="patches")(images)
        x = BatchNorm(name="norm")(depthwise(3, padding="same", name="depthwise")(x))
        end = conv(representation_channels, 3, padding="same", name="end")
        super().__init__(images, {cut: x}, cut, end, config, synchronized)


def test_backbone_of_this_file_is_trained_resumed_and_exported(tiny, tmp_path):
    params = ["max_steps = 4", "schedule.joint_steps = 2"]
    run = tiny.build(tmp_path, *params, "build_student.backbone = @Plain")
    encoder = run.model.student.encoder
    before = [v.numpy() for v in encoder.trainable_variables]
    train(run, str(tmp_path))
    rows = (tmp_path / "metrics.csv").read_text()
    assert all(name in rows for name in ("cycle", "gradient_norm", "loss/transfer"))
    assert all(
        (v != b).numpy().any() for v, b in zip(encoder.trainable_variables, before)
    )
    images = tf.random.stateless_uniform((2, 16, 16, 3), (1, 2))
    expected = encoder(2.0 * images - 1.0)["representation"]
    encoder.last_shared_kernel.assign_add(tf.ones_like(encoder.last_shared_kernel))
    train(run, str(tmp_path))  # restores the last step
    tf.debugging.assert_equal(encoder(2.0 * images - 1.0)["representation"], expected)
    student, folder = restore_student(str(tmp_path), run.settings), f"{tmp_path}/export"
    export_student(student, get_targets(student.tasks), 16, folder)
    answers = tf.saved_model.load(folder).signatures["representation_float"](images)
    tf.debugging.assert_near(answers["representation"], expected, atol=1e-5)


@pytest.mark.parametrize("binding, message", [
    ("build_student.backbone = 'Plain'", "backbone must be .* Received: 'Plain'"),
    ("build_student.backbone = @UPGrad", "backbone must be .*representation_c"),
    ("Plain.stride = 3", r"decoders undo, one of .* 16\). Received: 3, of Plain"),
    ("Plain.cut = 'c4'", r"layers must be some of \['c4', 'representation'\]"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(binding, message, tiny, tmp_path):
    with pytest.raises(UserError, match=message):
        tiny.build(tmp_path, "build_student.backbone = @Plain", binding)
