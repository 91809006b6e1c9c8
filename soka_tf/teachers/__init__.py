"""Frozen teachers and the files they come from."""

from soka_tf.teachers.loading import load_teacher
from soka_tf.teachers.taskonomy.teacher_file import save_teacher
from soka_tf.teachers.teacher import Teacher

__all__ = ["Teacher", "load_teacher", "save_teacher"]
