"""Learning from labels in place of the teachers: the paper's supervised baselines."""

import csv

import numpy as np
import pytest

from soka_tf.data import encodings, image_files
from soka_tf.errors import UserError
from soka_tf.runs.config import parse_gin
from soka_tf.runs.dry_run import describe
from soka_tf.runs.training_loop import train
from soka_tf.tasks import TASKS
from soka_tf.teachers.pool import TeacherPool
from tests.encode_rgb import encode_rgb

pytestmark = pytest.mark.usefixtures("fresh_gin")

DMTL = ("gin/rooms/soka.gin", "gin/methods/dmtl.gin")


def masked_error(sample, task, prediction):
    """Sum of the squared errors to a sample's label that count, and their number."""
    if task not in sample.files:
        return 0.0, 0
    pixels = image_files.read_pixels(sample.files[task], task)
    error = (prediction - encodings.encode(TASKS[task], pixels, 16)) ** 2
    if TASKS[task].masked:
        depth = image_files.read_pixels(sample.files["depth_zbuffer"], "depth_zbuffer")
        error = error[encodings.has_reading(depth)[..., 0]]
    return error.sum(dtype=np.float64), error.size


def test_run_by_labels_loss_is_the_masked_error_to_them_and_no_teacher_is_run(
    tiny, tmp_path, monkeypatch
):
    params = ["max_steps = 2", "batch_size = 4", *tiny.with_labels]
    params.append("objective.soft_loss = 'l2'")  # as `masked_error`
    run = tiny.build(tmp_path, *params, files=DMTL)
    samples = run.data.train
    assert len(samples) == 4 and any("edge_texture" not in s.files for s in samples)

    # All images are in every batch, whose statistics BatchNorm takes.
    images = np.stack(
        [
            encode_rgb(image_files.read_pixels(sample.files["rgb"], "rgb"), 16, True)
            for sample in samples
        ]
    )
    model = run.model
    before = [v.numpy() for v in model.student.variables]
    features = model.student.encoder(images, training=True)
    predictions = model.student.decode(features["representation"], training=True)
    for variable, value in zip(model.student.variables, before):
        variable.assign(value)

    def never(*_):
        raise AssertionError("a teacher was run")

    monkeypatch.setattr(TeacherPool, "__call__", never)
    train(run, str(tmp_path))
    with open(tmp_path / "metrics.csv", newline="") as file:
        first, second = csv.DictReader(file)
    for task in model.tasks:
        shares = [
            masked_error(sample, task, prediction)
            for sample, prediction in zip(samples, predictions[task].numpy())
        ]
        total, count = np.sum(shares, axis=0)
        assert 0 < count < predictions[task].numpy().size  # some do not count
        name = f"loss/soft/{task}"
        assert float(first[name]) == pytest.approx(total / count, rel=1e-4)
        assert float(second[name]) != float(first[name])


@pytest.mark.parametrize(
    "bindings, message",
    [
        (["run.supervision = 'truth'"], "run.supervision must be one of teachers, lab"),
        (["run.teacher_cache = True"], "run.teacher_cache = True exclude each other"),
        (
            ["run.data_service = 'grpc://a:1'"],
            "run.data_service = 'grpc://a:1' exclude",
        ),
        (["run.augmentation = 'flip'"], "run.augmentation = 'flip' exclude each other"),
        (
            ["build_amalgamation.variant = 'literal'", "schedule.joint_steps = 1"],
            "no teachers' features.*build_amalgamation.variant = None.*dmtl.gin",
        ),
        (
            ["build_adversary.enabled = True", "schedule.joint_steps = 1"],
            "build_adversary.enabled = True exclude each other",
        ),
        (
            ["taskonomy_dir = None"],
            "edge_texture: .*the folder.*Bind taskonomy_dir",
        ),
    ],
)
def test_run_by_labels_refuses_what_it_excludes(tiny, tmp_path, bindings, message):
    images = f"images_dir = {str(tiny.images)!r}"
    last = [images] if "taskonomy_dir = None" in bindings else []
    params = ["max_steps = 900", *tiny.with_labels, *bindings, *last]
    with pytest.raises(UserError, match=message):
        tiny.build(tmp_path / "run", *params, files=DMTL)


def test_dry_run_by_labels_names_missing_ones(tiny):
    parse_gin(DMTL, tiny.params())
    assert "run.supervision = 'labels' needs labels" in describe("no run")


def test_run_by_labels_never_amalgamating_may_bind_a_variant(tiny, tmp_path):
    params = [*tiny.with_labels, "build_amalgamation.variant = 'literal'"]
    params.append("schedule.joint_amalgamation = False")
    run = tiny.build(tmp_path / "run", "max_steps = 1", *params, files=DMTL)
    assert run.settings.by_labels and run.model.amalgamation is not None
