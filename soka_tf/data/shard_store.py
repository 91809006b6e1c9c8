"""Shards of TFRecords that are whole or not there, of which single parts are read.

    <folder>/<name>.tfrecord    records that any reader of TFRecords can read
    <folder>/<name>.json        {"bytes": of the shard, ...}, and where its parts are

A shard counts once its index is there, which is written last: a kill costs the shard
being written. Packed images (`soka_tf.data.sources.records`) and kept teachers' outputs
(`soka_tf.teachers.cache`) are such folders, in any file system that
`soka_tf.data.filesystem` reaches.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import zlib
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import tensorflow as tf

from soka_tf.data import file_writing, filesystem
from soka_tf.data.documents import load_json
from soka_tf.errors import UserError, reason

DISK_MARGIN = 256 << 20  # left free, for the indices and whatever else is written
_FRAME_BEFORE, _FRAME_AFTER = 12, 4  # a TFRecord's length and checksums
MANIFEST_BYTES = 1 << 20
_THREADS = 8
# Of shard.tfrecord, shard.json and manifests, from this and earlier versions.
_LEFTOVER = re.compile(r".+\.(tfrecord|json)(\.\w+)?\.tmp")

Index = Dict[str, Any]
# A part's key and its place: offset in the shard, length, CRC-32, name for people.
Rows = Callable[[Index], Iterable[Tuple[Any, List[Any]]]]
Parts = List[Tuple[Any, filesystem.Part]]


class ShardWriter:
    """Writes one shard; a context manager. Without `finish` nothing is left of it."""

    def __init__(self, folder: str):
        """Opens a temporary file in the folder, which is made if need be.

        Raises:
          OSError: if it cannot be written.
        """
        self._folder, self._end = folder, 0
        file_writing.make_folder(folder)
        self._temporary = file_writing.temporary_name(
            os.path.join(folder, "new.tfrecord")
        )
        with _os_errors():
            self._writer = tf.io.TFRecordWriter(self._temporary)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.suppress(OSError), _os_errors():
            self._writer.close()
        with contextlib.suppress(OSError):
            file_writing.remove(self._temporary)

    def add(self, record: bytes, content: Optional[bytes] = None) -> List[int]:
        """Writes a record.

        Args:
          record: what a reader of TFRecords gets.
          content: the bytes in it that are a part; None for all of them.

        Returns:
          Offset in the shard, length and CRC-32 of the part.

        Raises:
          OSError: if the disk refuses.
        """
        with _os_errors():
            self._writer.write(record)
        start = self._end + _FRAME_BEFORE
        self._end = start + len(record) + _FRAME_AFTER
        part = record if content is None else content
        return [start + record.index(part), len(part), zlib.crc32(part)]

    def finish(self, name: str, index: Index) -> str:
        """Gives the shard its name, replacing one of this name, and writes its index.

        Args:
          name: ends in ".tfrecord".
          index: where its parts are and whatever else, for `read_index`.

        Returns:
          The shard's path.

        Raises:
          OSError: if the disk refuses.
        """
        shard = os.path.join(self._folder, name)
        with _os_errors():
            self._writer.close()
        # An older index must not be taken for that of the new shard.
        file_writing.remove(index_of(shard))
        file_writing.replace(self._temporary, shard)
        content = json.dumps({"bytes": self._end, **index})
        file_writing.write_bytes(index_of(shard), content.encode())
        return shard


def example(values: Dict[str, bytes]) -> bytes:
    """The serialized tf.train.Example of some bytes by name."""
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in values.items()
    }
    features = tf.train.Features(feature=feature)
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def example_bytes(values: Dict[str, bytes]) -> int:
    """What such an example takes in a shard."""
    return _FRAME_BEFORE + len(example(values)) + _FRAME_AFTER


def index_of(shard: str) -> str:
    """Path of a shard's index."""
    return f"{os.path.splitext(shard)[0]}.json"


def read_index(
    shard: str, rows: Rows, whole: bool = False
) -> Optional[Tuple[Index, Parts]]:
    """Reads and checks a shard's index.

    Args:
      shard: its path.
      rows: finds keys and places in the index; what it stumbles on (KeyError,
        TypeError, ValueError, AttributeError) makes the index damaged.
      whole: whether to read and check every part, too.

    Returns:
      The index, and keys with parts of the shard and of nothing else; None if shard or
      index are missing, unfinished or damaged.
    """
    try:
        size = filesystem.size(shard)
        # Each record is longer than its row, but JSON may escape names sixfold.
        index = load_json(index_of(shard), {"bytes": int}, 6 * size + 1024)
        if index["bytes"] != size:
            return None
        parts = [(key, _part(shard, size, *place)) for key, place in rows(index)]
        for _, part in parts if whole else ():
            filesystem.read_part(part)
        return index, parts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_shards(
    folder: str, rows: Rows
) -> Tuple[Dict[Any, filesystem.Part], List[str]]:
    """The parts of all whole shards, read and checked; the names of other shards."""
    names = [n for n in filesystem.names(folder) if n.endswith(".tfrecord")]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        shards = [os.path.join(folder, name) for name in names]
        found = list(
            pool.map(lambda shard: read_index(shard, rows, whole=True), shards)
        )
    damaged = [name for name, whole in zip(names, found) if whole is None]
    return {k: part for whole in found if whole for k, part in whole[1]}, damaged


def remove_leftovers(folder: str) -> None:
    """Removes what a kill left of shards and indices that were being written.

    Raises:
      OSError: if that fails.
    """
    for name in filter(_LEFTOVER.fullmatch, filesystem.names(folder)):
        file_writing.remove(os.path.join(folder, name))


def check_room(folder: str, missing: int, told: str, remedy: str) -> None:
    """Refuses to write so many bytes where there is no room for them.

    Raises:
      UserError: beginning with `told`, ending with `remedy`.
    """
    free = file_writing.free_bytes(folder)
    if free is not None and missing and missing + DISK_MARGIN > free:
        raise UserError(
            f"{told}: {in_units(missing)} more than there is room for. The disk has "
            f"{in_units(free)} free, of which {in_units(DISK_MARGIN)} must remain. "
            f"{remedy}"
        )


@contextlib.contextmanager
def writing(folder: str, what: str, remedy: str) -> Iterator[None]:
    """What the disk refuses is for the user to mend.

    Raises:
      UserError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: {what} cannot be written ({reason(error)}). What is there "
            f"stays. {remedy}"
        ) from error


def in_units(count: float) -> str:
    """Bytes in the unit that suits them."""
    units = ["bytes", "KiB", "MiB", "GiB"]
    while count >= 1000 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"


def _part(
    shard: str, size: int, offset: int, length: int, crc32: int, name: str
) -> filesystem.Part:
    numbers = all(type(number) is int for number in (offset, length, crc32))
    if not (
        numbers
        and 0 <= offset <= offset + length <= size
        # Protobuf's limit of a record, whatever a sparse file would have room for.
        and 0 <= length < 1 << 31
        and 0 <= crc32 < 1 << 32
        and re.fullmatch(r"[^/\\]*", name)
    ):
        raise ValueError("not a place in the shard")
    return filesystem.Part(shard, offset, length, crc32, name)


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """TensorFlow's errors as Python's: only writing makes them here, not a teacher."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(reason(error)) from error
