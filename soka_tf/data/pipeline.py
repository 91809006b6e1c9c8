"""From samples to batches of tensors.

Which example comes when is a function of (seed, step) alone, so that a resumed run sees
exactly the images that the uninterrupted one would have seen.
"""

import re
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.data import encodings, files
from soka_tf.data.reading import RGB, VANISHING_POINT, DamagedFile
from soka_tf.data.samples import MASK_DOMAIN, Sample
from soka_tf.errors import UserError
from soka_tf.tasks import Task

MASK = "mask"
TEACHERS = "teachers"
VALID = "valid/"  # prefix of the flags that tell which labels are there
AUGMENTATIONS = ("none", "flip")
_READ_AT_ONCE = 16  # files, by each worker of a tf.data service
_KEPT_BYTES = 2**30  # labels of small runs are read once, those of large ones anew


def image_dataset(
    samples: Sequence[Sample],
    image_size: int,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    steps: Optional[int] = None,
    antialias: bool = False,
    augmentation: str = "none",
    teachers: Optional[Callable[[tf.Tensor], Any]] = None,
    workers: int = 1,
    worker: int = 0,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Yields batches of images without labels: an endless chain of shuffled epochs.

    Element k of the dataset that starts at step s is element s + k of the one that
    starts at 0. Only rgb files are ever opened here. A file that cannot be read is
    named in one warning, and the next sample of the list takes its place.

    However many workers and replicas there are, together they see in every step the
    images that one process would see in it: each worker reads its part of the batch
    only, and hands it out in equal consecutive elements, one a replica.

    Args:
      samples: where the images are.
      image_size: side of the images in pixels.
      batch_size: images per batch, over all replicas of all workers.
      seed: of the order.
      start_step: number of batches to pass over.
      steps: number of batches; None for no end.
      antialias: widens the filter when reducing. The original does not.
      augmentation: "none"; or "flip", left and right exchanged in half of the images
        at random, a function of (seed, place in the chain).
      teachers: given the number of a sample (int64 scalar), returns in graph mode what
        the teachers say of its image as it is, a structure of tensors; or its labels
        in their place, see `label_reader`.
      workers: number of processes that share every batch.
      worker: number of this one, from 0.
      replicas: replicas of each worker; that many elements make a step.

    Returns:
      A dataset of {"rgb": float32 [batch_size / (workers * replicas), image_size,
      image_size, 3] in [-1, 1]}, and, where `teachers` is given, "teachers": what it
      returned of the images that are shown, batched.

    Raises:
      UserError: if there are no samples, none of them can be read, the batch cannot be
        shared out evenly, or `augmentation` is neither or does not fit `teachers`.
    """
    _check_sizes(samples, image_size, batch_size)
    _check_shares(batch_size, workers, worker, replicas)
    check_augmentation(augmentation, teachers is not None)
    reader = _ImageReader(samples)
    reader.read(0)  # finds out here, not in the middle of a graph, if nothing is there
    per_worker = batch_size // workers

    def load(number):
        step, place = number // per_worker, number % per_worker
        position = step * batch_size + worker * per_worker + place
        index = _shuffled_index(position, len(samples), seed)
        pixels, shown = tf.numpy_function(
            reader.read, [index], [tf.uint8, tf.int64], stateful=False
        )
        pixels.set_shape([None, None, 3])
        shown.set_shape([])
        image = preprocess_images(pixels[None], image_size, antialias)[0]
        if augmentation == "flip":
            image = _flip_half(image, seed, position)
        return {RGB: image, **({TEACHERS: teachers(shown)} if teachers else {})}

    dataset = tf.data.Dataset.counter(start_step * per_worker)
    dataset = dataset.map(load, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(per_worker // replicas, drop_remainder=True)
    if steps is not None:
        dataset = dataset.take(steps * replicas)
    return dataset.prefetch(tf.data.AUTOTUNE)


def service_dataset(
    samples: Sequence[Sample],
    image_size: int,
    batch_size: int,
    seed: int,
    service: str,
    job: str,
    start_step: int = 0,
    antialias: bool = False,
    augmentation: str = "none",
    workers: int = 1,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Yields batches of images that the workers of a tf.data service have read.

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

    Args:
      samples: where the images are.
      image_size: as in `image_dataset`, like `batch_size`, `seed`, `start_step`,
        `antialias`, `augmentation`, `workers` and `replicas`.
      batch_size: images per batch, over all replicas of all workers.
      seed: of the order in which places are handed out, and of the flips.
      service: address of the dispatcher, "grpc://host:port".
      job: name of the run; processes of one run must give the same, for they share
        its images out among them, and other runs another.
      start_step: number of batches to pass over.
      antialias: widens the filter when reducing.
      augmentation: "none" or "flip".
      workers: number of training processes that share every batch.
      replicas: replicas of each of them.

    Returns:
      An endless dataset of {"rgb": float32 [batch_size / (workers * replicas),
      image_size, image_size, 3] in [-1, 1]}.

    Raises:
      UserError: if the address is not one, an image is neither JPEG nor PNG, or as in
        `image_dataset`.
    """
    _check_sizes(samples, image_size, batch_size)
    _check_shares(batch_size, workers, 0, replicas)
    check_augmentation(augmentation, teachers_cached=False)
    if not re.fullmatch(r"grpc://[^/:]+:\d+", service):
        raise UserError(
            "run.data_service must be None or the address of a tf.data service's "
            f"dispatcher, 'grpc://host:port'. Received: {service!r}."
        )
    paths = [sample.files[RGB] for sample in samples]
    for path in paths:
        if not path.lower().endswith((".png", ".jpg", ".jpeg")):
            raise UserError(
                f"{path}: run.data_service reads PNG and JPEG only. Convert the image "
                "or bind run.data_service = None."
            )
    count, read = len(paths), _graph_reader(paths)

    def load(position, content):
        # Not decode_image, whose JPEGs are up to 5 grey levels off. Takes PNG as well.
        pixels = tf.io.decode_jpeg(content, 3, dct_method="INTEGER_ACCURATE")
        image = preprocess_images(pixels[None], image_size, antialias)[0]
        if augmentation == "flip":
            image = _flip_half(image, seed, position)
        return {RGB: image}

    def content(position):
        index = _shuffled_index(position, count, seed)
        return read(index).map(lambda content: load(position, content))

    dataset = tf.data.Dataset.range(start_step * batch_size, tf.int64.max)
    dataset = dataset.interleave(
        content, _READ_AT_ONCE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    dataset = dataset.ignore_errors(log_warning=True)
    dataset = dataset.batch(batch_size // (workers * replicas), drop_remainder=True)
    dataset = dataset.apply(
        tf.data.experimental.service.distribute(
            # Places are shared out as they are asked for, none to two workers.
            tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service,
            job_name=f"{job}-{start_step}",
        )
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def _graph_reader(paths: Sequence[str]) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Index -> a dataset of one element, the bytes of a file or part, in graph mode."""
    parts = [files.parse_part(path) for path in paths]
    if None in parts:
        names = tf.constant(paths)
        return lambda index: tf.data.Dataset.from_tensors(index).map(
            lambda index: tf.io.read_file(names[index])
        )
    sizes = {file: files.size(file) for file in {part.file for part in parts}}
    shards = {file: number for number, file in enumerate(sizes)}
    names = tf.constant(list(sizes))
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


def labelled_dataset(
    samples: Sequence[Sample],
    tasks: Sequence[Task],
    image_size: int,
    batch_size: int,
    antialias: bool = False,
    cache_in_memory: bool = False,
    seed: Optional[int] = None,
    repeat: bool = False,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Yields batches of images with their encoded labels.

    Without a seed the samples come in their order. A label that is not there or cannot
    be read (named in one warning) is filled with zeros and flagged; where the image or
    the mask itself cannot be read, everything that depends on it is.

    Args:
      samples: images and labels; the mask is read from their depth_zbuffer files.
      tasks: which labels; beside targets also vanishing_point.
      image_size: side of images and labels in pixels.
      batch_size: samples per batch.
      antialias: as in `image_dataset`; for images only.
      cache_in_memory: keeps encoded images and labels after their first use.
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
    _check_sizes(samples, image_size, batch_size)
    for task in tasks:
        if task.encoding is None and task.name != VANISHING_POINT:
            raise UserError(f"{task.name!r} has no labels that can be read from files.")
    reader = _LabelReader(samples, tasks, image_size, antialias, cache_in_memory)
    count, first = len(samples), start_step * batch_size
    indices = tf.data.Dataset.counter(first)
    if seed is not None:
        indices = indices.map(lambda position: _shuffled_index(position, count, seed))
    else:
        indices = indices.map(lambda position: position % count)
    if not repeat:
        indices = indices.take(max(count - first, 0))
    dataset = indices.map(reader.read_in_graph, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=repeat)
    return dataset.prefetch(tf.data.AUTOTUNE)


def label_reader(
    samples: Sequence[Sample], tasks: Sequence[Task], image_size: int
) -> Callable[[tf.Tensor], Dict[str, Any]]:
    """Returns what `image_dataset` takes for `teachers`: labels in their place.

    They are encoded as the networks predict. A label that is not there or cannot be
    read (named in one warning) does not count, nor do pixels without a depth reading
    of a task that is masked. All are kept in memory if they take little.

    Args:
      samples: the samples that the numbers count, as given to `image_dataset`.
      tasks: which labels; none but targets.
      image_size: side of the labels in pixels.

    Returns:
      A function from an int64 scalar to the fields of `TeacherOutputs`, S being
      image_size:
        "predictions": task -> float32 [S, S, channels], network range.
        "features": none.
        "weights": task -> float32 [S, S, 1], 0 where the label does not count.
    """
    channels = 1 + sum(task.channels for task in tasks)
    small = 4 * channels * image_size**2 * len(samples) <= _KEPT_BYTES
    reader = _LabelReader(samples, tasks, image_size, None, small)

    def labels(number: tf.Tensor) -> Dict[str, Any]:
        found = reader.read_in_graph(number)
        weights = {}
        for task in tasks:
            there = tf.cast(found[VALID + task.name], tf.float32)
            readings = found[MASK] if task.masked else tf.ones_like(found[MASK])
            weights[task.name] = there * readings
        return {
            "predictions": {task.name: found[task.name] for task in tasks},
            "features": {},
            "weights": weights,
        }

    return labels


def preprocess_images(
    images: tf.Tensor, image_size: int, antialias: bool = False
) -> tf.Tensor:
    """Turns images into the networks' input; the same for training and serving.

    The same arithmetic as `encodings.encode_rgb`, in single precision.

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
    images = tf.image.resize(images, (image_size, image_size), antialias=antialias)
    return images * 2.0 - 1.0


def check_augmentation(augmentation: str, teachers_cached: bool) -> None:
    """Refuses an augmentation that is unknown or unknown to cached teachers.

    Raises:
      UserError: naming the bindings.
    """
    if augmentation not in AUGMENTATIONS:
        raise UserError(
            f"run.augmentation must be one of {AUGMENTATIONS}. Received: "
            f"{augmentation!r}."
        )
    if augmentation != "none" and teachers_cached:
        raise UserError(
            f"run.augmentation = {augmentation!r} and run.teacher_cache = True exclude "
            "each other: the cache holds what teachers say of the images as they are. "
            "Bind run.augmentation = 'none' or run.teacher_cache = False."
        )


def _flip_half(image: tf.Tensor, seed: int, position: tf.Tensor) -> tf.Tensor:
    # The algorithm is named, for the default differs between devices.
    number = tf.random.stateless_uniform(
        [], tf.stack([tf.constant(seed, tf.int64), position]), alg="philox"
    )
    return tf.where(number < 0.5, tf.reverse(image, [1]), image)


def _shuffled_index(position: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """The sample at a position of an endless chain of permutations."""
    epoch, place = position // count, position % count
    return tf.random.experimental.index_shuffle(
        place, tf.stack([tf.constant(seed, tf.int64), epoch]), count - 1
    )


def _check_sizes(samples: Sequence[Sample], image_size: int, batch_size: int) -> None:
    if not samples:
        raise UserError("There are no samples to make batches of.")
    for name, value in (("image_size", image_size), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} must be at least 1. Received: {value}.")


def _check_shares(batch_size: int, workers: int, worker: int, replicas: int) -> None:
    if workers < 1 or replicas < 1 or not 0 <= worker < workers:
        raise UserError(
            "workers and replicas must be at least 1, and worker a number from 0 below "
            f"workers. Received: workers {workers}, worker {worker}, replicas "
            f"{replicas}."
        )
    shares = workers * replicas
    if batch_size % shares:
        raise UserError(
            f"batch_size must be a multiple of {shares}, for each of the {workers} "
            f"workers has {replicas} replicas and all get as many images. Received: "
            f"{batch_size}. Bind batch_size = {-(-batch_size // shares) * shares}."
        )


class _Warnings:
    """Names every damaged file once, from whatever thread."""

    def __init__(self):
        self._named = set()
        self._lock = threading.Lock()

    def warn(self, damage: DamagedFile, consequence: str) -> None:
        with self._lock:
            if damage.path in self._named:
                return
            self._named.add(damage.path)
        logging.warning("%s: %s. %s", damage.path, damage.reason, consequence)


class _ImageReader:
    """Reads images by index; unreadable ones are replaced by the next in the list."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples
        self._warnings = _Warnings()

    def read(self, index: int) -> Tuple[np.ndarray, np.int64]:
        """Returns pixels, uint8 [height, width, 3], and the index of their sample."""
        count = len(self._samples)
        for offset in range(count):
            shown = (index + offset) % count
            try:
                return self._samples[shown].read(RGB), np.int64(shown)
            except DamagedFile as damage:
                last = damage
                self._warnings.warn(damage, "The next image takes its place.")
        raise UserError(f"None of the {count} images can be read. The last one: {last}")


class _LabelReader:
    """Reads an image with its mask and labels, by index."""

    def __init__(
        self,
        samples: Sequence[Sample],
        tasks: Sequence[Task],
        image_size: int,
        antialias: Optional[bool],
        cache_in_memory: bool,
    ):
        """Opens nothing yet; with `antialias` None the images themselves never."""
        self._samples = samples
        self._tasks = tasks
        self._size = image_size
        self._antialias = antialias
        self._cache: Optional[Dict[int, List[np.ndarray]]] = (
            {} if cache_in_memory else None
        )
        self._warnings = _Warnings()
        self._specs: Dict[str, Tuple[tf.DType, Tuple[int, ...]]] = {}
        if antialias is not None:
            self._specs[RGB] = tf.float32, (image_size, image_size, 3)
        self._specs[MASK] = tf.float32, (image_size, image_size, 1)
        for task in tasks:
            self._specs[task.name] = tf.float32, self._label_shape(task)
        for task in tasks:
            self._specs[VALID + task.name] = tf.bool, ()

    def read_in_graph(self, index: tf.Tensor) -> Dict[str, tf.Tensor]:
        """Returns the tensors of one sample, by name."""
        dtypes = [dtype for dtype, _ in self._specs.values()]
        arrays = tf.numpy_function(self.read, [index], dtypes, stateful=False)
        for array, (_, shape) in zip(arrays, self._specs.values()):
            array.set_shape(shape)
        return dict(zip(self._specs, arrays))

    def read(self, index: int) -> List[np.ndarray]:
        """Returns the arrays of one sample, images first, then mask and labels."""
        if self._cache is None:
            return self._read(self._samples[index])
        index = int(index)
        if index not in self._cache:
            self._cache[index] = self._read(self._samples[index])
        return self._cache[index]

    def _read(self, sample: Sample) -> List[np.ndarray]:
        images, rgb_read = [], True
        if self._antialias is not None:
            rgb, rgb_read = self._image(sample)
            images.append(rgb)
        mask, mask_read = self._mask(sample)
        labels, flags = [], []
        for task in self._tasks:
            label = None
            if rgb_read and (mask_read or not task.masked):
                label = self._label(sample, task)
            flags.append(np.array(label is not None))
            if label is None:
                label = np.zeros(self._label_shape(task), np.float32)
            labels.append(label)
        return [*images, mask, *labels, *flags]

    def _image(self, sample: Sample) -> Tuple[np.ndarray, bool]:
        try:
            pixels = sample.read(RGB)
            return encodings.encode_rgb(pixels, self._size, self._antialias), True
        except DamagedFile as damage:
            self._warnings.warn(damage, "Its sample does not count.")
            return np.zeros((self._size, self._size, 3), np.float32), False

    def _mask(self, sample: Sample) -> Tuple[np.ndarray, bool]:
        shape = (self._size, self._size, 1)
        if MASK_DOMAIN not in sample.files:
            return np.ones(shape, np.float32), True
        try:
            pixels = sample.read(MASK_DOMAIN)
            return encodings.valid_mask(pixels, self._size), True
        except DamagedFile as damage:
            self._warnings.warn(damage, "Labels that need this mask do not count.")
            return np.zeros(shape, np.float32), False

    def _label(self, sample: Sample, task: Task) -> Optional[np.ndarray]:
        if task.name not in sample.files:
            return None
        try:
            values = sample.read(task.name)
            if task.name == VANISHING_POINT:
                return values
            return encodings.encode(task, values, self._size)
        except DamagedFile as damage:
            self._warnings.warn(damage, "This label does not count.")
            return None

    def _label_shape(self, task: Task) -> Tuple[int, ...]:
        if task.name == VANISHING_POINT:
            return (9,)
        return (self._size, self._size, task.channels)
