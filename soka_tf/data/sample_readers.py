"""Samples by number, as arrays: images, and labels with their mask."""

import threading
from typing import Dict, List, Optional, Sequence, Set, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.data import encodings
from soka_tf.data.image_files import RGB, VANISHING_POINT, DamagedFile
from soka_tf.data.samples import MASK_DOMAIN, Sample
from soka_tf.errors import UserError, counted
from soka_tf.tasks import Task

MASK = "mask"
VALID = "valid/"  # prefix of the flags that tell which labels are there


# Of the process, not of a reader: a dataset that nobody asks any more may still be
# reading ahead when another one has begun.
_warned: Set[Tuple[str, str]] = set()
_lock = threading.Lock()


def _warn_once(damage: DamagedFile, consequence: str) -> None:
    """Names a damaged file, once for each thing that follows from it."""
    with _lock:
        new = (damage.path, consequence) not in _warned
        _warned.add((damage.path, consequence))
    if new:
        logging.warning("%s: %s. %s", damage.path, damage.reason, consequence)


class ImageReader:
    """Reads images by index; unreadable ones are replaced by the next in the list."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples

    def read(self, index: int) -> Tuple[np.ndarray, np.int64]:
        """Returns pixels, uint8 [height, width, 3], and the index of their sample."""
        count = len(self._samples)
        for offset in range(count):
            shown = (index + offset) % count
            try:
                return self._samples[shown].read(RGB), np.int64(shown)
            except DamagedFile as damage:
                last = damage
                _warn_once(damage, "The next image takes its place.")
        raise UserError(
            f"No image of {counted(count, 'sample')} can be read. The last one: {last}"
        )


class LabelReader:
    """Reads an image with its mask and labels, by index."""

    def __init__(
        self,
        samples: Sequence[Sample],
        tasks: Sequence[Task],
        image_size: int,
        cache_in_memory: bool,
        with_images: bool = True,
    ):
        """Opens nothing yet.

        Args:
          samples: what to read.
          tasks: which labels.
          image_size: side of mask and labels in pixels; images are as they are.
          cache_in_memory: keeps everything after its first use.
          with_images: whether images are opened, too.
        """
        self._samples = samples
        self._tasks = tasks
        self._size = image_size
        self._with_images = with_images
        self._cache: Optional[Dict[int, List[np.ndarray]]] = (
            {} if cache_in_memory else None
        )
        self._specs: Dict[str, Tuple[tf.DType, Tuple[Optional[int], ...]]] = {}
        if with_images:
            self._specs[RGB] = tf.uint8, (None, None, 3)
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
        if self._with_images:
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
            return sample.read(RGB), True
        except DamagedFile as damage:
            _warn_once(damage, "Its sample does not count.")
            return np.zeros((self._size, self._size, 3), np.uint8), False

    def _mask(self, sample: Sample) -> Tuple[np.ndarray, bool]:
        shape = (self._size, self._size, 1)
        if MASK_DOMAIN not in sample.files:
            return np.ones(shape, np.float32), True
        try:
            pixels = sample.read(MASK_DOMAIN)
            return encodings.valid_mask(pixels, self._size), True
        except DamagedFile as damage:
            _warn_once(damage, "Labels that need this mask do not count.")
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
            _warn_once(damage, "This label does not count.")
            return None

    def _label_shape(self, task: Task) -> Tuple[int, ...]:
        if task.name == VANISHING_POINT:
            return (9,)
        return (self._size, self._size, task.channels)
