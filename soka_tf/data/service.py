"""Batches that the workers of a tf.data service have read, in no fixed order.

Python does not run there, so images are decoded by TensorFlow: JPEG and PNG only,
16-bit ones cut to 8 and not rounded, cameras' EXIF orientation not obeyed. Of
ordinary 8-bit files the pixels are those of `image_dataset`. What is lost:

- The order. Every place of the endless chain of shuffled epochs is read once, by
  whichever worker is free, so no two runs have the same batches. After a resume,
  images that had been read ahead come twice.
- The place of an image that cannot be read: the next place follows, with a warning
  in the log of the service's worker. The CRC-32 of a records' part is not checked.
- The teachers' cached outputs.

Images must be where the service's workers see them under the same paths.
"""

import re
from typing import Annotated, Callable, Optional, Sequence

import tensorflow as tf

from soka_tf.data import filesystem
from soka_tf.data.filesystem import name_bytes
from soka_tf.data.image_files import RGB
from soka_tf.data.pipeline import (
    WHOLE,
    Batches,
    Share,
    check_augmentation,
    check_samples,
    shown_image,
    shuffled_index,
)
from soka_tf.data.samples import Sample
from soka_tf.errors import UserError
from soka_tf.kinds import Kind, checked

_READ_AT_ONCE = 16  # files, by each worker
Address = Annotated[
    Optional[str],
    Kind(
        "the address 'grpc://host:port' of a tf.data service's dispatcher",
        lambda value: (
            isinstance(value, str)
            and re.fullmatch(r"grpc://[^/:\s]+:\d+", value) is not None
        ),
    ),
]


def service_dataset(
    samples: Sequence[Sample],
    batches: Batches,
    seed: int,
    service: str,
    job: str,
    start_step: int = 0,
    augmentation: str = "none",
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Yields batches of images that the workers of a tf.data service have read.

    Args:
      samples: where the images are.
      batches: sizes.
      seed: of the order in which places are handed out, and of the flips.
      service: address of the dispatcher, "grpc://host:port".
      job: name of the run; processes of one run must give the same, for they share
        its images out among them, and other runs another.
      start_step: number of batches to pass over.
      augmentation: "none" or "flip".
      share: how many training processes share every batch, and their replicas.

    Returns:
      An endless dataset of {"rgb": float32 [share.element_size(batch_size), image_size,
      image_size, 3] in [-1, 1]}.

    Raises:
      UserError: if the address is not one, an image is neither JPEG nor PNG, or as in
        `image_dataset`.
    """
    check_samples(samples)
    element = share.element_size(batches.batch_size)
    check_augmentation(augmentation, has_targets=False)
    paths = [sample.files[RGB] for sample in samples]
    _check_service(service, paths)
    read = _graph_reader(paths)

    def content(position):
        index = shuffled_index(position, len(paths), seed)
        return read(index).map(lambda content: load(position, content))

    def load(position, content):
        # Not decode_image, whose JPEGs are up to 5 grey levels off. Takes PNG as well.
        pixels = tf.io.decode_jpeg(content, 3, dct_method="INTEGER_ACCURATE")
        return {RGB: shown_image(pixels, batches, augmentation, seed, position)}

    dataset = tf.data.Dataset.range(start_step * batches.batch_size, tf.int64.max)
    dataset = dataset.interleave(
        content, _READ_AT_ONCE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    dataset = dataset.ignore_errors(log_warning=True)
    dataset = dataset.batch(element, drop_remainder=True)
    dataset = dataset.apply(
        tf.data.experimental.service.distribute(
            # Places are shared out as they are asked for, none to two workers.
            tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service,
            job_name=f"{job}-{start_step}",
        )
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def _check_service(service: str, paths: Sequence[str]) -> None:
    checked("run.data_service", Address, service)
    for path in paths:
        if not path.lower().endswith((".png", ".jpg", ".jpeg")):
            raise UserError(
                f"{path}: run.data_service reads PNG and JPEG only. Convert the image "
                "or bind run.data_service = None."
            )
    for path in filesystem.not_regular(paths):
        raise UserError(
            f"{path}: not a regular file, which run.data_service would wait for. "
            "Remove it or bind run.data_service = None."
        )


def _graph_reader(paths: Sequence[str]) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Index -> a dataset of one element, the bytes of a file or part, in graph mode."""
    parts = [filesystem.parse_part(path) for path in paths]
    if None in parts:
        names = tf.constant([name_bytes(path) for path in paths])
        return lambda index: tf.data.Dataset.from_tensors(index).map(
            lambda index: tf.io.read_file(names[index])
        )
    sizes = {file: filesystem.size(file) for file in {part.file for part in parts}}
    shards = {file: number for number, file in enumerate(sizes)}
    names = tf.constant([name_bytes(file) for file in sizes])
    places = tf.constant(
        [
            (shards[p.file], p.offset, p.length, sizes[p.file] - p.offset - p.length)
            for p in parts
        ],
        tf.int64,
    )

    def read(index: tf.Tensor) -> tf.data.Dataset:
        shard, before, length, after = tf.unstack(places[index])
        # The only op that reads from within a file: one record between two margins.
        return tf.data.FixedLengthRecordDataset(names[shard], length, before, after)

    return read
