"""The kept outputs of one teacher, an example an image, in a folder of their own.

    <folder>/manifest.json     what the outputs depend on, and their shapes
    <folder>/<name>.tfrecord   tf.train.Example: "image", the sha256 of an image's file,
                               and each output's float16 values in little-endian
    <folder>/<name>.json       where the shard's records are, and the CRC-32 of each

`soka_tf.data.shard_store` writes and checks the shards.
"""

import hashlib
import itertools
import pathlib
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

from soka_tf.atomic import write_json
from soka_tf.data import filesystem, shard_store
from soka_tf.data.documents import read_json
from soka_tf.errors import UserError, short

IMAGE = "image"
_MANIFEST = "manifest.json"
_SHARD_BYTES = 128 << 20  # what a kill loses at most, for each teacher
_SHARD_RECORDS = 1024

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
        self.record_bytes = shard_store.example_bytes(_features(bytes(32), zeros))
        self._records: Dict[bytes, filesystem.Part] = {}

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
        self._records, damaged = shard_store.read_shards(str(self.folder), _rows)
        if damaged:
            logging.warning(
                "%s: damaged or unfinished: %s. What the teacher says of their images "
                "is computed again.",
                self.folder,
                ", ".join(damaged),
            )
        shard_store.remove_leftovers(str(self.folder))
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
            return filesystem.read_part(record)
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
        with writing(self.folder):
            if not (self.folder / _MANIFEST).exists():
                write_json(self.folder / _MANIFEST, self.manifest)
            while self._add_shard(itertools.islice(values, count)):
                pass

    def _add_shard(self, values: Iterable[Tuple[bytes, Values]]) -> bool:
        places: Dict[bytes, List[int]] = {}
        with shard_store.ShardWriter(str(self.folder)) as writer:
            for image, outputs in values:
                places[image] = writer.add(
                    shard_store.example(_features(image, outputs))
                )
            if not places:
                return False
            name = hashlib.sha256(b"".join(sorted(places))).hexdigest()[:16]
            index = {"records": {k.hex(): place for k, place in places.items()}}
            shard = writer.finish(f"{name}.tfrecord", index)
        for image, place in places.items():
            self._records[image] = filesystem.Part(shard, *place, image.hex())
        return True

    def _check_manifest(self) -> None:
        path = self.folder / _MANIFEST
        if not path.exists():
            return
        remedy = "Remove its folder: what it holds is computed again."
        found = read_json(path, {}, remedy, most_bytes=shard_store.MANIFEST_BYTES)
        wrong = {
            key: found.get(key)
            for key, value in self.manifest.items()
            if found.get(key) != value
        }
        if wrong:
            wanted = {key: self.manifest[key] for key in wrong}
            raise UserError(
                f"{path}: the folder holds the outputs of another teacher or of other "
                f"settings. It says {short(wrong)}, this run needs {wanted}. "
                "Remove or rename the folder."
            )


def _features(image: bytes, outputs: Mapping[str, np.ndarray]) -> Dict[str, bytes]:
    values = {name: value.astype("<f2").tobytes() for name, value in outputs.items()}
    return {**values, IMAGE: image}


def _rows(index: shard_store.Index) -> Iterator[Tuple[bytes, List[Any]]]:
    for image, place in index["records"].items():
        yield bytes.fromhex(image), [*place, image]


def parse(content: tf.Tensor, shapes: Mapping[str, List[int]]) -> Dict[str, tf.Tensor]:
    """An example's outputs, float16 of these shapes, in graph mode."""
    content.set_shape([])
    features = tf.io.parse_single_example(
        content, {name: tf.io.FixedLenFeature([], tf.string) for name in shapes}
    )
    return {
        name: tf.reshape(tf.io.decode_raw(features[name], tf.float16), shape)
        for name, shape in shapes.items()
    }


def writing(folder: pathlib.Path) -> Any:
    """Raises UserError in place of what the disk refuses with."""
    remedy = "Make room or bind run.teacher_cache_dir to another folder."
    return shard_store.writing(str(folder), "the teachers' outputs", remedy)
