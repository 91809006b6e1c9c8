"""What the frozen teachers say of every image, computed once and kept on disk.

    <folder>/<task>-<sha256 of the teacher's fingerprint>-<settings>/
        manifest.json       what the outputs depend on, and their shapes
        <name>.tfrecord     tf.train.Example: "image", the sha256 of an image's file,
                            and each output's float16 values in little-endian
        <name>.json         where the shard's records are, and the CRC-32 of each

Every teacher has records of its own, so that runs with other pairs share them. A shard
counts once its index is there, which is written last.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import time
import zlib
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from soka_tf.data import files as data_files
from soka_tf.data.pipeline import preprocess_images
from soka_tf.data.reading import RGB, DamagedFile, read_pixels
from soka_tf.data.samples import Sample
from soka_tf.data.sources.records import FRAME_AFTER, FRAME_BEFORE
from soka_tf.disk import PathLike, locked, write_json
from soka_tf.errors import UserError
from soka_tf.teachers.pool import TeacherPool, Wanted

FORMAT = 1
IMAGE = "image"
PREDICTION = "prediction"
_MANIFEST = "manifest.json"
_SHARD_BYTES = 128 << 20  # what a kill loses at most, for each teacher
_SHARD_RECORDS = 1024
_DISK_MARGIN = 256 << 20  # left free, for the indices and whatever else is written
# Rounding of normal float16 numbers is at most 2^-11 of each value.
_ROUNDING = 2.0**-10

Values = Dict[str, np.ndarray]  # output -> float16 [h, w, c]


class Record(NamedTuple):
    """Where a record is.

    Attributes:
      shard: the file.
      offset: of the serialized example, in bytes.
      length: of the serialized example, in bytes.
      crc32: of the serialized example.
    """

    shard: pathlib.Path
    offset: int
    length: int
    crc32: int


class TeacherRecords:
    """The records of one teacher, in a folder of their own."""

    def __init__(self, folder: pathlib.Path, manifest: Mapping[str, Any]):
        """Names the folder; nothing is read or written before `open`.

        Args:
          folder: where the records are.
          manifest: what they depend on; "outputs" maps each output to its shape.
        """
        self.folder = folder
        self.manifest = dict(manifest)
        self.shapes: Dict[str, List[int]] = self.manifest["outputs"]
        zeros = {k: np.zeros(shape, np.float16) for k, shape in self.shapes.items()}
        self.record_bytes = len(_serialize(bytes(32), zeros))
        self.record_bytes += FRAME_BEFORE + FRAME_AFTER
        self._records: Dict[bytes, Record] = {}

    def open(self) -> None:
        """Reads indices and shards, and removes what is not whole.

        Damaged shards, and those that a kill left without index, are named in one
        warning.

        Raises:
          UserError: if the folder holds something else than its name says.
        """
        self._check_manifest()
        shards = sorted(self.folder.glob("*.tfrecord"))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = dict(zip(shards, pool.map(_read_shard, shards)))
        self._records = {}
        for records in found.values():
            self._records.update(records or {})
        damaged = [shard for shard, records in found.items() if records is None]
        if damaged:
            logging.warning(
                "%s: damaged or unfinished: %s. What the teacher says of their images "
                "is computed again.",
                self.folder,
                ", ".join(shard.name for shard in damaged),
            )
        leftovers = [*self.folder.glob("*.tmp"), *damaged, *map(_index_of, damaged)]
        for index in self.folder.glob("*.json"):
            if index.name != _MANIFEST and not index.with_suffix(".tfrecord").exists():
                leftovers.append(index)
        for path in leftovers:
            path.unlink(missing_ok=True)

    def __contains__(self, image: bytes) -> bool:
        return image in self._records

    def __len__(self) -> int:
        return len(self._records)

    def read(self, image: bytes) -> Optional[bytes]:
        """Returns the serialized example of an image; None if there is none.

        Safe to call from many threads.

        Raises:
          UserError: if it is damaged.
        """
        record = self._records.get(image)
        if record is None:
            return None
        content = _read_record(record)
        if content is None:
            raise UserError(
                f"{record.shard}: damaged since the run began. Give the same command "
                "again: the run goes on from its last checkpoint, after computing what "
                "the shard held."
            )
        return content

    def add(self, values: Iterable[Tuple[bytes, Values]]) -> None:
        """Writes records, shard by shard; of an interruption only one shard is lost.

        Raises:
          UserError: if the disk is full or cannot be written.
        """
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _MANIFEST).exists():
                write_json(self.folder / _MANIFEST, self.manifest)
        values = iter(values)
        count = min(_SHARD_RECORDS, max(1, _SHARD_BYTES // self.record_bytes))
        while self._add_shard(itertools.islice(values, count)):
            pass

    def _add_shard(self, values: Iterable[Tuple[bytes, Values]]) -> bool:
        index: Dict[bytes, List[int]] = {}
        temporary = self.folder / f"{os.getpid()}.tfrecord.tmp"
        end = 0
        try:
            with _writing(self.folder):
                writer = tf.io.TFRecordWriter(str(temporary))
            for image, outputs in values:
                content = _serialize(image, outputs)
                with _writing(self.folder):
                    writer.write(content)
                start = end + FRAME_BEFORE
                index[image] = [start, len(content), zlib.crc32(content)]
                end = start + len(content) + FRAME_AFTER
            with _writing(self.folder):
                writer.close()
                if not index:
                    return False
                name = hashlib.sha256(b"".join(sorted(index))).hexdigest()[:16]
                shard = self.folder / f"{name}.tfrecord"
                # An older shard of this name must not be taken for the new one.
                _index_of(shard).unlink(missing_ok=True)
                os.replace(temporary, shard)
                records = {image.hex(): place for image, place in index.items()}
                shard_index = {"bytes": end, "records": records}
                write_json(_index_of(shard), shard_index, indent=None)
        finally:
            temporary.unlink(missing_ok=True)
        for image, place in index.items():
            self._records[image] = Record(shard, *place)
        return True

    def _check_manifest(self) -> None:
        path = self.folder / _MANIFEST
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            wrong = {
                key: found.get(key)
                for key, value in self.manifest.items()
                if found.get(key) != value
            }
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}). Remove its folder: what it holds "
                "is computed again."
            ) from error
        if wrong:
            wanted = {key: self.manifest[key] for key in wrong}
            raise UserError(
                f"{path}: the folder holds the outputs of another teacher or of other "
                f"settings. It says {wrong}, this run needs {wanted}. Remove or rename "
                "the folder."
            )


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
            f"The teachers' outputs of {_grouped(images)} images need "
            f"{_size(images * self.image_bytes)} in {self.folder} "
            f"({_size(self.image_bytes)} an image)"
        )

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
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock", f"fills {self.folder}"):
            missing, there = {}, 0
            for name, records in self.records.items():
                records.open()
                missing[name] = {k: p for k, p in images.items() if k not in records}
                there += (len(images) - len(missing[name])) * records.record_bytes
            needed = len(images) * self.image_bytes
            told = f"{self.describe(len(images))}, {_size(there)} are there"
            self._check_disk(told, needed - there)
            logging.info("%s.", told)
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
                    "Ran teachers on images %s times in %.0f s (%.1f a second).",
                    _grouped(count),
                    seconds,
                    count / seconds,
                )

    def reader(self, samples: Sequence[Sample]) -> Callable[[tf.Tensor], Any]:
        """Returns what `image_dataset` takes for `teachers`.

        The outputs are those of the image's file as it is when it is read. If it
        changed since, reading ends in a UserError that says so: nothing can be computed
        in the middle of tf.data, whose threads the teachers would need.

        Args:
          samples: the samples that the numbers count, as given to `image_dataset`.

        Returns:
          A function from an int64 scalar to the fields of `TeacherOutputs`:
          predictions float32, features float16 in tuples, in the pool's order.
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

        def outputs(number: tf.Tensor) -> Dict[str, Any]:
            contents = tf.numpy_function(
                read, [number], [tf.string] * len(self.records), stateful=False
            )
            said = {
                name: _parse(content, records.shapes)
                for content, (name, records) in zip(contents, self.records.items())
            }
            return {
                "predictions": {
                    name: tf.cast(said[name][PREDICTION], tf.float32)
                    for name in self._pool.targets
                },
                # Tuples: of lists tf.data makes one tensor.
                "features": {
                    layer: tuple(said[name][own[layer]] for name, own in lent.items())
                    for layer in self._layers
                },
            }

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

    def _check_disk(self, told: str, missing: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if missing and missing + _DISK_MARGIN > free:
            raise UserError(
                f"{told}: {_size(missing)} more than there is room for. The disk has "
                f"{_size(free)} free, of which {_size(_DISK_MARGIN)} must remain. Make "
                "room, bind run.teacher_cache_dir to a folder of another disk, or "
                "run.teacher_cache = False."
            )


def image_key(path: str) -> bytes:
    """The sha256 of an image's file, whatever its name.

    Raises:
      DamagedFile: if it cannot be read.
    """
    try:
        return hashlib.sha256(data_files.read_bytes(path)).digest()
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


def _serialize(image: bytes, outputs: Mapping[str, np.ndarray]) -> bytes:
    features = {name: value.astype("<f2").tobytes() for name, value in outputs.items()}
    features[IMAGE] = image
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
                for name, content in features.items()
            }
        )
    ).SerializeToString(deterministic=True)


def _parse(content: tf.Tensor, shapes: Mapping[str, List[int]]) -> Dict[str, tf.Tensor]:
    content.set_shape([])
    features = tf.io.parse_single_example(
        content, {name: tf.io.FixedLenFeature([], tf.string) for name in shapes}
    )
    return {
        name: tf.reshape(tf.io.decode_raw(features[name], tf.float16), shape)
        for name, shape in shapes.items()
    }


def _index_of(shard: pathlib.Path) -> pathlib.Path:
    return shard.with_suffix(".json")


def _read_shard(shard: pathlib.Path) -> Optional[Dict[bytes, Record]]:
    """The records of a shard; None if shard or index are not whole."""
    try:
        index = json.loads(_index_of(shard).read_text(encoding="utf-8"))
        if index["bytes"] != shard.stat().st_size:
            return None
        records = {
            bytes.fromhex(image): Record(shard, *map(int, place))
            for image, place in index["records"].items()
        }
        with open(shard, "rb") as file:
            good = all(_read_from(file.fileno(), r) for r in records.values())
        return records if good else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_record(record: Record) -> Optional[bytes]:
    """The bytes of a record; None if they are not what was written."""
    try:
        with open(record.shard, "rb") as file:
            return _read_from(file.fileno(), record)
    except OSError:
        return None


def _read_from(file: int, record: Record) -> Optional[bytes]:
    content = os.pread(file, record.length, record.offset)
    return content if zlib.crc32(content) == record.crc32 else None


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """What the disk refuses is for the user to mend."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"{folder}: the teachers' outputs cannot be written ({error}). What is "
            "there stays. Make room or bind run.teacher_cache_dir to another folder."
        ) from error


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


def _grouped(number: int) -> str:
    """Digits in groups of three."""
    return f"{number:,}".replace(",", " ")


def _size(count: float) -> str:
    """Bytes in the unit that suits them."""
    units = ["bytes", "KiB", "MiB", "GiB"]
    while count >= 1000 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"
