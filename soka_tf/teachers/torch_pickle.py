"""PyTorch's pickles, walked and never executed.

A pickle is a program, and a hostile one may run anything. So none is ever unpickled:
`Machine` walks the opcodes as pickletools lists them, knows those few that torch.save
writes for dicts of tensors and plain facts beside them, and keeps calls as
descriptions. Whatever else is asked for is refused by name.
"""

import dataclasses
import pickletools
import re
import struct
from collections import OrderedDict
from typing import Any, Dict, List

import numpy as np

from soka_tf.teachers.messages import one_line

STORAGES = {
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
_DESCRIBED = {_ORDERED_DICT, _TENSOR_V2, _TENSOR, _PARAMETER, *STORAGES}
# What training scripts keep beside the tensors. Never looked up and never called: what
# is asked of them gives an `Opaque`, whatever the arguments.
_NUMPY = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
_BUILTINS = ("set", "frozenset", "list", "dict", "bytes", "bytearray")
_BUILTINS += ("int", "long", "float")
_TORCH_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("uint8", "int8", "int16", "int32", "int64", "bool"),
)
_UNEVALUATED = {
    *(f"numpy.{core}.{name}" for core in ("core", "_core") for name in _NUMPY),
    *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
    *("collections.Counter", "collections.defaultdict"),
    *(f"{module}.{n}" for module in ("builtins", "__builtin__") for n in _BUILTINS),
    *("torch.Size", "torch.device", *(f"torch.{name}" for name in _TORCH_DTYPES)),
}

# A state dict takes about 25 opcodes a tensor; a history of losses one a number.
_MOST_OPCODES = 500_000
_LONGEST_TEXT = 1 << 24  # read as far as the file goes, so it costs no more than that
FETCH_AGAIN = "Fetch or save it again."
NOT_EXECUTED = "Nothing in it was executed."


class Unreadable(Exception):
    """Why a file cannot be read, without its path."""


class Refused(Unreadable):
    """The pickle asks for something that weights never need."""


def need(fact: Any, why: str) -> None:
    """Raises Unreadable with this reason where the fact does not hold."""
    if not fact:
        raise Unreadable(why)


@dataclasses.dataclass(frozen=True)
class Global:
    """A name that a pickle asks for, one of the few allowed."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """What a pickle says of a storage: its type, its key in the file, its elements."""

    type_name: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype:
        """Of one element."""
        return STORAGES[self.type_name]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, as the pickle gives it: not yet checked."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any


class Opaque:
    """Stands for what was asked of a harmless name; nothing is known of it."""


class OddKey:
    """Stands for a key that is neither text nor number.

    The key itself is let go: hashing a deeply nested tuple overruns the C stack.
    """

    def __repr__(self) -> str:
        return "a key that is neither text nor number"


class Cursor:
    """The mapped bytes as pickletools reads them; long pieces are never copied."""

    def __init__(self, data: memoryview):
        self._data = data
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next bytes, fewer at the end; texts of names, never data."""
        need(size <= _LONGEST_TEXT, f"its pickle has a text of {size} bytes.")
        piece = bytes(self._data[self.position : self.position + size])
        self.position += len(piece)
        return piece

    def readline(self) -> bytes:
        """The bytes up to the end of the line; none if it is absurdly long."""
        ahead = bytes(self._data[self.position : self.position + 1024])
        return self.read(ahead.find(b"\n") + 1)

    def tell(self) -> int:
        """Where the next byte is."""
        return self.position

    def take(self, size: int, what: str) -> memoryview:
        """The next bytes, all of them or an error that says of what."""
        rest = len(self._data) - self.position
        need(size <= rest, f"cut off in {what}. {FETCH_AGAIN}")
        self.position += size
        return self._data[self.position - size : self.position]


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINSTRING", "BINSTRING"),  # Python 2
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": Opaque}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Strange(Exception):
    """Why a pickle, whole as it is, is none that torch.save writes for tensors."""


def _valid(fact: Any, why: str) -> None:
    """For what no pickle does, unless it is damaged."""
    if not fact:
        raise ValueError(why)


def _usual(fact: Any, why: str) -> None:
    """For what a pickle may do, and those of torch.save do not."""
    if not fact:
        raise _Strange(why)


def _plain_keys(keys: List[Any]) -> List[Any]:
    return [key if type(key) in (str, int) else OddKey() for key in keys]


class Machine:
    """A pickle's stack and memo, on which calls stay descriptions.

    Attributes:
      storages: key -> what the pickle says of that storage.
    """

    def __init__(self, cursor: Cursor):
        self.storages: Dict[str, Storage] = {}
        self._cursor = cursor
        self._stack: List[Any] = []
        self._outer: List[List[Any]] = []  # the stacks below each mark
        self._memo: Dict[int, Any] = {}

    def run(self, part: str) -> Any:
        """Walks one pickle, to the byte after its STOP, and returns its value."""
        try:
            opcodes = pickletools.genops(self._cursor)
            for count, (opcode, argument, _) in enumerate(opcodes):
                need(count <= _MOST_OPCODES, f"its {part} is too long for tensors.")
                if opcode.name != "STOP":
                    self._step(opcode.name, argument)
            return self._pop()
        # With strict filters an odd escape in a text raises pickletools' warning.
        except (ValueError, Warning) as error:
            raise Unreadable(
                f"its {part} is cut off or damaged ({one_line(error)}). {FETCH_AGAIN}"
            ) from error
        except _Strange as error:
            raise Unreadable(
                f"its {part} is not as torch.save writes it for tensors and plain "
                f"facts ({error}). {NOT_EXECUTED} Save {{'state_dict': ...}} alone."
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
        elif name in ("APPENDS", "ADDITEMS"):
            self._append(self._pop_marked())
        elif name == "FROZENSET":
            self._pop_marked()
            self._stack.append(Opaque())
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
            self.push_global(module, attribute, allowed=name == "GLOBAL")
        elif name == "STACK_GLOBAL":
            self.push_global(*self._pop_items(2))
        elif name == "BINPERSID":
            self._stack.append(self._storage(self._pop()))
        elif name == "REDUCE":
            self._stack.append(self._call(*self._pop_items(2)))
        elif name == "BUILD":
            state = self._pop()
            if type(self._top()) is not Opaque:
                _usual(type(self._top()) is OrderedDict, "a state for no OrderedDict")
                # Not needed, and the only state that torch gives an OrderedDict.
                metadata = type(state) is dict and set(state) <= {"_metadata"}
                _usual(metadata, "an OrderedDict with a state")
        elif name not in ("PROTO", "FRAME"):
            raise Unreadable(
                f"refused: its pickle has the opcode {name}, which torch.save does not "
                f"write for tensors. {NOT_EXECUTED}"
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
        if type(self._top()) is not Opaque:
            _usual(type(self._top()) is list, "items for no list")
            self._top().extend(items)

    def _set(self, items: List[Any]) -> None:
        keys, values = items[::2], items[1::2]
        _valid(len(keys) == len(values), "a key without value")
        if type(self._top()) is not Opaque:
            _usual(type(self._top()) in (dict, OrderedDict), "entries for no dict")
            self._top().update(zip(_plain_keys(keys), values))

    def push_global(self, module: Any, name: Any, allowed: bool = True) -> None:
        """Pushes one of the few names allowed; refuses any other."""
        full = f"{module}.{name}" if type(module) is type(name) is str else ""
        plain = len(full) < 200 and re.fullmatch(r"\w[\w.]*", full, re.ASCII)
        _usual(plain, "the name of a global is none")
        kind = re.fullmatch(r"torch\.(\w+)Storage", full)
        if kind and full not in STORAGES:
            raise Unreadable(
                f"holds tensors of the type {kind[1]} ({full}), which is not read. "
                "Save them as float32, by tensor.float()."
            )
        if full not in _DESCRIBED | _UNEVALUATED or not allowed:
            known = f" (os.{name})" if module in ("posix", "nt") else ""
            raise Refused(
                f"refused: its pickle asks for {full}{known}, which no dict of tensors "
                f"needs. {NOT_EXECUTED} Use only files whose source you trust."
            )
        self._stack.append(Global(full))

    def _storage(self, identity: Any) -> Storage:
        whole = type(identity) is tuple and len(identity) in (5, 6)
        _usual(whole, "a persistent id that is no storage's")
        tag, kind, key, _, count, *view = identity
        _usual(
            type(tag) is type(key) is str
            and tag == "storage"
            and type(kind) is Global
            and kind.name in STORAGES
            and type(count) is int
            and count >= 0
            and view in ([], [None]),
            "a persistent id that is no storage's",
        )
        storage = Storage(kind.name, key, count)
        same = self.storages.setdefault(key, storage) == storage
        _usual(same, "a storage is described in two ways")
        return storage

    def _call(self, function: Any, arguments: Any) -> Any:
        callable_ = type(function) is Global and type(arguments) is tuple
        _usual(callable_, "a call of something that is no function")
        name, count = function.name, len(arguments)
        if name in _UNEVALUATED:
            return Opaque()
        if name == _ORDERED_DICT and count == 0:
            return OrderedDict()
        if name == _ORDERED_DICT and count == 1 and type(arguments[0]) is list:
            # Python 2 gave its entries as a list of lists.
            pairs = arguments[0]
            entries = all(type(pair) is list and len(pair) == 2 for pair in pairs)
            _usual(entries, "an OrderedDict of no pairs")
            keys = _plain_keys([key for key, _ in pairs])
            return OrderedDict(zip(keys, (value for _, value in pairs)))
        if name == _PARAMETER and count == 3 and type(arguments[0]) is Tensor:
            return arguments[0]
        if (name == _TENSOR and count == 4) or (name == _TENSOR_V2 and count in (6, 7)):
            # The seventh tells of negated or conjugated data.
            if type(arguments[0]) is Storage and not any(arguments[6:]):
                return Tensor(*arguments[:4])
        raise _Strange(f"{name} is called with arguments it does not take")


def refuse_globals(cursor: Cursor) -> None:
    """Refuses a pickle of whatever protocol by the first global it asks for.

    The oldest protocol is text: without this it would be called that and no more.
    """
    machine = Machine(cursor)
    try:
        for opcode, argument, _ in pickletools.genops(cursor):
            if opcode.name in ("GLOBAL", "INST"):
                machine.push_global(*argument.split(" ", 1))
    except (ValueError, Warning, _Strange):
        pass  # no pickle at all, then


def pickled(value: Any, view_metadata: bytes = b"") -> bytes:
    """The pickle, protocol 2, of what `Machine` would give back."""

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
            start = b"}" if kind is dict else opcodes(Global(_ORDERED_DICT)) + b")R"
            pairs = (opcodes(k) + opcodes(v) for k, v in value.items())
            return start + b"(" + b"".join(pairs) + b"u"
        if kind is Global:
            return b"c" + "\n".join(value.name.rsplit(".", 1)).encode() + b"\n"
        if kind is Storage:
            parts = ("storage", Global(value.type_name), value.key, "cpu", value.count)
            return b"(" + b"".join(map(opcodes, parts)) + view_metadata + b"tQ"
        hooks = OrderedDict()
        parts = (value.storage, value.offset, value.size, value.stride, False, hooks)
        return opcodes(Global(_TENSOR_V2)) + opcodes(parts) + b"R"

    return b"\x80\x02" + opcodes(value) + b"."
