"""Reads the index of a TensorFlow 1 checkpoint without TensorFlow.

TensorFlow ends the whole process, and raises nothing, where an index has a shape that
cannot be. So this reads every byte of the index that TensorFlow is going to trust.

PREFIX.index is a sorted table as LevelDB writes it:

- data blocks, one index block, and a footer of 48 bytes: where the meta block and the
  index block are (offset and size as varints), padding, a magic number;
- a block is entries, then the offsets of those entries that start with a whole key
  (uint32 each) and their number; after it, one byte of compression and a CRC-32C;
- an entry is three varints (bytes shared with the key before, bytes of its own, bytes
  of the value), the rest of the key and the value. In the index block the value is
  where a data block is, the key lies between that block's last and the next's first.

The first key is empty: a message about the shards, PREFIX.data-?????-of-?????. Every
other key is a variable's name, its value a message: type, shape, and where it is.
Messages are protocol buffers: `BundleHeaderProto` and `BundleEntryProto`.
"""

import math
import os
import struct
from typing import Dict, Iterator, List, NamedTuple, Tuple

from soka_tf.errors import UserError

# Bytes of an element (0: they differ) -> number in the file -> name. Types that
# training never saved (quantized ones, resources, variants) are not read.
_DTYPES = {
    0: {7: "string"},
    1: {4: "uint8", 6: "int8", 10: "bool"},
    2: {5: "int16", 14: "bfloat16", 17: "uint16", 19: "float16"},
    4: {1: "float32", 3: "int32", 22: "uint32"},
    8: {2: "float64", 8: "complex64", 9: "int64", 23: "uint64"},
    16: {18: "complex128"},
}
_FOOTER, _TRAILER, _MAGIC = 48, 5, 0xDB4775248B80FB57
# Far above any network's: a taskbank index has some hundred names in 60 kB.
_LARGEST_INDEX, _LONGEST_NAME = 2 << 20, 512
_MOST_SHARDS, _MOST_DIMENSIONS, _LARGEST_DIMENSION = 1000, 8, 2**31 - 1


class IndexEntry(NamedTuple):
    """What the index tells of one variable.

    Attributes:
      dtype: TensorFlow's name of its type.
      shape: at most 8 dimensions, each below 2**31.
      size: bytes in the data file, all of them inside it.
    """

    dtype: str
    shape: Tuple[int, ...]
    size: int


class _Damaged(Exception):
    """The message says what is not as in an index."""


def read_index(prefix: str) -> Dict[str, IndexEntry]:
    """Reads and checks PREFIX.index, and the sizes of the data files it points into.

    Args:
      prefix: of the checkpoint's files.

    Returns:
      Name of a variable -> what the index tells of it, sorted by name.

    Raises:
      UserError: if anything is not as TensorFlow writes it, or a variable is kept in
        slices.
    """
    path = f"{prefix}.index"
    try:
        if not os.path.isfile(path):
            raise _Damaged("there is no such file")
        with open(path, "rb") as file:
            content = file.read(_LARGEST_INDEX + 1)
        return _read_variables(prefix, content)
    except (_Damaged, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as the index of a TensorFlow 1 checkpoint, it is "
            f"damaged or something else ({error}). Fetch it again."
        ) from error


def _read_variables(prefix: str, content: bytes) -> Dict[str, IndexEntry]:
    pairs = _read_table(content)
    key, value = next(pairs, (None, b""))
    if key != b"":
        raise _Damaged("the entry about the shards is missing")
    header = _message(value)
    shards = _number(header, 1)
    if not 1 <= shards <= _MOST_SHARDS:
        raise _Damaged(f"{shards} shards, 1 to {_MOST_SHARDS} are read")
    if _number(header, 2):
        raise _Damaged("its numbers are big-endian, little-endian ones are read")
    file_sizes: Dict[int, int] = {}
    variables = {}
    for key, value in pairs:
        if key[:1] == b"\0":  # One slice; its coded name ends at the next 0.
            raise _sliced(prefix, key[1:].split(b"\0")[0].decode("utf-8", "replace"))
        name = key.decode("utf-8", "replace")
        if "\ufffd" in name or not name.isprintable():
            raise _Damaged(f"{key[:80]!r} is no name of a variable")
        try:
            fields = _message(value)
            if _messages(fields, 7):
                raise _sliced(prefix, name)
            variables[name] = entry = _entry(fields)
            shard, end = _number(fields, 3), _number(fields, 4) + entry.size
            if shard >= shards:
                raise _Damaged(f"in shard {shard} of {shards}, counted from 0")
            if shard not in file_sizes:
                file_sizes[shard] = _data_size(prefix, shard, shards)
            if end > file_sizes[shard]:
                raise _Damaged(
                    f"it ends at byte {end} of a data file of {file_sizes[shard]}"
                )
        except _Damaged as error:
            raise _Damaged(f"variable {name}: {error}") from error
    return variables


def _sliced(prefix: str, name: str) -> UserError:
    return UserError(
        f"{prefix}.index: the variable {name!r} is kept in slices (TensorFlow 1 calls "
        "it partitioned), only whole ones are read. Restore it in TensorFlow 1 without "
        "a partitioner and save that."
    )


def _data_size(prefix: str, shard: int, shards: int) -> int:
    path = f"{prefix}.data-{shard:05d}-of-{shards:05d}"
    if not os.path.isfile(path):
        raise _Damaged(f"its data file {os.path.basename(path)} is missing")
    return os.stat(path).st_size


def _entry(fields: Dict[int, list]) -> IndexEntry:
    number, size = _number(fields, 1), _number(fields, 5)
    known = [(width, names) for width, names in _DTYPES.items() if number in names]
    if not known:
        raise _Damaged(f"its type has the number {number}, which is not read")
    [(width, names)] = known
    shape_fields = _message(b"".join(_messages(fields, 2)))
    if _number(shape_fields, 3):
        raise _Damaged("its shape is unknown")
    dimensions = _messages(shape_fields, 2)
    if len(dimensions) > _MOST_DIMENSIONS:
        raise _Damaged(f"{len(dimensions)} dimensions, {_MOST_DIMENSIONS} are read")
    shape = tuple(_number(_message(dimension), 1) for dimension in dimensions)
    # Negative ones are huge here.
    if any(dimension > _LARGEST_DIMENSION for dimension in shape):
        raise _Damaged("a dimension is negative or above 2**31 - 1")
    # TensorFlow multiplies from the left: a 0 at the end is too late.
    if math.prod(max(dimension, 1) for dimension in shape) >= 2**63:
        raise _Damaged(f"its shape {list(shape)} is too large")
    elements = math.prod(shape)
    # A string takes one byte at least, that of its length.
    if size != elements * width if width else size < elements:
        raise _Damaged(f"{size} bytes are not those of {names[number]} {list(shape)}")
    return IndexEntry(names[number], shape, size)


def _read_table(content: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """Yields the entries of all data blocks, keys ascending."""
    if len(content) > _LARGEST_INDEX:
        raise _Damaged(f"it is larger than {_LARGEST_INDEX} bytes")
    blocks, footer = content[:-_FOOTER], content[-_FOOTER:]
    if len(footer) < _FOOTER or footer[-8:] != struct.pack("<Q", _MAGIC):
        raise _Damaged("it does not end as one")
    _, at = _handle(footer, 0)  # The meta block: TensorFlow does not open it.
    previous, read_to = None, 0
    for last, handle in _read_block(blocks, *_handle(footer, at)[0]):
        (start, size), _ = _handle(handle, 0)
        # Blocks that overlap could make a small file endless.
        if start < read_to:
            raise _Damaged("its blocks overlap")
        read_to = start + size
        for key, value in _read_block(blocks, start, size):
            if previous is not None and key <= previous:
                raise _Damaged("its names are not sorted")
            previous = key
            yield key, value
        if previous > last:
            raise _Damaged("its blocks are not sorted")
        previous = last


def _handle(data: bytes, at: int) -> Tuple[Tuple[int, int], int]:
    start, at = _varint(data, at)
    size, at = _varint(data, at)
    return (start, size), at


def _read_block(content: bytes, start: int, size: int) -> List[Tuple[bytes, bytes]]:
    end = start + size
    if end + _TRAILER > len(content) or size < 8:
        raise _Damaged("a block is not inside the file")
    if content[end] != 0:
        raise _Damaged("a block is compressed, which TensorFlow never does")
    block, checksum = content[start:end], content[end + 1 : end + _TRAILER]
    if checksum != struct.pack("<I", _masked_crc32c(content[start : end + 1])):
        raise _Damaged("the checksum of a block is wrong")
    count = struct.unpack("<I", block[-4:])[0]
    stop = size - 4 * (count + 1)
    if count < 1 or stop < 1:
        raise _Damaged("a block has no entries")
    restarts = list(struct.unpack_from(f"<{count}I", block, stop))
    pairs, whole, at, key = [], set(), 0, b""
    while at < stop:
        entry = at
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + own + length > stop:
            raise _Damaged("an entry is not inside its block")
        if shared + own > _LONGEST_NAME:
            raise _Damaged(f"a name is longer than {_LONGEST_NAME} bytes")
        if shared == 0:
            whole.add(entry)
        key = key[:shared] + block[at : at + own]
        at += own + length
        pairs.append((key, block[at - length : at]))
    # TensorFlow starts at one of these when it looks for a name.
    if restarts[0] != 0 or restarts != sorted(whole.intersection(restarts)):
        raise _Damaged("a block's list of whole names is wrong")
    return pairs


def _varint(data: bytes, at: int) -> Tuple[int, int]:
    """Returns a number (7 bits a byte, the lowest first) and where it ends."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * shift
        if byte < 128 and value < 2**64:
            return value, at + shift + 1
    raise _Damaged("a number does not end")


def _message(data: bytes) -> Dict[int, list]:
    """Returns tag (8 times a field's number, plus its wire type) -> its values."""
    fields: Dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        length = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 in (0, 2):
            value, at = _varint(data, at)
            length = value if tag & 7 == 2 else 0
        if tag & 7 not in (0, 1, 2, 5) or not 8 <= tag < 2**32:
            raise _Damaged(f"a field's tag is {tag}")
        if at + length > len(data):
            raise _Damaged("a field is not inside its message")
        at += length
        value = value if tag & 7 == 0 else data[at - length : at]
        fields.setdefault(tag, []).append(value)
    return fields


def _number(fields: Dict[int, list], field: int) -> int:
    return fields.get(8 * field, [0])[-1]


def _messages(fields: Dict[int, list], field: int) -> List[bytes]:
    return fields.get(8 * field + 2, [])


def _masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = [_crc32c_of(byte) for byte in range(256)]
