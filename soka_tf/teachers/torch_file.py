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

A pickle is a program, and a hostile one may run anything. So none is ever unpickled:
`_Machine` walks the opcodes as pickletools lists them, knows those few that torch.save
writes for dicts of tensors, and keeps calls as descriptions. Whatever else is asked for
is refused by name.
"""

import dataclasses
import math
import mmap
import os
import pathlib
import pickletools
import re
import reprlib
import struct
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from typing import IO, Any, Dict, Iterable, List, Mapping, Tuple, Union

import numpy as np

from soka_tf.errors import UserError

PathLike = Union[str, "os.PathLike[str]"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
_TENSOR = "torch._utils._rebuild_tensor"
_PARAMETER = "torch._utils._rebuild_parameter"
_GLOBALS = {_ORDERED_DICT, _TENSOR_V2, _TENSOR, _PARAMETER, *_STORAGES}

# A real state dict takes about 25 opcodes a tensor, and names of some 60 letters.
_MOST_OPCODES = 200_000
_LONGEST_TEXT = 1 << 16
_MOST_DIMENSIONS = 32  # numpy's limit
_FETCH_AGAIN = "Fetch or save it again."
_NOT_EXECUTED = "Nothing in it was executed."
_BIG_ENDIAN = "big-endian, which is not read. Save it on a little-endian machine."
# What zipfile raises, each in its way, on a damaged directory of members.
_ZIP_DAMAGE = (zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, EOFError)
_ZIP_DAMAGE += (OSError, struct.error)


class _Unreadable(Exception):
    """Why a file cannot be read, without its path."""


class _Refused(_Unreadable):
    """The pickle asks for something that weights never need."""


def _need(fact: Any, why: str) -> None:
    if not fact:
        raise _Unreadable(why)


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    type_name: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype:
        return _STORAGES[self.type_name]


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: Any
    size: Any
    stride: Any


def read_torch_file(path: PathLike) -> Dict[str, np.ndarray]:
    """Reads the state dict of a file written by torch.save, executing nothing.

    Args:
      path: a file of either format that holds {"state_dict": {name: tensor}} or a bare
        {name: tensor}, on the CPU or a GPU when it was saved.

    Returns:
      Name -> array, in the file's order, each of the tensor's own shape and type
      (float, integer or bool). The arrays are read-only views of the mapped file; in
      the legacy format they need not be aligned.

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
    except _Unreadable as error:
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
    types = {_STORAGES[f"torch.{n}"]: n for n in ("FloatStorage", "LongStorage")}
    arrays, tensors = {}, OrderedDict()
    for index, (name, value) in enumerate(state_dict.items()):
        array = np.asarray(value, order="C")
        if array.dtype not in types:
            raise ValueError(
                f"arrays must be float32 or int64. Received: {name} of {array.dtype}."
            )
        storage = _Storage(f"torch.{types[array.dtype]}", str(index), array.size)
        stride = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
        arrays[storage.key] = array
        tensors[name] = _Tensor(storage, 0, array.shape, stride)
    write = _write_zip if layout == "zip" else _write_legacy
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file, {"state_dict": tensors}, arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _map(path: PathLike) -> mmap.mmap:
    # Mapped, a length that lies costs no memory, and the arrays need no second copy.
    _need(os.path.exists(path), "there is no such file.")
    _need(os.path.isfile(path), "not a file; name the weight file itself.")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            _need(size, f"the file is empty. {_FETCH_AGAIN}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise _Unreadable(f"cannot be opened ({error.strerror}).") from error


def _check_kind(head: bytes) -> None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = None
    if start.startswith(b"<"):
        kind = "looks like a web page, not weights: probably a download that failed."
        kind = f"{kind} {_FETCH_AGAIN}"
    elif head.startswith(b"version https://git-lfs"):
        kind = "a git-LFS pointer, not the weights. Run: git lfs pull"
    elif head.startswith(b"\x1f\x8b"):
        kind = "compressed with gzip. Unpack it with gunzip first."
    elif head[257:262] == b"ustar":
        kind = (
            "a tar archive, the format of the oldest torch, which is not read. Load "
            "and save it with a later torch."
        )
    _need(kind is None, kind)


# --- the two formats ---------------------------------------------------------------


def _read_legacy(data: memoryview) -> Tuple[Any, Dict[str, memoryview]]:
    cursor = _Cursor(data)
    magic = _read_magic(cursor, bytes(data[:512]))
    _need(
        type(magic) is int and magic == _MAGIC,
        f"a pickle, but not of torch.save. {_NOT_EXECUTED}",
    )
    version = _Machine(cursor).run("protocol version")
    _need(version == _PROTOCOL, f"its protocol version is not {_PROTOCOL}.")
    facts = _Machine(cursor).run("header")
    known = type(facts) is dict and "little_endian" in facts
    _need(known, f"its header does not tell the byte order. {_FETCH_AGAIN}")
    _need(facts["little_endian"] is True, _BIG_ENDIAN)
    machine = _Machine(cursor)
    top = machine.run("object")
    keys = _Machine(cursor).run("list of storage keys")
    _need(
        type(keys) is list
        and all(type(key) is str for key in keys)
        and sorted(keys) == sorted(machine.storages),
        f"its list of storages is not its tensors'. {_FETCH_AGAIN}",
    )
    contents = {}
    for key in keys:
        storage, name = machine.storages[key], f"storage {_short(key)}"
        (count,) = struct.unpack("<q", cursor.take(8, name))
        _need(
            count == storage.count,
            f"{name} has {count} elements, its tensors say otherwise. {_FETCH_AGAIN}",
        )
        contents[key] = cursor.take(count * storage.dtype.itemsize, name)
    excess = len(data) - cursor.position
    _need(not excess, f"{excess} bytes too long. {_FETCH_AGAIN}")
    return top, contents


def _read_magic(cursor: "_Cursor", head: bytes) -> Any:
    try:
        return _Machine(cursor).run("first part")
    except _Refused:
        raise
    except _Unreadable as error:
        if not re.fullmatch(rb"[\t\n\f\r -~][\t\n\f\r -~\x80-\xff]*", head):
            raise
        raise _Unreadable(
            f"text, not weights (it begins with {_short(head.decode('latin-1'))}). "
            f"{_NOT_EXECUTED} {_FETCH_AGAIN}"
        ) from error


def _write_legacy(file: IO[bytes], top: Any, arrays: Mapping[str, np.ndarray]) -> None:
    sizes = {"short": 2, "int": 4, "long": 4}
    facts = {"protocol_version": _PROTOCOL, "little_endian": True, "type_sizes": sizes}
    for part in (_MAGIC, _PROTOCOL, facts, top, list(arrays)):
        file.write(_pickled(part, view_metadata=b"N"))
    for array in arrays.values():
        file.write(struct.pack("<q", array.size) + array.tobytes())


def _read_zip(mapped: mmap.mmap, data: memoryview) -> Tuple[Any, Dict[str, memoryview]]:
    try:
        with zipfile.ZipFile(mapped) as archive:
            members = archive.infolist()
    except _ZIP_DAMAGE as error:
        raise _Unreadable(
            f"a zip archive cut off or damaged ({error}). {_FETCH_AGAIN}"
        ) from error
    by_name = {member.filename: member for member in members}
    _need(len(by_name) == len(members), "a zip archive in which a name stands twice.")
    roots = [n[:-8] for n in by_name if re.fullmatch("[^/]+/data.pkl", n)]
    _need(len(roots) == 1, "a zip archive, but not of torch.save (no NAME/data.pkl).")
    program = (f"{roots[0]}code/", f"{roots[0]}constants.pkl")
    _need(
        not any(name.startswith(program) for name in by_name),
        "a TorchScript archive, a program, which is not read. Save the module's "
        "state_dict() with torch.save.",
    )

    def content(name: str) -> memoryview:
        member = by_name.get(roots[0] + name)
        _need(member, f"its member {_short(name)} is missing. {_FETCH_AGAIN}")
        return _member(data, member)

    if f"{roots[0]}byteorder" in by_name:
        _need(content("byteorder") == b"little", _BIG_ENDIAN)
    machine = _Machine(_Cursor(content("data.pkl")))
    top = machine.run("data.pkl")
    contents = {key: content(f"data/{key}") for key in machine.storages}
    for key, storage in machine.storages.items():
        size = len(contents[key])
        _need(
            size == storage.count * storage.dtype.itemsize,
            f"storage {_short(key)} has {size} bytes, its tensors say otherwise. "
            f"{_FETCH_AGAIN}",
        )
    return top, contents


def _member(data: memoryview, member: zipfile.ZipInfo) -> memoryview:
    name = _short(member.filename)
    _need(
        member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1,
        f"its member {name} is compressed or encrypted; torch.save does neither.",
    )
    header = bytes(data[member.header_offset :][:30])
    if len(header) == 30 and header.startswith(b"PK\3\4"):
        start = member.header_offset + 30 + sum(struct.unpack("<2H", header[26:]))
        content = data[start:][: member.file_size]
        if len(content) == member.file_size and zlib.crc32(content) == member.CRC:
            return content
    raise _Unreadable(f"its member {name} is damaged (wrong CRC). {_FETCH_AGAIN}")


def _write_zip(file: IO[bytes], top: Any, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            # A bare ZipInfo is dated 1980: the file does not depend on the clock.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)

        add("data.pkl", _pickled(top))
        add("byteorder", b"little")
        for key, array in arrays.items():
            add(f"data/{key}", array.tobytes())
        add("version", b"3\n")


# --- from the pickle's object to arrays ----------------------------------------------


def _state_dict(top: Any) -> Dict[str, _Tensor]:
    dicts = (dict, OrderedDict)
    _need(type(top) in dicts, "holds no dict of tensors. Save {'state_dict': ...}.")
    tensors = top.get("state_dict", top)
    _need(type(tensors) in dicts, "its 'state_dict' is not a dict of tensors.")
    others = [
        name
        for name, value in tensors.items()
        if type(name) is not str or type(value) is not _Tensor
    ]
    _need(
        any(type(value) is _Tensor for value in tensors.values()),
        f"holds no state_dict of tensors; its entries: {_names(others)}.",
    )
    _need(
        not others,
        f"its state dict has {len(others)} entries that are not tensors: "
        f"{_names(others)}.",
    )
    return tensors


def _view(name: str, tensor: _Tensor, contents: Mapping[str, memoryview]) -> np.ndarray:
    storage, size, stride = tensor.storage, tensor.size, tensor.stride
    _need(
        type(size) is type(stride) is tuple
        and len(size) == len(stride) <= _MOST_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in (tensor.offset, *size, *stride)),
        f"tensor {_short(name)} has no valid shape. {_FETCH_AGAIN}",
    )
    # Python's integers: nothing here overflows.
    count, itemsize = math.prod(size), storage.dtype.itemsize
    last = tensor.offset + sum((n - 1) * step for n, step in zip(size, stride))
    _need(
        count <= storage.count and (count == 0 or last < storage.count),
        f"tensor {_short(name)} reaches outside its storage. {_FETCH_AGAIN}",
    )
    if not count:
        sane = math.prod(n or 1 for n in size) <= 1 << 31
        _need(sane, f"tensor {_short(name)} has no sane shape. {_FETCH_AGAIN}")
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
    listed = ", ".join(_short(name) for name in names[:most]) or "none"
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(value: Any) -> str:
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxlong = shortener.maxother = 80
    return shortener.repr(value)


# --- pickles -------------------------------------------------------------------------


class _Cursor:
    """The mapped bytes as pickletools reads them; long pieces are never copied."""

    def __init__(self, data: memoryview):
        self._data = data
        self.position = 0

    def read(self, size: int) -> bytes:
        _need(size <= _LONGEST_TEXT, f"its pickle has a text of {size} bytes.")
        piece = bytes(self._data[self.position : self.position + size])
        self.position += len(piece)
        return piece

    def readline(self) -> bytes:
        ahead = bytes(self._data[self.position : self.position + 1024])
        return self.read(ahead.find(b"\n") + 1)

    def tell(self) -> int:
        return self.position

    def take(self, size: int, what: str) -> memoryview:
        rest = len(self._data) - self.position
        _need(size <= rest, f"cut off in {what}. {_FETCH_AGAIN}")
        self.position += size
        return self._data[self.position - size : self.position]


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINSTRING", "BINSTRING"),  # Python 2
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _valid(fact: Any, why: str) -> None:
    if not fact:
        raise ValueError(why)


class _Machine:
    """A pickle's stack and memo, on which calls stay descriptions.

    Attributes:
      storages: key -> what the pickle says of that storage.
    """

    def __init__(self, cursor: _Cursor):
        self.storages: Dict[str, _Storage] = {}
        self._cursor = cursor
        self._stack: List[Any] = []
        self._outer: List[List[Any]] = []  # the stacks below each mark
        self._memo: Dict[int, Any] = {}

    def run(self, part: str) -> Any:
        """Walks one pickle, to the byte after its STOP, and returns its value."""
        try:
            opcodes = pickletools.genops(self._cursor)
            for count, (opcode, argument, _) in enumerate(opcodes):
                _need(count <= _MOST_OPCODES, f"its {part} is too long for tensors.")
                if opcode.name != "STOP":
                    self._step(opcode.name, argument)
            return self._pop()
        # With strict filters an odd escape in a text raises pickletools' warning.
        except (ValueError, Warning) as error:
            raise _Unreadable(
                f"its {part} is cut off or damaged ({str(error)[:99]}). {_FETCH_AGAIN}"
            ) from error

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name == "MARK":
            self._outer.append(self._stack)
            self._stack = []
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop_items(_TUPLES[name])))
        elif name == "TUPLE":
            items = self._pop_marked()
            self._stack.append(tuple(items))
        elif name == "APPEND":
            self._append(self._pop_items(1))
        elif name == "APPENDS":
            self._append(self._pop_marked())
        elif name == "SETITEM":
            self._set(self._pop_items(2))
        elif name == "SETITEMS":
            self._set(self._pop_marked())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._top()
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            _valid(argument in self._memo, "a value is used before it is there")
            self._stack.append(self._memo[argument])
        elif name in ("GLOBAL", "INST"):
            module, _, attribute = argument.partition(" ")
            self._push_global(module, attribute, allowed=name == "GLOBAL")
        elif name == "STACK_GLOBAL":
            self._push_global(*self._pop_items(2))
        elif name == "BINPERSID":
            self._stack.append(self._storage(self._pop()))
        elif name == "REDUCE":
            self._stack.append(self._call(*self._pop_items(2)))
        elif name == "BUILD":
            state = self._pop()
            _valid(type(self._top()) is OrderedDict, "a state for no OrderedDict")
            # Not needed, and the only state that torch gives an OrderedDict.
            metadata = type(state) is dict and set(state) <= {"_metadata"}
            _valid(metadata, "an OrderedDict with a state")
        elif name not in ("PROTO", "FRAME"):
            raise _Unreadable(
                f"refused: its pickle has the opcode {name}, which torch.save does not "
                f"write for tensors. {_NOT_EXECUTED}"
            )

    def _top(self) -> Any:
        _valid(self._stack, "its stack is empty")
        return self._stack[-1]

    def _pop(self) -> Any:
        _valid(self._stack, "its stack is empty")
        return self._stack.pop()

    def _pop_items(self, count: int) -> List[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _pop_marked(self) -> List[Any]:
        _valid(self._outer, "a mark is missing")
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _append(self, items: List[Any]) -> None:
        _valid(type(self._top()) is list, "items for no list")
        self._top().extend(items)

    def _set(self, items: List[Any]) -> None:
        _valid(type(self._top()) in (dict, OrderedDict), "entries for no dict")
        keys, values = items[::2], items[1::2]
        _valid(len(keys) == len(values), "a key without value")
        # Only plain keys: hashing a deeply nested tuple overruns the C stack.
        plain = all(type(key) in (str, int) for key in keys)
        _valid(plain, "a key that is neither text nor number")
        self._top().update(zip(keys, values))

    def _push_global(self, module: Any, name: Any, allowed: bool = True) -> None:
        full = f"{module}.{name}" if type(module) is type(name) is str else ""
        plain = len(full) < 200 and re.fullmatch(r"\w[\w.]*", full, re.ASCII)
        _valid(plain, "the name of a global is none")
        if full not in _GLOBALS or not allowed:
            known = f" (os.{name})" if module in ("posix", "nt") else ""
            raise _Refused(
                f"refused: its pickle asks for {full}{known}, which no dict of tensors "
                f"needs. {_NOT_EXECUTED} Use only files whose source you trust."
            )
        self._stack.append(_Global(full))

    def _storage(self, identity: Any) -> _Storage:
        whole = type(identity) is tuple and len(identity) in (5, 6)
        _valid(whole, "a persistent id that is no storage's")
        tag, kind, key, _, count, *view = identity
        _valid(
            type(tag) is type(key) is str
            and tag == "storage"
            and type(kind) is _Global
            and kind.name in _STORAGES
            and type(count) is int
            and count >= 0
            and view in ([], [None]),
            "a persistent id that is no storage's",
        )
        storage = _Storage(kind.name, key, count)
        same = self.storages.setdefault(key, storage) == storage
        _valid(same, "a storage is described in two ways")
        return storage

    def _call(self, function: Any, arguments: Any) -> Any:
        callable_ = type(function) is _Global and type(arguments) is tuple
        _valid(callable_, "a call of something that is no function")
        name, count = function.name, len(arguments)
        if name == _ORDERED_DICT and count == 0:
            return OrderedDict()
        if name == _PARAMETER and count == 3 and type(arguments[0]) is _Tensor:
            return arguments[0]
        if (name == _TENSOR and count == 4) or (name == _TENSOR_V2 and count in (6, 7)):
            # The seventh tells of negated or conjugated data.
            if type(arguments[0]) is _Storage and not any(arguments[6:]):
                return _Tensor(*arguments[:4])
        raise ValueError(f"{name} is called with arguments it does not take")


def _pickled(value: Any, view_metadata: bytes = b"") -> bytes:
    """The pickle, protocol 2, of what `_Machine` would give back."""

    def opcodes(value: Any) -> bytes:
        kind = type(value)
        if kind is bool:
            return b"\x88" if value else b"\x89"
        if kind is int and 0 <= value < 256:
            return b"K" + struct.pack("<B", value)
        if kind is int:
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + struct.pack("<B", len(digits)) + digits
        if kind is str:
            text = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(text)) + text
        if kind is tuple:
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        if kind is list:
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        if kind in (dict, OrderedDict):
            start = b"}" if kind is dict else opcodes(_Global(_ORDERED_DICT)) + b")R"
            pairs = (opcodes(k) + opcodes(v) for k, v in value.items())
            return start + b"(" + b"".join(pairs) + b"u"
        if kind is _Global:
            return b"c" + "\n".join(value.name.rsplit(".", 1)).encode() + b"\n"
        if kind is _Storage:
            parts = ("storage", _Global(value.type_name), value.key, "cpu", value.count)
            return b"(" + b"".join(map(opcodes, parts)) + view_metadata + b"tQ"
        hooks = OrderedDict()
        parts = (value.storage, value.offset, value.size, value.stride, False, hooks)
        return opcodes(_Global(_TENSOR_V2)) + opcodes(parts) + b"R"

    return b"\x80\x02" + opcodes(value) + b"."
