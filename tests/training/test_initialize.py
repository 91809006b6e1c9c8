"""The student may start from its teachers; sizes must fit."""

import numpy as np
import pytest

from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.soka.student import Student
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.teacher import Teacher
from soka_tf.training.build import initialize_student

STRIDES = (2, 2, 1, 1)


def encoder(width=1 / 32):
    return Encoder((1, 1, 1, 1), width, STRIDES)


def decoder(name="decoder"):
    return Decoder(1, width=1 / 64, upsamplings=2, min_filters=3, name=name)


@pytest.fixture(scope="module")
def teachers():
    return TeacherPool(
        {
            "depth_zbuffer": Teacher("depth_zbuffer", encoder(), decoder()),
            "edge_texture": Teacher("edge_texture", encoder(), decoder()),
        },
        {"keypoints3d": Teacher("keypoints3d", encoder())},
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


def test_unknown_lender_is_refused_by_name(teachers):
    with pytest.raises(UserError, match="initialize_student.encoder.*'normal'"):
        initialize_student(student(), teachers, encoder="normal")


def test_lender_of_another_size_is_refused(teachers):
    with pytest.raises(UserError, match="initialize_student: .*do not fit"):
        initialize_student(student(1 / 16), teachers, encoder="edge_texture")
