"""From samples to batches of tensors.

Which example comes when is a function of (seed, step) alone, so that a resumed run sees
exactly the images that the uninterrupted one would have seen.
"""

import dataclasses
from typing import Annotated, Any, Callable, Optional, Sequence

import tensorflow as tf

from soka_tf.data.image_files import RGB, VANISHING_POINT
from soka_tf.data.sample_readers import ImageReader, LabelReader
from soka_tf.data.samples import Sample
from soka_tf.errors import UserError
from soka_tf.kinds import checked, one_of
from soka_tf.tasks import Task

TARGETS = "targets"
Augmentation = Annotated[str, one_of(("none", "flip"))]


@dataclasses.dataclass(frozen=True)
class Batches:
    """What every kind of batch has.

    Attributes:
      image_size: side of the images in pixels.
      batch_size: images per batch, over all replicas of all workers.
      antialias: widens the filter when images are reduced. The original does not.

    Raises:
      UserError: if a size is below 1.
    """

    image_size: int
    batch_size: int
    antialias: bool = False

    def __post_init__(self):
        for name in ("image_size", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}."
                )


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every batch that a process reads.

    However many workers and replicas there are, together they see in every step the
    images that one process would see in it: each worker reads its part of the batch
    only, and hands it out in equal consecutive elements, one a replica.

    Attributes:
      workers: number of processes that share the batch.
      worker: number of this one, from 0.
      replicas: of each worker; that many elements make a step.

    Raises:
      UserError: if one is out of range.
    """

    workers: int = 1
    worker: int = 0
    replicas: int = 1

    def __post_init__(self):
        workers, worker, replicas = dataclasses.astuple(self)
        if workers < 1 or replicas < 1 or not 0 <= worker < workers:
            raise UserError(
                "workers and replicas must be at least 1, and worker a number from 0 "
                f"below workers. Received: workers {workers}, worker {worker}, "
                f"replicas {replicas}."
            )

    def element_size(self, batch_size: int) -> int:
        """The images of one replica.

        Raises:
          UserError: if the batch cannot be shared out evenly.
        """
        shares = self.workers * self.replicas
        if batch_size % shares:
            raise UserError(
                f"batch_size must be a multiple of {shares}, for each of the "
                f"{self.workers} workers has {self.replicas} replicas and all get as "
                f"many images. Received: {batch_size}. Bind batch_size = "
                f"{-(-batch_size // shares) * shares}."
            )
        return batch_size // shares


WHOLE = Share()


def image_dataset(
    samples: Sequence[Sample],
    batches: Batches,
    seed: int,
    start_step: int = 0,
    steps: Optional[int] = None,
    augmentation: str = "none",
    targets: Optional[Callable[[tf.Tensor], Any]] = None,
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Yields batches of images without labels: an endless chain of shuffled epochs.

    Element k of the dataset that starts at step s is element s + k of the one that
    starts at 0. Only rgb files are ever opened here. A file that cannot be read is
    named in one warning, and the next sample of the list takes its place.

    Args:
      samples: where the images are.
      batches: sizes.
      seed: of the order.
      start_step: number of batches to pass over.
      steps: number of batches; None for no end.
      augmentation: "none"; or "flip", left and right exchanged in half of the images
        at random, a function of (seed, place in the chain).
      targets: given the number of a sample (int64 scalar), returns in graph mode what
        is learnt from its image as it is, a structure of tensors: the teachers' kept
        outputs, or labels in their place, see
        `soka_tf.data.targets.label_reader`.
      share: what of each batch this process reads.

    Returns:
      A dataset of {"rgb": float32 [share.element_size(batch_size), image_size,
      image_size, 3] in [-1, 1]}, and, where `targets` is given, "targets": what it
      returned of the images that are shown, batched.

    Raises:
      UserError: if there are no samples, none of them can be read, the batch cannot be
        shared out evenly, or `augmentation` is neither or does not fit `targets`.
    """
    check_samples(samples)
    per_replica = share.element_size(batches.batch_size)
    check_augmentation(augmentation, targets is not None)
    reader = ImageReader(samples)
    reader.read(0)  # finds out here, not in the middle of a graph, if nothing is there
    per_worker = per_replica * share.replicas

    def load(number):
        step, place = number // per_worker, number % per_worker
        position = step * batches.batch_size + share.worker * per_worker + place
        index = shuffled_index(position, len(samples), seed)
        pixels, shown = tf.numpy_function(
            reader.read, [index], [tf.uint8, tf.int64], stateful=False
        )
        pixels.set_shape([None, None, 3])
        shown.set_shape([])
        element = {RGB: shown_image(pixels, batches, augmentation, seed, position)}
        return {**element, TARGETS: targets(shown)} if targets else element

    dataset = tf.data.Dataset.counter(start_step * per_worker)
    dataset = dataset.map(load, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(per_replica, drop_remainder=True)
    if steps is not None:
        dataset = dataset.take(steps * share.replicas)
    return dataset.prefetch(tf.data.AUTOTUNE)


def labelled_dataset(
    samples: Sequence[Sample],
    tasks: Sequence[Task],
    batches: Batches,
    cache_in_memory: bool = False,
    seed: Optional[int] = None,
    repeat: bool = False,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Yields batches of images with their encoded labels.

    Without a seed the samples come in their order. A label that is not there or cannot
    be read (named in one warning) is filled with zeros and flagged; where the image
    (then black) or the mask itself cannot be read, everything that depends on it is.

    Args:
      samples: images and labels; the mask is read from their depth_zbuffer files.
      tasks: which labels; beside targets also vanishing_point.
      batches: sizes, the labels' as well; `antialias` is for images only.
      cache_in_memory: keeps images, as they are, and encoded labels after their first
        use.
      seed: shuffles, in an order that is a function of (seed, step).
      repeat: goes on without end; batches are then always full.
      start_step: number of batches to pass over.

    Returns:
      A dataset of dictionaries, S being image_size:
        "rgb": float32 [batch, S, S, 3] in [-1, 1].
        task name: float32 [batch, S, S, channels], network range; for vanishing_point
          [batch, 9].
        "mask": float32 [batch, S, S, 1], 1 where the scan has a reading, 0
          elsewhere; all ones without a depth file.
        "valid/" + task name: bool [batch], whether the label is there.

    Raises:
      UserError: if there are no samples, or a task has no labels to read.
    """
    check_samples(samples)
    for task in tasks:
        if task.encoding is None and task.name != VANISHING_POINT:
            raise UserError(f"{task.name!r} has no labels that can be read from files.")
    reader = LabelReader(samples, tasks, batches.image_size, cache_in_memory)

    def load(index):
        found = reader.read_in_graph(index)
        size, antialias = batches.image_size, batches.antialias
        return {**found, RGB: preprocess_images(found[RGB][None], size, antialias)[0]}

    count, first = len(samples), start_step * batches.batch_size
    indices = tf.data.Dataset.counter(first)
    if seed is not None:
        indices = indices.map(lambda position: shuffled_index(position, count, seed))
    else:
        indices = indices.map(lambda position: position % count)
    if not repeat:
        indices = indices.take(max(count - first, 0))
    dataset = indices.map(load, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batches.batch_size, drop_remainder=repeat)
    return dataset.prefetch(tf.data.AUTOTUNE)


def preprocess_images(
    images: tf.Tensor, image_size: int, antialias: bool = False
) -> tf.Tensor:
    """Turns images into the networks' input, wherever images are shown to one.

    It equals the original but for the rim of an enlarged image, which that darkens and
    this repeats.

    Args:
      images: uint8 in [0, 255] or float in [0, 1], [batch, height, width, 3].
      image_size: side of the result in pixels.
      antialias: widens the filter when reducing. The original does not.

    Returns:
      float32 [batch, image_size, image_size, 3] in [-1, 1].
    """
    images = tf.convert_to_tensor(images)
    scale = 255.0 if images.dtype.is_integer else 1.0
    images = tf.cast(images, tf.float32) / scale
    size = [image_size, image_size]
    if images.shape[1:3].as_list() != size:  # or unknown
        images = tf.image.resize(images, size, antialias=antialias)
    return images * 2.0 - 1.0


def check_augmentation(augmentation: str, has_targets: bool) -> None:
    """Refuses an augmentation that is unknown or unknown to given targets.

    Raises:
      UserError: naming the bindings.
    """
    checked("run.augmentation", Augmentation, augmentation)
    if augmentation != "none" and has_targets:
        raise UserError(
            f"run.augmentation = {augmentation!r} and run.teacher_cache = True exclude "
            "each other: the cache holds what teachers say of the images as they are. "
            "Bind run.augmentation = 'none' or run.teacher_cache = False."
        )


def check_samples(samples: Sequence[Sample]) -> None:
    """Refuses to make batches of nothing.

    Raises:
      UserError: if there are no samples.
    """
    if not samples:
        raise UserError("There are no samples to make batches of.")


def shown_image(
    pixels: tf.Tensor,
    batches: Batches,
    augmentation: str,
    seed: int,
    position: tf.Tensor,
) -> tf.Tensor:
    """An image, uint8 [height, width, 3], as shown at a position of the chain.

    Returns:
      float32 [image_size, image_size, 3] in [-1, 1].
    """
    image = preprocess_images(pixels[None], batches.image_size, batches.antialias)[0]
    if augmentation == "none":
        return image
    # The algorithm is named, for the default differs between devices.
    number = tf.random.stateless_uniform(
        [], tf.stack([tf.constant(seed, tf.int64), position]), alg="philox"
    )
    return tf.where(number < 0.5, tf.reverse(image, [1]), image)


def shuffled_index(position: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """The sample at a position of an endless chain of permutations."""
    epoch, place = position // count, position % count
    return tf.random.experimental.index_shuffle(
        place, tf.stack([tf.constant(seed, tf.int64), epoch]), count - 1
    )
