"""What the frozen teachers say of every image, computed once and kept on disk.

    <folder>/<task>-<sha256 of the teacher's fingerprint>-<settings>/

Every teacher has records of its own (`soka_tf.teachers.kept_outputs`), so that runs
with other pairs share them.
"""

import concurrent.futures
import hashlib
import pathlib
import re
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from soka_tf.atomic import PathLike, locked
from soka_tf.data import file_writing, filesystem, shard_store
from soka_tf.data.image_files import RGB, DamagedFile, read_pixels
from soka_tf.data.pipeline import preprocess_images
from soka_tf.data.samples import Sample
from soka_tf.data.targets import Targets
from soka_tf.errors import UserError, counted
from soka_tf.teachers.kept_outputs import TeacherRecords, Values, parse, writing
from soka_tf.teachers.pool import TeacherPool, Wanted

FORMAT = 1
PREDICTION = "prediction"
# Rounding of normal float16 numbers is at most 2^-11 of each value.
_ROUNDING = 2.0**-10


class TeacherCache:
    """The outputs of a run's teachers, read from disk in place of running them."""

    def __init__(
        self,
        folder: PathLike,
        teachers: TeacherPool,
        image_size: int,
        antialias: bool = False,
        layers: Wanted = ("block3", "representation"),
    ):
        """Says what is to be kept; nothing is read or computed yet.

        Args:
          folder: of all teachers' records; made when it is needed.
          teachers: the teachers of the run.
          image_size: side in pixels of the images that the teachers are shown.
          antialias: as in `soka_tf.data.pipeline.preprocess_images`.
          layers: activations to keep beside the targets' predictions, as a pool takes
            them; with none, auxiliaries have nothing to say.
        """
        self.folder = pathlib.Path(folder).expanduser()
        self._layers = tuple(layers)
        self._lent = teachers.layers_of_each(layers)
        self._size = image_size
        self._antialias = antialias
        self._pool = teachers
        self._run: Dict[str, Callable[[tf.Tensor], Any]] = {}
        self.records: Dict[str, TeacherRecords] = {}
        known = {**teachers.targets, **teachers.auxiliaries}
        for name, own in self._lent.items():
            outputs = tuple(dict.fromkeys(own.values()))
            if name in teachers.targets:
                outputs += (PREDICTION,)
            self._run[name] = tf.function(
                self._runner(name, outputs),
                input_signature=[
                    tf.TensorSpec([None, image_size, image_size, 3], tf.float32)
                ],
                autograph=False,
            )
            shapes, _ = self._run[name].get_concrete_function().structured_outputs
            facts = {
                "format": FORMAT,
                "task": name,
                "fingerprint": known[name].fingerprint,
                "image_size": image_size,
                "antialias": bool(antialias),
                "inputs": teachers.inputs,
                "precision": teachers.precision,
                "outputs": {k: v.shape[1:].as_list() for k, v in shapes.items()},
            }
            self.records[name] = TeacherRecords(
                self.folder / _folder_name(facts), facts
            )

    @property
    def image_bytes(self) -> int:
        """Bytes that the outputs of one image take."""
        return sum(records.record_bytes for records in self.records.values())

    def describe(self, images: int) -> str:
        """Says where the outputs of so many images are kept and what they need."""
        return (
            f"The teachers' outputs of {counted(images, 'image')} need "
            f"{shard_store.in_units(images * self.image_bytes)} in {self.folder} "
            f"({shard_store.in_units(self.image_bytes)} an image)"
        )

    def _to_be_written(self, size: int) -> str:
        text = f"{shard_store.in_units(size)} are still to be written"
        room = file_writing.free_bytes(self.folder)
        if room is not None:
            text += f" (free there: {shard_store.in_units(room)})"
        return f"{text}."

    def fill(
        self, samples: Sequence[Sample], batch_size: int = 16, progress: bool = True
    ) -> None:
        """Computes what is missing of these images, after saying what it will take.

        Another process that fills the same folder is waited for.

        Args:
          samples: the images; those that cannot be read are passed over.
          batch_size: images at a time.
          progress: whether to show a bar on a terminal.

        Raises:
          UserError: if the disk is too small or cannot be written, or what a teacher
            says does not fit float16.
        """
        images = _keys_of([sample.files[RGB] for sample in samples])
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock", f"fills {self.folder}"):
            missing, there = {}, 0
            for name, records in self.records.items():
                records.open()
                missing[name] = {k: p for k, p in images.items() if k not in records}
                there += (len(images) - len(missing[name])) * records.record_bytes
            needed = len(images) * self.image_bytes
            told = (
                f"{self.describe(len(images))}; {shard_store.in_units(there)} of that "
                "are kept already"
            )
            shard_store.check_room(
                str(self.folder),
                needed - there,
                told,
                "Make room, bind run.teacher_cache_dir to a folder of another disk, or "
                "run.teacher_cache = False.",
            )
            logging.info("%s, %s", told, self._to_be_written(needed - there))
            start = time.monotonic()
            before = sum(map(len, self.records.values()))
            with tqdm.tqdm(
                total=sum(map(len, missing.values())),
                desc="running teachers",
                unit="image",
                disable=None if progress else True,
            ) as bar:
                for name, records in self.records.items():
                    bar.set_postfix_str(name)
                    if missing[name]:
                        records.add(self._compute(name, missing[name], batch_size, bar))
            count = sum(map(len, self.records.values())) - before
            if count:
                seconds = time.monotonic() - start
                logging.info(
                    "Ran teachers on images %d times in %.0f s (%.1f a second).",
                    count,
                    seconds,
                    count / seconds,
                )

    def reader(self, samples: Sequence[Sample]) -> Callable[[tf.Tensor], Any]:
        """Returns what `image_dataset` takes for `targets`.

        The outputs are those of the image's file as it is when it is read. If it
        changed since, reading ends in a UserError that says so: nothing can be computed
        in the middle of tf.data, whose threads the teachers would need.

        Args:
          samples: the samples that the numbers count, as given to `image_dataset`.

        Returns:
          A function from an int64 scalar to `Targets` without the batch: maps float32,
          features float16 in tuples, in the pool's order.
        """
        paths = [sample.files[RGB] for sample in samples]
        lent = self._lent

        def read(number: np.int64) -> List[np.ndarray]:
            key = image_key(paths[number])
            contents = [records.read(key) for records in self.records.values()]
            if None in contents:
                raise UserError(
                    f"{paths[number]}: appeared or changed since the run began; the "
                    "cache does not know what the teachers say of it. Give the same "
                    "command again: the run goes on from its last checkpoint, after "
                    "computing that."
                )
            return [np.array(content, object) for content in contents]

        def outputs(number: tf.Tensor) -> Targets:
            contents = tf.numpy_function(
                read, [number], [tf.string] * len(self.records), stateful=False
            )
            said = {
                name: parse(content, records.shapes)
                for content, (name, records) in zip(contents, self.records.items())
            }
            maps = {
                name: tf.cast(said[name][PREDICTION], tf.float32)
                for name in self._pool.targets
            }
            # Tuples: of lists tf.data makes one tensor.
            features = {
                layer: tuple(
                    said[k][own[layer]] for k, own in lent.items() if layer in own
                )
                for layer in self._layers
            }
            return Targets(maps, features)

        return outputs

    def _runner(self, task: str, outputs: Sequence[str]):
        """Images -> outputs in float16, and of each [B, 3]: error, size, largest."""

        def run(images: tf.Tensor):
            said = self._pool.run(task, images, self._lent[task].values())
            values, checks = {}, {}
            for name in outputs:
                exact = tf.cast(said[name], tf.float32)
                values[name] = tf.cast(exact, tf.float16)
                error = exact - tf.cast(values[name], tf.float32)
                largest = tf.reduce_max(tf.abs(exact), axis=[1, 2, 3])
                checks[name] = tf.stack([_rms(error), _rms(exact), largest], axis=1)
            return values, checks

        return run

    def _compute(
        self, name: str, missing: Mapping[bytes, str], batch_size: int, bar: tqdm.tqdm
    ) -> Iterator[Tuple[bytes, Values]]:
        keys, paths = list(missing), list(missing.values())
        for images, numbers in _images(
            keys, paths, self._size, self._antialias, batch_size
        ):
            values, checks = self._run[name](images)
            shown = [paths[number] for number in numbers]
            _check(name, shown, checks)
            values = {k: v.numpy() for k, v in values.items()}
            for i, number in enumerate(numbers):
                yield keys[number], {k: v[i] for k, v in values.items()}
            bar.update(len(numbers))


def image_key(path: str) -> bytes:
    """The sha256 of an image's file, whatever its name.

    Raises:
      DamagedFile: if it cannot be read.
    """
    try:
        return hashlib.sha256(filesystem.read_bytes(path)).digest()
    except OSError as error:
        raise DamagedFile(path, error.strerror or str(error)) from error


def _keys_of(paths: Sequence[str]) -> Dict[bytes, str]:
    """Readable images by key; those of the same content once."""

    def key(path: str) -> Optional[bytes]:
        try:
            return image_key(path)
        except DamagedFile:
            return None  # the pipeline names it

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        keys = pool.map(key, paths)
        return {k: path for k, path in zip(keys, paths) if k is not None}


def _images(
    keys: Sequence[bytes],
    paths: Sequence[str],
    image_size: int,
    antialias: bool,
    batch_size: int,
) -> Iterator[Tuple[tf.Tensor, List[int]]]:
    """Batches of the images that can be read, with their numbers."""

    def read(number: np.int64) -> Tuple[np.ndarray, np.bool_]:
        try:
            pixels = read_pixels(paths[number], RGB)
            # A file that changes now must not stand under its old key.
            return pixels, np.bool_(image_key(paths[number]) == keys[number])
        except DamagedFile:
            return np.zeros((1, 1, 3), np.uint8), np.bool_(False)

    def load(number):
        pixels, good = tf.numpy_function(
            read, [number], [tf.uint8, tf.bool], stateful=False
        )
        pixels.set_shape([None, None, 3])
        good.set_shape([])
        image = preprocess_images(pixels[None], image_size, antialias)[0]
        return image, number, good

    dataset = tf.data.Dataset.range(len(paths)).map(load, tf.data.AUTOTUNE)
    dataset = dataset.filter(lambda image, number, good: good).batch(batch_size)
    for images, numbers, _ in dataset.prefetch(tf.data.AUTOTUNE):
        yield images, numbers.numpy().tolist()


def _check(task: str, paths: Sequence[str], checks: Mapping[str, tf.Tensor]) -> None:
    """Refuses what float16 does not hold to its usual precision."""
    for output, check in checks.items():
        error, size, largest = np.moveaxis(check.numpy(), 1, 0)
        # Written so that NaN is refused.
        bad = np.flatnonzero(~(np.isfinite(size) & (error <= _ROUNDING * size)))
        if not bad.size:
            continue
        i = bad[0]
        if not np.isfinite(largest[i]):
            what = "values that are no numbers. Its file is spoilt: fetch it again"
        else:
            what = (
                f"values up to {largest[i]:.3g}, which float16 (6e-5 to 65504) does "
                "not hold. Bind run.teacher_cache = False"
            )
        raise UserError(
            f"The teacher of {task!r} answers {paths[i]} with a {output} of {what}."
        )


def _rms(values: tf.Tensor) -> tf.Tensor:
    """Root mean square of each image, float32 [B]."""
    return tf.sqrt(tf.reduce_mean(tf.square(values), axis=[1, 2, 3]))


def _folder_name(facts: Mapping[str, Any]) -> str:
    size = f"{facts['image_size']}px" + ("-antialias" if facts["antialias"] else "")
    name = "-".join(
        [
            facts["task"],
            hashlib.sha256(facts["fingerprint"].encode()).hexdigest()[:12],
            size,
            facts["inputs"],
            facts["precision"],
            "+".join(facts["outputs"]),
        ]
    )
    return re.sub(r"[^\w.+-]", "_", name)  # a teacher's layers may be called anything
