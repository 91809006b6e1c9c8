"""Tasks of one's own, a kind each, with labels and teachers for runs of seconds."""

import pathlib
from typing import Any, Dict, List

import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf import tasks
from soka_tf.data import encodings
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.tasks import get_task, register_task
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from soka_tf.teachers.taskonomy.teacher_file import save_teacher
from tests import tiny_runs

DEFINITIONS: Dict[str, Dict[str, Any]] = {
    "distance": {"kind": "log_depth", "title": "distance to it"},
    "ground": {
        "kind": "classes",
        "classes": ["ground", "other"],
        "colours": [[10, 200, 30], [250, 0, 120]],
    },
    "facing": {"kind": "direction"},
    "height": {
        "kind": "continuous",
        "range": [-1, 3],
        "unit": "m",
        "loss": "l2",
        "colours": "plasma",
    },
    "outline": {"kind": "probability", "metrics": ["mean_absolute_error", "rmse"]},
}


def forget() -> None:
    """Leaves none of them registered, as a new process begins."""
    for name in DEFINITIONS:
        tasks.TASKS.pop(name, None)
        tasks._BY_ANY_NAME.pop(name, None)


def write_teachers(folder: pathlib.Path) -> None:
    """A random teacher of every task; of those that are registered already."""
    tf.keras.utils.set_random_seed(3)
    for name in DEFINITIONS:
        task = get_task(name)
        encoder = Encoder((1, 1, 1, 1), tiny_runs.WIDTH, tiny_runs.STRIDES)
        decoder = Decoder(
            task.channels, tiny_runs.DECODER_WIDTH, 2, 2, activation=task.activation
        )
        teacher = TaskonomyTeacher(name, encoder, decoder, 16)
        save_teacher(teacher, folder / f"{name}.safetensors")


def draw(task: str, random: np.random.Generator, size: int = 16) -> np.ndarray:
    """Physical values of a label, NaN where there is none."""
    row = get_task(task)
    shape = (size, size, row.channels)
    if row.has_classes:  # two thirds are of the first class
        values = np.eye(2)[(random.uniform(size=shape[:2]) > 0.67).astype(int)]
    elif row.is_direction:
        values = random.standard_normal(shape)
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
    else:
        low, high = (1, 9) if task == "distance" else row.display_range
        values = random.uniform(low, high, shape)
    if row.encoding.gaps:
        values[: size // 4] = np.nan
    return values


def write_labelled(root: pathlib.Path, count: int, size: int = 16) -> None:
    """Images of noise with labels of all tasks in Taskonomy's layout."""
    random = np.random.default_rng(5)
    for i in range(count):
        pixels = {"rgb": random.integers(0, 256, (size, size, 3), dtype=np.uint8)}
        for name in DEFINITIONS:
            row = get_task(name)
            pixels[name] = encodings.store(row, draw(name, random, size))
        for domain, values in pixels.items():
            folder = root / "home" / domain
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"point_{i}_view_0_domain_{domain}.png"
            Image.fromarray(values.squeeze()).save(path)


def write(folder: pathlib.Path) -> None:
    """Both, below a folder."""
    for name, definition in DEFINITIONS.items():
        register_task(name, definition)
    write_teachers(folder / "teachers")
    write_labelled(folder / "labelled", 6)


def params(tiny: tiny_runs.Tiny, folder: pathlib.Path, *further: str) -> List[str]:
    """Bindings of a tiny run of all of them."""
    bindings = tiny.params(
        f"define_tasks.definitions = {DEFINITIONS!r}",
        f"tasks = {list(DEFINITIONS)}",
        "auxiliary = 'none'",
        f"teachers_dir = {str(folder / 'teachers')!r}",
        "images_dir = None",
        f"taskonomy_dir = {str(folder / 'labelled')!r}",
        "schedule.joint_steps = 1",
        "schedule.initial_losses_step = 0",
        *further,
    )
    # A run without discriminators would warn of their width.
    return [binding for binding in bindings if not binding.startswith("Discriminator")]
