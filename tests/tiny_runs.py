"""Runs that take seconds: random teachers, noise for images, the smallest networks."""

import functools
import pathlib
from typing import List, NamedTuple, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf.data.encodings import store
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.runs.build_run import Run, build_run
from soka_tf.runs.config import parse_gin
from soka_tf.tasks import get_task
from soka_tf.teachers import load_teacher, save_teacher
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGETS = ("depth_zbuffer", "edge_texture", "edge_occlusion", "normal")
AUXILIARIES = ("keypoints3d",)
STRIDES = (2, 2, 1, 1)
WIDTH, DECODER_WIDTH = 1 / 32, 1 / 64


class Tiny(NamedTuple):
    """Where the files of tiny runs are.

    Attributes:
      teachers: folder of teachers of all tasks the shipped gin files name.
      images: folder of images without labels.
      labelled: Taskonomy folder of images with labels of all tasks but one label, that
        of edge_texture at point 3, and with pixels of no reading.
    """

    teachers: pathlib.Path
    images: pathlib.Path
    labelled: pathlib.Path

    @property
    def with_labels(self) -> List[str]:
        """Bindings of a run whose images have labels."""
        return ["images_dir = None", f"taskonomy_dir = {str(self.labelled)!r}"]

    def params(self, *further: str) -> List[str]:
        """Bindings that make any shipped configuration tiny; `further` ones win."""
        return [
            "image_size = 16",
            "batch_size = 2",
            f"Encoder.units = {(1, 1, 1, 1)}",
            f"Encoder.width = {WIDTH}",
            f"Encoder.strides = {STRIDES}",
            f"Decoder.width = {DECODER_WIDTH}",
            "Decoder.min_filters = 2",
            f"Discriminator.width = {WIDTH}",
            "run.log_every_steps = 1",
            "run.movement_every_steps = 0",
            "run.panel_every_steps = 0",
            "run.validate_every_steps = 0",
            "run.panel_images = 2",
            "run.evaluation_batch_size = 2",
            "build_data.check_files = False",
            f"teachers_dir = {str(self.teachers)!r}",
            f"images_dir = {str(self.images)!r}",
            *further,
        ]

    def build(
        self,
        model_dir: pathlib.Path,
        *further: str,
        files: Sequence[str] = ("gin/rooms/soka.gin",),
    ) -> Run:
        """Builds a run of these bindings that is executed eagerly.

        For a handful of steps this is several times faster than tracing graphs.
        """
        parse_gin(files, self.params(*further))
        run = build_run(str(model_dir))
        run.model.run_eagerly = True
        return run


def write(folder: pathlib.Path) -> Tiny:
    """Writes teachers and images below a folder."""
    tiny = Tiny(folder / "teachers", folder / "images", folder / "labelled")
    tf.keras.utils.set_random_seed(0)
    for name in (*TARGETS, *AUXILIARIES):
        encoder = Encoder((1, 1, 1, 1), WIDTH, STRIDES)
        decoder = None
        if name in TARGETS:
            decoder = Decoder(get_task(name).channels, DECODER_WIDTH, 2, 2)
        save_teacher(
            TaskonomyTeacher(name, encoder, decoder, 16),
            tiny.teachers / f"{name}.safetensors",
        )
    write_images(tiny.images, 6)
    write_labelled(tiny.labelled, 6)
    return tiny


def write_images(folder: pathlib.Path, count: int, size: int = 16) -> None:
    """Writes images of noise, named 0.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def write_labelled(root: pathlib.Path, count: int, size: int = 16) -> None:
    """Writes a building of Taskonomy with labels of the targets, of noise."""
    random = np.random.default_rng(1)
    ranges = {"depth_zbuffer": (1, 9), "normal": (-1, 1)}
    for i in range(count):
        pixels = {"rgb": random.integers(0, 256, (size, size, 3), dtype=np.uint8)}
        for name in TARGETS:
            shape = (size, size, get_task(name).channels)
            values = random.uniform(*ranges.get(name, (0, 0.08)), shape)
            if name == "depth_zbuffer":
                values[: size // 4] = np.nan
            pixels[name] = store(get_task(name), values)
        if i == 3:
            del pixels["edge_texture"]
        for domain, values in pixels.items():
            folder = root / "home" / domain
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"point_{i}_view_0_domain_{domain}.png"
            Image.fromarray(values.squeeze()).save(path)


_load_file_once = functools.lru_cache(maxsize=None)(load_teacher)


def load_teacher_once(path, *how):
    """Teachers of files are frozen, so that all runs of a process may share them."""
    is_file = str(path).endswith(".safetensors")
    return (_load_file_once if is_file else load_teacher)(path, *how)


forget_teachers = _load_file_once.cache_clear
