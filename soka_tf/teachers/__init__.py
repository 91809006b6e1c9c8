"""Frozen teachers and the files they come from."""

from soka_tf.teachers.teacher import Teacher, load_teacher, save_teacher

__all__ = ["Teacher", "load_teacher", "save_teacher"]
