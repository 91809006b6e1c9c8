"""Reading images from files against the training that consumes them."""

import itertools
import os
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf.data.image_files import RGB, read_pixels
from soka_tf.data.pipeline import Batches, image_dataset, preprocess_images
from soka_tf.data.samples import Sample
from soka_tf.data.sources.folder import find as find_images
from soka_tf.soka.model import SokaModel
from tools.benchmarks import cycle
from tools.benchmarks.measure import Measurement, time_cases, wait

_KINDS = {"PNG": {}, "JPEG": {"quality": 90}}
_HELD, _FED = _TRAINING = ("cycle, held batch", "cycle, fed from files")
_READING = "reading images"


class Scale(NamedTuple):
    """Sizes of a benchmark.

    Attributes:
      model: of the networks, as in benchmark "cycle".
      file_size: side in pixels of the images that the cycle is fed with.
      steps: batches that one timed call trains on.
      read_steps: batches that one timed call reads; many, because to start a dataset
        takes a tenth of a second.
      table_sizes: sides in pixels of the files in the table.
      table_files: files of each size and kind.
      network_size: side in pixels of what the table's files are turned into.
    """

    model: cycle.Scale
    file_size: int
    steps: int
    read_steps: int
    table_sizes: Sequence[int] = (64, 256, 512, 1024)
    table_files: int = 8
    network_size: int = 256


# Taskonomy's files have 512 pixels.
SCALES = {
    "small": Scale(cycle.Scale(0.25, 128, 4, 3), 256, 6, 25),
    "full": Scale(cycle.SCALES["full"]._replace(repeats=3), 512, 3, 25),
}


def run(scale: str, repeats: Optional[int], precision: str) -> Measurement:
    """Times reading alone, and the cycle fed from files and from memory.

    Args:
      scale: one of `SCALES`.
      repeats: timed rounds, None for the scale's.
      precision: Keras policy of the networks.
    """
    sizes = SCALES[scale]
    model = cycle.build_model(sizes.model.width, precision)
    measured = measure_input(model, sizes, repeats)
    return measured._replace(settings={**measured.settings, "precision": precision})


def measure_input(
    model: SokaModel, sizes: Scale, repeats: Optional[int] = None
) -> Measurement:
    """`run` with any model."""
    repeats = repeats or sizes.model.repeats
    with tempfile.TemporaryDirectory() as folder:
        count = 4 * sizes.model.batch_size
        samples = write_images(f"{folder}/{RGB}", count, sizes.file_size, "PNG")
        times = time_cases(_cases(model, samples, sizes), repeats)
        table = _decode_table(folder, sizes, repeats)
    # Of one batch, whatever the number that a call took.
    seconds = {
        case: median / (sizes.steps if case in _TRAINING else sizes.read_steps)
        for case, median in times.medians.items()
    }
    batch_size = sizes.model.batch_size
    return Measurement(
        seconds,
        {
            "fed_over_held": seconds[_FED] / seconds[_HELD],
            "reading_over_cycle": seconds[_READING] / seconds[_HELD],
        },
        {
            "file_size": sizes.file_size,
            "steps": sizes.steps,
            "read_steps": sizes.read_steps,
            **sizes.model._replace(repeats=repeats)._asdict(),
        },
        notes=(
            f"Seconds of one batch of {batch_size} images. A call starts its dataset "
            "anew, which is counted.",
        ),
        peak_gib=times.peak_gib,
        tables={
            "Images per second": [
                {"case": case, "images/s": batch_size / value}
                for case, value in seconds.items()
            ],
            f"One file, to {sizes.network_size} pixels": table,
        },
    )


def _cases(
    model: SokaModel, samples: Sequence[Sample], sizes: Scale
) -> Dict[str, Callable[[], Any]]:
    size, batch_size = sizes.model.image_size, sizes.model.batch_size
    step = model.make_step("cycle")
    files = image_dataset(samples, Batches(size, batch_size), seed=0)
    # The same kind of element, so that one graph serves both.
    held = tf.data.Dataset.from_tensors(next(iter(files))).repeat()

    def train(dataset: tf.data.Dataset) -> None:
        # A lasting iterator would read ahead, and take the processor, during other
        # cases.
        iterator = iter(dataset)
        for _ in range(sizes.steps):
            logs = step(iterator)
        wait(logs)

    def read(dataset: tf.data.Dataset) -> None:
        for _ in itertools.islice(dataset, sizes.read_steps):
            pass

    return {
        _HELD: lambda: train(held),
        _FED: lambda: train(files),
        _READING: lambda: read(files),
    }


def _decode_table(folder: str, sizes: Scale, repeats: int) -> List[Dict[str, Any]]:
    """What one file costs by size and kind, and how many a second all cores read."""
    rows = []
    for size, kind in itertools.product(sizes.table_sizes, _KINDS):
        place = os.path.join(folder, f"{kind}{size}")
        samples = write_images(place, sizes.table_files, size, kind)
        paths = [sample.files[RGB] for sample in samples]
        pixels = tf.constant(read_pixels(paths[0], RGB))[None]
        count = 4 * len(paths)
        batches = Batches(sizes.network_size, 1)
        dataset = image_dataset(samples, batches, seed=0, steps=count)

        def decode(paths: Sequence[str] = paths) -> None:
            for path in paths:
                read_pixels(path, RGB)

        def resize(pixels: tf.Tensor = pixels) -> None:
            wait(preprocess_images(pixels, sizes.network_size))

        def read(dataset: tf.data.Dataset = dataset) -> None:
            for _ in dataset:
                pass

        seconds = time_cases(
            {"decode": decode, "resize": resize, "read": read}, repeats
        ).medians
        rows.append(
            {
                "file": f"{kind} {size}",
                "kB": sum(map(os.path.getsize, paths)) / len(paths) / 1000,
                "decode ms": 1e3 * seconds["decode"] / len(paths),
                "resize ms": 1e3 * seconds["resize"],
                "images/s": count / seconds["read"],
            }
        )
    return rows


def write_images(folder: str, count: int, size: int, kind: str) -> List[Sample]:
    """Writes images into a new folder; kind is "PNG" or "JPEG", size in pixels."""
    os.mkdir(folder)
    random = np.random.default_rng(0)
    for number in range(count):
        image = Image.fromarray(_picture(size, random).astype(np.uint8))
        path = os.path.join(folder, f"{number}.{kind.lower()}")
        image.save(path, kind, **_KINDS[kind])
    return find_images(folder)


def _picture(size: int, random: np.random.Generator) -> np.ndarray:
    """Surfaces of changing shade with some noise: files as large as photographs."""
    y, x = np.mgrid[:size, :size] / size
    picture = 200 * np.stack([x, y, (x + y) / 2], axis=-1)
    for _ in range(20):
        rows, columns = (slice(*sorted(random.integers(0, size + 1, 2))) for _ in "yx")
        part = picture[rows, columns]
        part[:] = 0.3 * part + 0.7 * random.uniform(0, 255, 3)
    picture += random.normal(0, 3, picture.shape)
    return picture.clip(0, 255)
