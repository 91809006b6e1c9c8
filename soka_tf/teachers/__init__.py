"""Frozen teachers and the files they come from."""

from soka_tf.teachers.taskonomy.teacher_file import load_teacher, save_teacher
from soka_tf.teachers.teacher import Teacher

__all__ = ["Teacher", "load_teacher", "save_teacher"]
