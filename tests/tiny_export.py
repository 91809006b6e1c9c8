"""A SavedModel of one layer a network: exported and loaded in a second or two."""

import types

import tensorflow as tf

from soka_tf.serving.saved_model import export_student
from soka_tf.tasks import get_task

TASKS = tuple(get_task(n) for n in ("depth_zbuffer", "normal", "segment_semantic"))
SIZE = 16


def stand_in(tasks=TASKS, seed=0):
    """What `export_student` asks of a student, of random weights."""
    tf.keras.utils.set_random_seed(seed)
    pixels = tf.keras.Input((None, None, 3))
    decoders = {}
    for task in tasks:
        how = "softmax" if task.has_classes else "tanh"
        maps = tf.keras.layers.Conv2D(task.channels, 1, activation=how)(pixels)
        decoders[task.name] = tf.keras.Model(pixels, maps)
    encoder = tf.keras.Model(pixels, {"representation": pixels})
    return types.SimpleNamespace(encoder=encoder, decoders=decoders)


def write(folder, tasks=TASKS, seed=0):
    """Exports such a student; returns the folder as text."""
    export_student(stand_in(tasks, seed), tasks, SIZE, str(folder))
    return str(folder)
