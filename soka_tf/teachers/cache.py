"""What the frozen teachers say of every image, computed once and kept on disk.

    <folder>/<task>-<sha256 of the teacher's fingerprint>-<settings>/
        manifest.json       what the outputs depend on, and their shapes
        <name>.tfrecord     tf.train.Example: "image", the sha256 of an image's file,
                            and each output's float16 values in little-endian
        <name>.json         where the shard's records are, and the CRC-32 of each

Every teacher has records of its own, so that runs with other pairs share them.
`soka_tf.data.store` writes and checks the shards.
"""

import concurrent.futures
import hashlib
import itertools
import pathlib
import re
import time
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterable,
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

from soka_tf.data import files, store
from soka_tf.data.pipeline import preprocess_images
from soka_tf.data.reading import RGB, DamagedFile, read_pixels
from soka_tf.data.samples import Sample
from soka_tf.disk import PathLike, locked, write_json
from soka_tf.errors import UserError
from soka_tf.teachers.pool import TeacherPool, Wanted

FORMAT = 1
IMAGE = "image"
PREDICTION = "prediction"
_MANIFEST = "manifest.json"
_SHARD_BYTES = 128 << 20  # what a kill loses at most, for each teacher
_SHARD_RECORDS = 1024
# Rounding of normal float16 numbers is at most 2^-11 of each value.
_ROUNDING = 2.0**-10

Values = Dict[str, np.ndarray]  # output -> float16 [h, w, c]


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
        self.record_bytes = store.example_bytes(_features(bytes(32), zeros))
        self._records: Dict[bytes, files.Part] = {}

    def open(self) -> None:
        """Reads indices and shards, and removes what is not whole.

        Damaged shards, and those that a kill left without index, are named in one
        warning.

        Raises:
          UserError: if the folder holds something else than its name says.
        """
        self._check_manifest()
        self._records = {}
        if not self.folder.exists():
            return
        self._records, damaged = store.read_shards(str(self.folder), _rows)
        if damaged:
            logging.warning(
                "%s: damaged or unfinished: %s. What the teacher says of their images "
                "is computed again.",
                self.folder,
                ", ".join(damaged),
            )
        store.remove_leftovers(str(self.folder))
        for name in damaged:
            (self.folder / name).unlink(missing_ok=True)
        for index in self.folder.glob("*.json"):
            if index.name != _MANIFEST and not index.with_suffix(".tfrecord").exists():
                index.unlink(missing_ok=True)

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
        try:
            return files.read_part(record)
        except OSError as error:
            raise UserError(
                f"{record.file}: damaged since the run began. Give the same command "
                "again: the run goes on from its last checkpoint, after computing what "
                "the shard held."
            ) from error

    def add(self, values: Iterable[Tuple[bytes, Values]]) -> None:
        """Writes records, shard by shard; of an interruption only one shard is lost.

        Raises:
          UserError: if the disk is full or cannot be written.
        """
        values = iter(values)
        count = min(_SHARD_RECORDS, max(1, _SHARD_BYTES // self.record_bytes))
        with _writing(self.folder):
            if not (self.folder / _MANIFEST).exists():
                write_json(self.folder / _MANIFEST, self.manifest)
            while self._add_shard(itertools.islice(values, count)):
                pass

    def _add_shard(self, values: Iterable[Tuple[bytes, Values]]) -> bool:
        places: Dict[bytes, List[int]] = {}
        with store.ShardWriter(str(self.folder)) as writer:
            for image, outputs in values:
                places[image] = writer.add(store.example(_features(image, outputs)))
            if not places:
                return False
            name = hashlib.sha256(b"".join(sorted(places))).hexdigest()[:16]
            index = {"records": {k.hex(): place for k, place in places.items()}}
            shard = writer.finish(f"{name}.tfrecord", index)
        for image, place in places.items():
            self._records[image] = files.Part(shard, *place, image.hex())
        return True

    def _check_manifest(self) -> None:
        path = self.folder / _MANIFEST
        if not path.exists():
            return
        try:
            found = store.read_json(str(path))
            wrong = {
                key: found.get(key)
                for key, value in self.manifest.items()
                if found.get(key) != value
            }
        except (OSError, ValueError) as error:
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
            f"{store.in_units(images * self.image_bytes)} in {self.folder} "
            f"({store.in_units(self.image_bytes)} an image)"
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
            told = f"{self.describe(len(images))}, {store.in_units(there)} are there"
            store.check_room(
                str(self.folder),
                needed - there,
                told,
                "Make room, bind run.teacher_cache_dir to a folder of another disk, or "
                "run.teacher_cache = False.",
            )
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


def image_key(path: str) -> bytes:
    """The sha256 of an image's file, whatever its name.

    Raises:
      DamagedFile: if it cannot be read.
    """
    try:
        return hashlib.sha256(files.read_bytes(path)).digest()
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


def _features(image: bytes, outputs: Mapping[str, np.ndarray]) -> Dict[str, bytes]:
    values = {name: value.astype("<f2").tobytes() for name, value in outputs.items()}
    return {**values, IMAGE: image}


def _rows(index: store.Index) -> Iterator[store.Row]:
    for image, place in index["records"].items():
        yield bytes.fromhex(image), [*place, image]


def _parse(content: tf.Tensor, shapes: Mapping[str, List[int]]) -> Dict[str, tf.Tensor]:
    content.set_shape([])
    features = tf.io.parse_single_example(
        content, {name: tf.io.FixedLenFeature([], tf.string) for name in shapes}
    )
    return {
        name: tf.reshape(tf.io.decode_raw(features[name], tf.float16), shape)
        for name, shape in shapes.items()
    }


def _writing(folder: pathlib.Path) -> ContextManager[None]:
    remedy = "Make room or bind run.teacher_cache_dir to another folder."
    return store.writing(str(folder), "the teachers' outputs", remedy)


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
