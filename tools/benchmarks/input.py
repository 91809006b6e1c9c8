"""Reading images from files against the training that consumes them."""

import itertools
import os
import tempfile
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf.data import encodings
from soka_tf.data.pipeline import (
    Batches,
    image_dataset,
    labelled_dataset,
    preprocess_images,
)
from soka_tf.data.reading import RGB, read_pixels
from soka_tf.data.samples import Sample
from soka_tf.data.sources.folder import find as find_images
from soka_tf.soka.model import SokaModel
from soka_tf.tasks import get_task
from tools.benchmarks import cycle
from tools.benchmarks.measure import Measurement, time_cases

_KINDS = {"PNG": {}, "JPEG": {"quality": 90}}
_HELD, _FED = _TRAINING = ("cycle, held batch", "cycle, fed from files")
_READING, _LABELS = ("reading images", "reading images and labels")
_PREDICTION = "prediction"


class Scale(NamedTuple):
    """Sizes of a benchmark.

    Attributes:
      model: of the networks, as in benchmark "cycle".
      file_size: side in pixels of the images that the cycle is fed with.
      steps: batches that one timed call trains on.
      read_steps: batches that one timed call reads, or predicts; many, because to
        start a dataset takes a tenth of a second.
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
        samples = _write_samples(folder, model.tasks, sizes)
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
            "labels_over_prediction": seconds[_LABELS] / seconds[_PREDICTION],
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
    labelled = labelled_dataset(
        samples,
        [get_task(t) for t in model.tasks],
        Batches(size, batch_size),
        repeat=True,
    )
    predict = tf.function(model.student, autograph=False)
    batch = next(iter(files))[RGB]

    def train(dataset: tf.data.Dataset) -> None:
        # An iterator of one's own: a lasting one would read ahead, and take the
        # processor, while it is another case's turn.
        iterator = iter(dataset)
        for _ in range(sizes.steps):
            logs = step(iterator)
        _wait(logs)

    def read(dataset: tf.data.Dataset) -> None:
        for _ in itertools.islice(dataset, sizes.read_steps):
            pass

    def predict_all() -> None:
        for _ in range(sizes.read_steps):
            _wait(predict(batch))

    return {
        _HELD: lambda: train(held),
        _FED: lambda: train(files),
        _READING: lambda: read(files),
        _PREDICTION: predict_all,
        _LABELS: lambda: read(labelled),
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
        dataset = image_dataset(
            samples, Batches(sizes.network_size, 1), seed=0, steps=count
        )

        def decode(paths: Sequence[str] = paths) -> None:
            for path in paths:
                read_pixels(path, RGB)

        def resize(pixels: tf.Tensor = pixels) -> None:
            _wait(preprocess_images(pixels, sizes.network_size))

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


def _write_samples(folder: str, tasks: Sequence[str], sizes: Scale) -> List[Sample]:
    """Writes PNG files of images and of the tasks' labels; enough for four steps."""
    count = 4 * sizes.model.batch_size
    place = os.path.join(folder, RGB)
    samples = write_images(place, count, sizes.file_size, "PNG")
    random = np.random.default_rng(1)
    for name in tasks:
        os.mkdir(os.path.join(folder, name))
    complete = []
    for sample in samples:
        files = dict(sample.files)
        for task in map(get_task, tasks):
            values = _picture(sizes.file_size, random)[..., : task.channels] / 255
            if task.name == "depth_zbuffer":
                values = 1 + 8 * values  # metres
            path = os.path.join(folder, task.name, f"{sample.key}.png")
            Image.fromarray(encodings.store(task, values).squeeze()).save(path)
            files[task.name] = path
        complete.append(Sample(sample.key, sample.point, files))
    return complete


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
    for top, bottom, left, right in _rectangles(size, random, 20):
        part = picture[top:bottom, left:right]
        part[:] = 0.3 * part + 0.7 * random.uniform(0, 255, 3)
    picture += random.normal(0, 3, picture.shape)
    return picture.clip(0, 255)


def _rectangles(
    size: int, random: np.random.Generator, count: int
) -> Iterator[Sequence[int]]:
    for _ in range(count):
        yield (
            *sorted(random.integers(0, size + 1, 2)),
            *sorted(random.integers(0, size + 1, 2)),
        )


def _wait(outputs: Any) -> None:
    for tensor in tf.nest.flatten(outputs):
        tensor.numpy()
