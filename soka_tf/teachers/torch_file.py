"""PyTorch weight files, read and written without torch and without unpickling.

`torch.save({"state_dict": ...}, file)` writes one of two formats:

- legacy (torch before 1.6, so the published visual-prior files): five pickles in a
  row (a magic number, the protocol version 1001, facts about the machine, the object,
  the list of storage keys), then for every key its element count as int64 and its
  little-endian elements.
- zip: an uncompressed archive of NAME/data.pkl (the object), NAME/data/KEY (the
  elements of a storage) and, in newer ones, NAME/byteorder.

In the object's pickle a tensor is a call, `_rebuild_tensor_v2(storage, offset, size,
stride, ...)`, and a storage a "persistent id": ("storage", type, key, location, count).

Pickles are described, never executed: `soka_tf.teachers.torch_pickle`.
"""

import math
import mmap
import os
import pathlib
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from typing import IO, Any, Dict, Iterable, Mapping, Tuple, Union

import numpy as np

from soka_tf.disk import replacing
from soka_tf.errors import UserError
from soka_tf.teachers.messages import one_line, short
from soka_tf.teachers.torch_pickle import (
    FETCH_AGAIN,
    NOT_EXECUTED,
    STORAGES,
    Cursor,
    Machine,
    Refused,
    Storage,
    Tensor,
    Unreadable,
    need,
    pickled,
    refuse_globals,
)

PathLike = Union[str, "os.PathLike[str]"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MOST_DIMENSIONS = 32  # numpy's limit
_PARALLEL = "module."
_BIG_ENDIAN = "big-endian, which is not read. Save it on a little-endian machine."
# What zipfile raises, each in its way, on a damaged directory of members.
_ZIP_DAMAGE = (zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, EOFError)
_ZIP_DAMAGE += (OSError, struct.error)


def read_torch_file(path: PathLike) -> Dict[str, np.ndarray]:
    """Reads the state dict of a file written by torch.save, executing nothing.

    Args:
      path: a file of either format that holds {"state_dict": {name: tensor}} or a bare
        {name: tensor}, on the CPU or a GPU when it was saved. Plain facts beside the
        state dict (numbers, texts, lists, sets, numpy's scalars) are passed over.

    Returns:
      Name -> array, in the file's order, each of the tensor's own shape and type
      (float, integer or bool). Where all names begin with "module.", as those of a
      torch.nn.DataParallel do, they are given without it. The arrays are read-only
      views of the mapped file; in the legacy format they need not be aligned.

    Raises:
      UserError: if the file is missing, damaged, of another kind or big-endian, if its
        pickle asks for anything but tensors and dicts, or if it holds no state dict.
    """
    try:
        mapped = _map(path)
        data = memoryview(mapped)
        _check_kind(bytes(data[:512]))
        if data[:4] == b"PK\3\4":
            top, storages = _read_zip(mapped, data)
        else:
            top, storages = _read_legacy(data)
        return {
            name: _view(name, tensor, storages)
            for name, tensor in _state_dict(top).items()
        }
    except Unreadable as error:
        raise UserError(f"{path}: {error}") from error


def write_torch_file(
    path: PathLike, state_dict: Mapping[str, np.ndarray], layout: str = "zip"
) -> None:
    """Writes {"state_dict": ...} as torch.save does, whole or not at all.

    The same arrays give the same bytes. torch.load(weights_only=True) opens the file.

    Args:
      path: the file to write.
      state_dict: name -> float32 or int64 array, of any shape.
      layout: "zip" (torch since 1.6) or "legacy" (before).
    """
    if layout not in ("zip", "legacy"):
        raise ValueError(f"layout must be 'zip' or 'legacy'. Received: {layout!r}.")
    types = {STORAGES[f"torch.{n}"]: n for n in ("FloatStorage", "LongStorage")}
    arrays, tensors = {}, OrderedDict()
    for index, (name, value) in enumerate(state_dict.items()):
        array = np.asarray(value, order="C")
        if array.dtype not in types:
            raise ValueError(
                f"arrays must be float32 or int64. Received: {name} of {array.dtype}."
            )
        storage = Storage(f"torch.{types[array.dtype]}", str(index), array.size)
        stride = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
        arrays[storage.key] = array
        tensors[name] = Tensor(storage, 0, array.shape, stride)
    write = _write_zip if layout == "zip" else _write_legacy
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        write(file, {"state_dict": tensors}, arrays)


def _map(path: PathLike) -> mmap.mmap:
    # Mapped, a length that lies costs no memory, and the arrays need no second copy.
    need(os.path.exists(path), "there is no such file.")
    need(os.path.isfile(path), "not a file; name the weight file itself.")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            need(size, f"the file is empty. {FETCH_AGAIN}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise Unreadable(f"cannot be opened ({error.strerror}).") from error


def _check_kind(head: bytes) -> None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = None
    if start.startswith(b"<"):
        kind = "looks like a web page, not weights: probably a download that failed."
        kind = f"{kind} {FETCH_AGAIN}"
    elif head.startswith(b"version https://git-lfs"):
        kind = "a git-LFS pointer, not the weights. Run: git lfs pull"
    elif head.startswith(b"\x1f\x8b"):
        kind = "compressed with gzip. Unpack it with gunzip first."
    elif head[257:262] == b"ustar":
        kind = (
            "a tar archive, the format of the oldest torch, which is not read. Load "
            "and save it with a later torch."
        )
    need(kind is None, kind)


# --- the two formats ---------------------------------------------------------------


def _read_legacy(data: memoryview) -> Tuple[Any, Dict[str, memoryview]]:
    cursor = Cursor(data)
    magic = _read_magic(cursor, data)
    need(
        type(magic) is int and magic == _MAGIC,
        f"a pickle, but not of torch.save. {NOT_EXECUTED}",
    )
    version = Machine(cursor).run("protocol version")
    need(version == _PROTOCOL, f"its protocol version is not {_PROTOCOL}.")
    facts = Machine(cursor).run("header")
    known = type(facts) is dict and "little_endian" in facts
    need(known, f"its header does not tell the byte order. {FETCH_AGAIN}")
    need(facts["little_endian"] is True, _BIG_ENDIAN)
    machine = Machine(cursor)
    top = machine.run("object")
    keys = Machine(cursor).run("list of storage keys")
    need(
        type(keys) is list
        and all(type(key) is str for key in keys)
        and sorted(keys) == sorted(machine.storages),
        f"its list of storages is not its tensors'. {FETCH_AGAIN}",
    )
    contents = {}
    for key in keys:
        storage, name = machine.storages[key], f"storage {short(key)}"
        (count,) = struct.unpack("<q", cursor.take(8, name))
        need(
            count == storage.count,
            f"{name} has {count} elements, its tensors say otherwise. {FETCH_AGAIN}",
        )
        contents[key] = cursor.take(count * storage.dtype.itemsize, name)
    excess = len(data) - cursor.position
    need(not excess, f"{excess} bytes too long. {FETCH_AGAIN}")
    return top, contents


def _read_magic(cursor: Cursor, data: memoryview) -> Any:
    try:
        return Machine(cursor).run("first part")
    except Refused:
        raise
    except Unreadable as error:
        head = bytes(data[:512])
        if not re.fullmatch(rb"[\t\n\f\r -~][\t\n\f\r -~\x80-\xff]*", head):
            raise
        refuse_globals(Cursor(data))
        raise Unreadable(
            f"text, not weights (it begins with {short(head.decode('latin-1'))}). "
            f"{NOT_EXECUTED} {FETCH_AGAIN}"
        ) from error


def _write_legacy(file: IO[bytes], top: Any, arrays: Mapping[str, np.ndarray]) -> None:
    sizes = {"short": 2, "int": 4, "long": 4}
    facts = {"protocol_version": _PROTOCOL, "little_endian": True, "type_sizes": sizes}
    for part in (_MAGIC, _PROTOCOL, facts, top, list(arrays)):
        file.write(pickled(part, view_metadata=b"N"))
    for array in arrays.values():
        file.write(struct.pack("<q", array.size) + array.tobytes())


def _read_zip(mapped: mmap.mmap, data: memoryview) -> Tuple[Any, Dict[str, memoryview]]:
    try:
        with zipfile.ZipFile(mapped) as archive:
            members = archive.infolist()
    except _ZIP_DAMAGE as error:
        raise Unreadable(
            f"a zip archive cut off or damaged ({one_line(error)}). {FETCH_AGAIN}"
        ) from error
    by_name = {member.filename: member for member in members}
    need(len(by_name) == len(members), "a zip archive in which a name stands twice.")
    roots = [n[:-8] for n in by_name if re.fullmatch("[^/]+/data.pkl", n)]
    need(len(roots) == 1, "a zip archive, but not of torch.save (no NAME/data.pkl).")
    program = (f"{roots[0]}code/", f"{roots[0]}constants.pkl")
    need(
        not any(name.startswith(program) for name in by_name),
        "a TorchScript archive, a program, which is not read. Save the module's "
        "state_dict() with torch.save.",
    )

    def content(name: str) -> memoryview:
        member = by_name.get(roots[0] + name)
        need(member, f"its member {short(name)} is missing. {FETCH_AGAIN}")
        return _member(data, member)

    if f"{roots[0]}byteorder" in by_name:
        need(content("byteorder") == b"little", _BIG_ENDIAN)
    machine = Machine(Cursor(content("data.pkl")))
    top = machine.run("data.pkl")
    contents = {key: content(f"data/{key}") for key in machine.storages}
    for key, storage in machine.storages.items():
        size = len(contents[key])
        need(
            size == storage.count * storage.dtype.itemsize,
            f"storage {short(key)} has {size} bytes, its tensors say otherwise. "
            f"{FETCH_AGAIN}",
        )
    return top, contents


def _member(data: memoryview, member: zipfile.ZipInfo) -> memoryview:
    name = short(member.filename)
    need(
        member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1,
        f"its member {name} is compressed or encrypted; torch.save does neither.",
    )
    header = bytes(data[member.header_offset :][:30])
    if len(header) == 30 and header.startswith(b"PK\3\4"):
        start = member.header_offset + 30 + sum(struct.unpack("<2H", header[26:]))
        content = data[start:][: member.file_size]
        if len(content) == member.file_size and zlib.crc32(content) == member.CRC:
            return content
    raise Unreadable(f"its member {name} is damaged (wrong CRC). {FETCH_AGAIN}")


def _write_zip(file: IO[bytes], top: Any, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            # A bare ZipInfo is dated 1980: the file does not depend on the clock.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)

        add("data.pkl", pickled(top))
        add("byteorder", b"little")
        for key, array in arrays.items():
            add(f"data/{key}", array.tobytes())
        add("version", b"3\n")


# --- from the pickle's object to arrays ----------------------------------------------


def _state_dict(top: Any) -> Dict[str, Tensor]:
    dicts = (dict, OrderedDict)
    need(type(top) in dicts, "holds no dict of tensors. Save {'state_dict': ...}.")
    tensors = top.get("state_dict", top)
    need(type(tensors) in dicts, "its 'state_dict' is not a dict of tensors.")
    others = [
        name
        for name, value in tensors.items()
        if type(name) is not str or type(value) is not Tensor
    ]
    need(
        any(type(value) is Tensor for value in tensors.values()),
        f"holds no state_dict of tensors; its entries: {_names(others)}.",
    )
    need(
        not others,
        f"its state dict has {len(others)} entries that are not tensors: "
        f"{_names(others)}.",
    )
    if all(name.startswith(_PARALLEL) for name in tensors):
        return {name[len(_PARALLEL) :]: value for name, value in tensors.items()}
    return tensors


def _view(name: str, tensor: Tensor, contents: Mapping[str, memoryview]) -> np.ndarray:
    storage, size, stride = tensor.storage, tensor.size, tensor.stride
    need(
        type(size) is type(stride) is tuple
        and len(size) == len(stride) <= _MOST_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in (tensor.offset, *size, *stride)),
        f"tensor {short(name)} has no valid shape. {FETCH_AGAIN}",
    )
    # Python's integers: nothing here overflows.
    count, itemsize = math.prod(size), storage.dtype.itemsize
    last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride))
    need(
        count <= storage.count and (count == 0 or last < storage.count),
        f"tensor {short(name)} reaches outside its storage, or repeats it by expand(). "
        "Fetch the file again, or save a contiguous() tensor.",
    )
    if not count:
        sane = math.prod(n or 1 for n in size) <= 1 << 31
        need(sane, f"tensor {short(name)} has no sane shape. {FETCH_AGAIN}")
        return np.empty(size, storage.dtype)
    # The stride of a dimension of one element counts for nothing, and may be anything.
    steps = [(step if n > 1 else 1) * itemsize for n, step in zip(size, stride)]
    # A memoryview keeps the file mapped as long as the array lives; the array's bounds
    # are checked once more by numpy.
    return np.ndarray(
        size, storage.dtype, contents[storage.key], tensor.offset * itemsize, steps
    )


def _names(names: Iterable[Any], most: int = 5) -> str:
    names = list(names)
    listed = ", ".join(short(name) for name in names[:most]) or "none"
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")
