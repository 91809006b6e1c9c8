"""What tests/test_two_stacks.py has done by the Python of either stack.

stack_child.py write FOLDER           tiny teachers and images, as tests/tiny_runs.py
stack_child.py teach TEACHER OUT      all outputs of a teacher
stack_child.py answer SAVED_MODEL OUT all maps of an exported student, without soka_tf

on fixed images, into an .npz file.
"""

import pathlib
import sys

import numpy as np


def write(folder):
    from tests import tiny_runs

    tiny_runs.write(pathlib.Path(folder))


def teach(teacher, out):
    from soka_tf.teachers.taskonomy.teacher_file import load_teacher

    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3))
    outputs = load_teacher(teacher)(images.astype(np.float32))
    np.savez(out, **{name: values.numpy() for name, values in outputs.items()})


def answer(saved_model, out):
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    student = tf.saved_model.load(saved_model)
    maps = student.signatures["serving_default"](images=tf.constant(images))
    assert "soka_tf" not in sys.modules
    np.savez(out, **{name: values.numpy() for name, values in maps.items()})


if __name__ == "__main__":
    {"write": write, "teach": teach, "answer": answer}[sys.argv[1]](*sys.argv[2:])
