"""The student may start from its teachers; sizes must fit."""

import numpy as np
import pytest

from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.networks.named_variables import named_variables
from soka_tf.runs.build_networks import initialize_student
from soka_tf.soka.student import Student
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.taskonomy.teacher_file import save_teacher

STRIDES = (2, 2, 1, 1)


def encoder(width=1 / 32, units=(1, 1, 1, 1)):
    return Encoder(units, width, STRIDES)


def decoder(name="decoder"):
    return Decoder(1, width=1 / 64, upsamplings=2, min_filters=3, name=name)


@pytest.fixture(scope="module")
def teachers():
    return TeacherPool(
        {
            "depth_zbuffer": TaskonomyTeacher("depth_zbuffer", encoder(), decoder()),
            "edge_texture": TaskonomyTeacher("edge_texture", encoder(), decoder()),
        },
        {"keypoints3d": TaskonomyTeacher("keypoints3d", encoder())},
    )


def student(width=1 / 32):
    names = ("depth_zbuffer", "edge_texture")
    return Student(encoder(width), {n: decoder(f"decoder_{n}") for n in names})


def same(network, other):
    return all(
        np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(network.variables, other.variables)
    )


def test_student_by_default_keeps_its_random_weights(teachers):
    made = student()
    before = [v.numpy() for v in made.variables]
    initialize_student(made, teachers)
    assert all(np.array_equal(v.numpy(), b) for v, b in zip(made.variables, before))


def test_student_from_teachers_has_their_weights_and_its_own_variables(teachers):
    made = student()
    initialize_student(made, teachers, encoder="edge2d", decoders=True)
    assert same(made.encoder, teachers.targets["edge_texture"].encoder)
    assert not same(made.encoder, teachers.targets["depth_zbuffer"].encoder)
    for name, teacher in teachers.targets.items():
        assert same(made.decoders[name], teacher.decoder)
    assert made.encoder.trainable_variables


def test_encoder_of_an_auxiliary_teacher_is_lent_alone(teachers):
    made = student()
    initialize_student(made, teachers, encoder="keypoints3d")
    assert same(made.encoder, teachers.auxiliaries["keypoints3d"].encoder)
    assert not same(
        made.decoders["depth_zbuffer"], teachers.targets["depth_zbuffer"].decoder
    )


def test_teachers_of_the_folder_lend_though_they_are_none_of_the_run(
    teachers, tmp_path
):
    other = TaskonomyTeacher("reshading", encoder(), decoder())
    save_teacher(other, tmp_path / "reshading.safetensors")
    made = student()
    initialize_student(
        made,
        teachers,
        encoder="reshade",
        decoders={"edge2d": "reshade", "depth": "edge2d"},
        teachers_dir=tmp_path,
    )
    assert same(made.encoder, other.encoder)
    assert same(made.decoders["edge_texture"], other.decoder)
    lender = teachers.targets["edge_texture"].decoder
    assert same(made.decoders["depth_zbuffer"], lender)


def test_decoders_that_are_not_lent_stay_random(teachers):
    made = student()
    before = [v.numpy() for v in made.decoders["depth_zbuffer"].variables]
    initialize_student(made, teachers, decoders={"edge2d": "edge2d"})
    after = made.decoders["depth_zbuffer"].variables
    assert all(np.array_equal(v.numpy(), b) for v, b in zip(after, before))


@pytest.mark.parametrize(
    "bindings, words",
    [
        ({"encoder": "normal"}, "Missing teachers: .*normal.safetensors"),
        ({"decoders": {"edge2d": "normal"}}, "Missing teachers: .*normal.safetensors"),
        ({"decoders": {"normal": "edge2d"}}, "normal is none of the student's tasks"),
        ({"decoders": {"edge2d": "keypoint3d"}}, "'keypoints3d' has no decoder"),
        ({"encoder": "deepth"}, "no task named 'deepth'"),
    ],
)
def test_lender_that_is_not_there_is_refused(teachers, tmp_path, bindings, words):
    with pytest.raises(UserError, match=words):
        initialize_student(student(), teachers, teachers_dir=tmp_path, **bindings)


def test_narrower_student_takes_the_leading_part(teachers):
    wide = TaskonomyTeacher("depth_zbuffer", encoder(1 / 16), decoder())
    pool = TeacherPool({"depth_zbuffer": wide}, {})
    made = Student(encoder(1 / 32), {"depth_zbuffer": decoder()})
    bindings = {"encoder": "depth_zbuffer", "decoders": True}
    with pytest.raises(UserError, match="not fit"):
        initialize_student(made, pool, **bindings)
    initialize_student(made, pool, leading=True, **bindings)
    cut = 0
    for ours, theirs in zip(made.encoder.variables, wide.encoder.variables):
        wanted = theirs.numpy()[tuple(slice(n) for n in ours.shape)]
        np.testing.assert_array_equal(ours.numpy(), wanted)
        cut += ours.shape != theirs.shape
    assert cut > 20 and same(made.decoders["depth_zbuffer"], wide.decoder)
    wider = Student(encoder(1 / 8), {"depth_zbuffer": decoder()})
    with pytest.raises(UserError, match="not fit"):
        initialize_student(wider, pool, leading=True, **bindings)


def test_student_of_fewer_units_takes_the_first_of_each_block(teachers):
    deep = TaskonomyTeacher("depth_zbuffer", encoder(units=(1, 1, 3, 1)), decoder())
    made, bindings = student(), {"encoder": "depth_zbuffer", "leading": True}
    initialize_student(made, TeacherPool({"depth_zbuffer": deep}, {}), **bindings)
    lent = named_variables(deep.encoder)
    mine = named_variables(made.encoder)
    assert len(lent) == len(mine) + 30
    for name, variable in mine.items():
        np.testing.assert_array_equal(variable.numpy(), lent[name].numpy())
    deeper = Student(encoder(units=(1, 1, 4, 1)), dict(made.decoders))
    with pytest.raises(UserError, match="not fit.*missing 'block3/unit_4"):
        initialize_student(deeper, TeacherPool({"depth_zbuffer": deep}, {}), **bindings)


def test_lender_of_another_size_is_refused(teachers):
    with pytest.raises(UserError, match="from the teacher of 'edge_texture'.*not fit"):
        initialize_student(student(1 / 16), teachers, encoder="edge_texture")
