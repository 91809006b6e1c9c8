"""PyTorch files: what torch writes we read, what we write torch reads, no code runs."""

import io
import os
import pathlib
import pickle
import random
import re
import struct
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

from soka_tf.errors import UserError
from soka_tf.teachers import torch_file, torch_pickle
from soka_tf.teachers.torch_file import read_torch_file, write_torch_file

LAYOUTS = ("zip", "legacy")
ARRAYS = {
    "conv.weight": np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype("f4"),
    "bn.num_batches_tracked": np.array(1234567890123, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "bn.bias": np.float32([np.nan, -0.0, np.inf]),
}


def assert_same(read, expected):
    assert list(read) == list(expected)
    for name, array in expected.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


def message_of(path):
    """The one line with which a file is refused."""
    with pytest.raises(UserError) as raised:
        read_torch_file(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def saved(layout, tmp_path):
    path = tmp_path / "weights.pth"
    write_torch_file(path, ARRAYS, layout)
    return path


# --- good files ----------------------------------------------------------------------


def test_round_trip_gives_the_same_arrays(saved):
    assert_same(read_torch_file(saved), ARRAYS)


def test_arrays_outlive_the_file_and_cannot_be_written(saved):
    read = read_torch_file(saved)
    saved.unlink()
    assert_same(read, ARRAYS)
    with pytest.raises(ValueError, match="read-only"):
        read["bn.bias"][0] = 1


def test_arrays_of_any_alignment_reach_variables_unchanged(layout, tmp_path):
    import tensorflow as tf

    for letters in range(1, 9):  # shifts the data by one byte each
        path = tmp_path / "weights.pth"
        arrays = {"w" * letters: ARRAYS["conv.weight"]}
        write_torch_file(path, arrays, layout)
        (read,) = read_torch_file(path).values()
        variable = tf.Variable(np.transpose(read, (2, 3, 1, 0)))
        np.testing.assert_array_equal(
            variable.numpy(), np.transpose(ARRAYS["conv.weight"], (2, 3, 1, 0))
        )


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(saved, layout):
    before = saved.read_bytes()
    write_torch_file(saved, ARRAYS, layout)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_writing_refuses_other_types_and_layouts_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="float32 or int64. Received: x of float64"):
        write_torch_file(tmp_path / "a.pth", {"x": np.zeros(2)})
    with pytest.raises(ValueError, match="'zip' or 'legacy'. Received: 'tar'"):
        write_torch_file(tmp_path / "a.pth", {}, "tar")
    assert os.listdir(tmp_path) == []


def test_writing_that_fails_keeps_the_old_file(saved, layout, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_torch_file(saved, {}, layout)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_written_arrays_need_not_be_contiguous(layout, tmp_path):
    path = tmp_path / "weights.pth"
    array = ARRAYS["conv.weight"].transpose(3, 1, 0, 2)[::-1, ::2]
    write_torch_file(path, {"x": array}, layout)
    assert_same(read_torch_file(path), {"x": array})


def test_written_files_open_with_torch(saved):
    torch = pytest.importorskip("torch")
    top = torch.load(saved, weights_only=True)
    assert list(top) == ["state_dict"]
    assert_same({k: v.numpy() for k, v in top["state_dict"].items()}, ARRAYS)


def save(layout, path, top, **options):
    torch = pytest.importorskip("torch")
    new = layout == "zip"
    torch.save(top, path, _use_new_zipfile_serialization=new, **options)


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_module_saved_by_torch_reads_the_same(layout, protocol, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()
    assert state._metadata  # goes into the pickle by BUILD
    top = {"epoch": 3, "state_dict": state, "loss": 0.25, "classes": ["a", "b"]}
    save(layout, tmp_path / "a.pth", top, pickle_protocol=protocol)
    save(layout, tmp_path / "bare.pth", state, pickle_protocol=protocol)
    expected = {name: tensor.numpy() for name, tensor in state.items()}
    assert expected["1.num_batches_tracked"].shape == ()
    assert_same(read_torch_file(tmp_path / "a.pth"), expected)
    assert_same(read_torch_file(tmp_path / "bare.pth"), expected)


def test_odd_tensors_saved_by_torch_read_the_same(layout, tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    tensors = {
        "whole": base,
        "shared": base[1, :, 1:3],
        "transposed": base.permute(2, 0, 1),
        "parameter": torch.nn.Parameter(base[:1]),
        "empty": torch.zeros(3, 0),
        "bool": torch.tensor([True, False]),
        **{
            str(dtype): torch.arange(-3, 3).to(dtype)
            for dtype in (torch.half, torch.double, torch.int32, torch.int16)
        },
        "int8": torch.arange(-3, 3).to(torch.int8),
        "uint8": torch.arange(6).to(torch.uint8),
    }
    save(layout, tmp_path / "a.pth", {"state_dict": tensors})
    read = read_torch_file(tmp_path / "a.pth")
    assert_same(read, {k: v.detach().numpy() for k, v in tensors.items()})
    assert np.shares_memory(read["whole"], read["shared"])


def test_optimizer_beside_the_state_dict_does_not_disturb(layout, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    top = {"optimizer": optimizer.state_dict(), "state_dict": module.state_dict()}
    save(layout, tmp_path / "a.pth", top)
    expected = {k: v.numpy() for k, v in module.state_dict().items()}
    assert_same(read_torch_file(tmp_path / "a.pth"), expected)


def numpy_facts():
    return {
        "best_prec1": np.float64(71.5),
        "epoch": np.int64(3),
        "mean": np.arange(3.0),
        "names": np.array(["a", "b"]),
        "random": np.random.RandomState(0).get_state(),
    }


FACTS = {
    "numpy": numpy_facts,
    "torch": lambda: torch_facts(),
    "set": lambda: {"seen": {1, 2}, "kinds": frozenset("ab"), "none": set()},
    "counter": lambda: Counter("abba"),
    "defaultdict": lambda: [
        defaultdict(kind, {"a": kind()}) for kind in (list, dict, int, float, set)
    ],
    "bytes": lambda: [b"abc", b"", bytes(300), bytearray(b"abc")],
    "keys": lambda: {0.5: 1, None: 2, True: 3, ("a", (1, 2)): 4, b"b": 5, -1: 6},
    "history": lambda: [0.25] * 300_000,
    "log": lambda: "loss\n" * 20_000,
    "huge": lambda: [1 << 100, -(1 << 900), float("nan"), "\ud800"],
}


def torch_facts():
    torch = pytest.importorskip("torch")
    return [
        torch.Size([1, 2]),
        *(torch.float32, torch.bfloat16, torch.int64, torch.bool),
        torch.device("cpu"),
        torch.zeros(3),
        {"tensors": {(1, 2): torch.zeros(3)}},
    ]


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize("kind", FACTS)
def test_harmless_facts_beside_the_state_dict_are_passed_over(
    layout, protocol, kind, tmp_path
):
    torch = pytest.importorskip("torch")
    fact = FACTS[kind]()
    top = {"a": fact, "state_dict": {"w": torch.arange(6.0)}, "b": [(fact,)]}
    save(layout, tmp_path / "a.pth", top, pickle_protocol=protocol)
    assert_same(read_torch_file(tmp_path / "a.pth"), {"w": FLOATS})


def test_scheduler_beside_the_state_dict_does_not_disturb(layout, tmp_path):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    top = {"scheduler": scheduler.state_dict(), "state_dict": {"w": torch.arange(6.0)}}
    assert type(top["scheduler"]["milestones"]) is Counter
    save(layout, tmp_path / "a.pth", top)
    assert_same(read_torch_file(tmp_path / "a.pth"), {"w": FLOATS})


@pytest.mark.parametrize("kind", ("numpy", "set", "counter", "bytes"))
def test_harmless_fact_within_the_state_dict_is_no_tensor(layout, kind, tmp_path):
    torch = pytest.importorskip("torch")
    top = {"state_dict": {"w": torch.zeros(3), "odd": FACTS[kind]()}}
    save(layout, tmp_path / "a.pth", top)
    assert "1 entries that are not tensors: 'odd'." in message_of(tmp_path / "a.pth")


def test_data_parallel_prefix_is_stripped_where_all_names_have_it(layout, tmp_path):
    torch = pytest.importorskip("torch")
    state = torch.nn.DataParallel(torch.nn.BatchNorm2d(2)).state_dict()
    save(layout, tmp_path / "a.pth", {"state_dict": state})
    read = read_torch_file(tmp_path / "a.pth")
    assert_same(read, {n[len("module.") :]: t.numpy() for n, t in state.items()})
    mixed = {"module.a": FLOATS, "b": FLOATS}
    write_torch_file(tmp_path / "b.pth", mixed, layout)
    assert_same(read_torch_file(tmp_path / "b.pth"), mixed)


@pytest.mark.parametrize("beside", (False, True))
@pytest.mark.parametrize(
    "dtype, kind", (("bfloat16", "BFloat16"), ("complex64", "ComplexFloat"))
)
def test_type_that_is_not_read_is_named(layout, dtype, kind, beside, tmp_path):
    torch = pytest.importorskip("torch")
    odd = torch.zeros(3, dtype=getattr(torch, dtype))
    top = {"state_dict": {"w": torch.zeros(3) if beside else odd}, "beside": odd}
    save(layout, tmp_path / "a.pth", top)
    message = message_of(tmp_path / "a.pth")
    assert f"tensors of the type {kind} (torch.{kind}Storage), which is not" in message
    assert "damaged" not in message and "Fetch" not in message


# --- files made by hand --------------------------------------------------------------

FLOATS = np.arange(6, dtype=np.float32)


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value):
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


def items(*opcodes):
    return b"(" + b"".join(opcodes) + b"t"


def a_storage(kind="FloatStorage", key="0", count=6, location="cpu"):
    """Opcodes of the persistent id of a storage."""
    kind = b"ctorch\n" + kind.encode() + b"\n"
    return (
        items(text("storage"), kind, text(key), text(location), integer(count)) + b"Q"
    )


def a_tensor(offset=0, size=(6,), stride=(1,), storage=None):
    """Opcodes of a tensor on a storage."""
    shapes = [items(*map(integer, numbers)) for numbers in (size, stride)]
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + items(storage or a_storage(), integer(offset), *shapes, b"\x89", hooks)
        + b"R"
    )


def a_dict(**entries):
    pairs = [text(name) + opcodes for name, opcodes in entries.items()]
    return b"}(" + b"".join(pairs) + b"u"


def legacy_parts(opcodes, facts=None, keys=("0",), count=6):
    facts = {"little_endian": True} if facts is None else facts
    return [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps(facts, 2),
        b"\x80\x02" + opcodes + b".",
        pickle.dumps(list(keys), 2),
        struct.pack("<q", count) + FLOATS.tobytes(),
    ]


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


@pytest.fixture
def make(layout, tmp_path):
    """Returns a function that wraps the opcodes of an object into a file."""

    def write(opcodes):
        path = tmp_path / "made.pth"
        if layout == "legacy":
            parts = legacy_parts(opcodes)
            if b"storage" not in opcodes:
                parts[4:] = [pickle.dumps([], 2)]
            path.write_bytes(b"".join(parts))
        else:
            pickled = b"\x80\x02" + opcodes + b"."
            members = [("m/data.pkl", pickled), ("m/data/0", FLOATS.tobytes())]
            write_zip(path, members)
        return path

    return write


def test_files_made_by_hand_are_read(make):
    gpu = a_storage(location="cuda:0")
    opcodes = a_dict(
        x=a_tensor(), y=a_tensor(1, (2, 2), (1, 2)), z=a_tensor(storage=gpu)
    )
    read = read_torch_file(make(opcodes))
    assert_same(read, {"x": FLOATS, "y": np.float32([[1, 3], [2, 4]]), "z": FLOATS})


def test_dicts_of_python_2_are_read(make):
    pairs = b"](" + b"](" + text("x") + a_tensor() + b"ee"
    opcodes = b"ccollections\nOrderedDict\n" + items(pairs) + b"R"
    assert_same(read_torch_file(make(opcodes)), {"x": FLOATS})
    broken = b"](" + b"](" + text("x") + b"ee"
    opcodes = b"ccollections\nOrderedDict\n" + items(broken) + b"R"
    assert "an OrderedDict of no pairs" in message_of(make(opcodes))


# --- hostile pickles -----------------------------------------------------------------

COMMAND = "touch ran"  # every test below runs in its own folder
EXECUTING = {
    "GLOBAL": b"cposix\nsystem\n" + text(COMMAND) + b"\x85R",
    "STACK_GLOBAL": text("posix") + text("system") + b"\x93" + text(COMMAND) + b"\x85R",
    "INST": b"(" + text(COMMAND) + b"iposix\nsystem\n",
    "OBJ": b"(cposix\nsystem\n" + text(COMMAND) + b"o",
    "NEWOBJ": b"cposix\nsystem\n" + text(COMMAND) + b"\x85\x81",
    "memo": b"cposix\nsystem\nq\x00" + text(COMMAND) + b"\x85R",
}


def run_for_real(path):
    """Unpickles as a careless reader would, to show that these files are armed."""

    class Reader(pickle.Unpickler):
        def persistent_load(self, _):
            return None

    with path.open("rb") as file:
        for _ in range(4):
            try:
                Reader(file).load()
            except Exception:  # what comes after the command does not matter
                return


@pytest.mark.parametrize("way", EXECUTING)
def test_pickle_that_calls_os_system_is_named_and_does_not_run(
    make, way, layout, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "ran"
    path = make(a_dict(x=EXECUTING[way], y=a_tensor()))
    message = message_of(path)
    assert "refused: its pickle asks for posix.system (os.system)" in message
    assert "Nothing in it was executed" in message
    assert not marker.exists()
    # pickle itself refuses functions for NEWOBJ; all others are armed.
    if layout == "legacy" and os.name == "posix" and way != "NEWOBJ":
        run_for_real(path)
        assert marker.exists()


class Evil:
    def __reduce__(self):
        return os.system, (COMMAND,)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickle_that_calls_os_system_is_named(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil(), protocol))
    assert "refused: its pickle asks for posix.system" in message_of(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", range(5))
def test_every_pickle_of_a_legacy_file_is_walked(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = legacy_parts(a_dict(x=a_tensor()))
    parts[part] = b"\x80\x02" + EXECUTING["GLOBAL"] + b"."
    path = tmp_path / "evil.pth"
    path.write_bytes(b"".join(parts))
    assert "asks for posix.system" in message_of(path)
    assert not (tmp_path / "ran").exists()


def test_evil_object_saved_by_torch_is_named(layout, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    save(layout, tmp_path / "evil.pth", {"state_dict": {"w": Evil()}})
    assert "asks for posix.system" in message_of(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


HOOKS = b"ccollections\nOrderedDict\n)R"
STATE = b"}" + text("__setstate__") + b"N" + b"s"
NESTED = b")" + b"\x85" * 190_000
HOSTILE = {
    "other global": (b"cbuiltins\neval\n", "asks for builtins.eval,"),
    **{
        name: (f"c{module}\n{name}\n".encode(), f"asks for {module}.{name},")
        for module, name in (
            *(("builtins", name) for name in ("getattr", "exec", "open", "map")),
            *(("functools", "partial"), ("operator", "attrgetter")),
            *(("numpy", "load"), ("numpy", "fromfile"), ("numpy", "memmap")),
            *(("_codecs", "decode"), ("collections", "namedtuple")),
            *(("torch", "classes"), ("torch._utils", "_rebuild_tensor_v3")),
            *(("argparse", "Namespace"), ("copyreg", "_reconstructor")),
        )
    },
    "attribute of a harmless one": (
        text("numpy") + text("dtype.type") + b"\x93",
        "asks for numpy.dtype.type,",
    ),
    "harmless one by INST": (b"(ibuiltins\nset\n", "asks for builtins.set,"),
    "call of an opaque value": (b"cbuiltins\nset\n)R)R", "no function"),
    "harmless one as a tensor": (
        a_dict(x=a_tensor(), y=b"cbuiltins\nset\n)R"),
        "1 entries that are not tensors: 'y'",
    ),
    "name of one as a tensor": (
        a_dict(x=a_tensor(), y=b"ctorch\nfloat32\n"),
        "1 entries that are not tensors: 'y'",
    ),
    "harmless one as a shape": (
        a_tensor()[:-2] + b"cbuiltins\nset\n)RtR",
        "arguments it does not take",
    ),
    "set as state_dict": (a_dict(state_dict=b"\x8f"), "'state_dict' is not a dict"),
    "set of nothing": (b"(\x90", "its stack is empty"),
    "nested key beside": (
        a_dict(x=a_tensor(), y=b"}" + b")" + b"\x85" * 190_000 + b"Ns"),
        "not tensors: 'y'",
    ),
    "escapes in a name": (
        a_dict(**{"\x1b[2K\nerror: \u202e": b"N"}),
        r"'\x1b[2K\nerror: \u202e'",
    ),
    "long name": (a_dict(**{"x" * 60_000: b"N"}), "xxx...xxx"),
    "torch's own loader": (b"ctorch\nload\n", "asks for torch.load,"),
    "attribute of a good one": (
        text("collections") + text("OrderedDict.__class__") + b"\x93",
        "asks for collections.OrderedDict.__class__",
    ),
    "misleading line": (b"cposix \x1b[2K\nsystem\n", "the name of a global is none"),
    "global of numbers": (b"K\1K\2\x93", "the name of a global is none"),
    "state of an OrderedDict": (HOOKS + STATE + b"b", "an OrderedDict with a state"),
    "state of a dict": (b"}" + STATE + b"b", "a state for no OrderedDict"),
    "state of a tensor": (a_tensor() + STATE + b"b", "a state for no OrderedDict"),
    "call of a tensor": (a_tensor() + b")R", "no function"),
    "call of a storage type": (b"ctorch\nFloatStorage\n)R", "arguments"),
    "wrong arity": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "arguments"),
    "good global in INST": (b"(icollections\nOrderedDict\n", "OrderedDict"),
    "extension": (b"\x82\x01", "opcode EXT1"),
    "object on the stack": (b"))\x81", "opcode NEWOBJ"),
    "persistent text": (b"Pposix.system\n", "opcode PERSID"),
    "persistent module": (items(text("module"), b"N", b"N", b"N", b"N") + b"Q", "id"),
    "huge memo index to get": (b"j\xff\xff\xff\xff", "before it is there"),
    "huge length": (b"X\xff\xff\xff\xff", "a text of 4294967295 bytes"),
    "huge length, 8 bytes": (b"\x8d" + b"\xff" * 7 + b"\x7f", "a text of 9223"),
    "huge bytes": (b"B\xff\xff\xff\x7f", "a text of 2147483647 bytes"),
    "huge digits": (b"L" + b"9" * 5000 + b"L\n", "cut off or damaged"),
    "endless opcodes": (b"]" * 500_100, "too long"),
    "endless marks": (b"(" * 500_100, "too long"),
    "long argument": (b"S" + b"\xff" * 900 + b"\n", "no string quotes"),
    "odd escape": (b"S'\\q'\n", "damaged"),
    "nested key": (b"}" + NESTED + b"Ns", "neither text nor number"),
    "list as key": (b"}]Ns", "neither text nor number"),
    "no stack": (b"0" * 3, "opcode POP"),
    "empty stack": (b"R", "stack is empty"),
    "no mark": (b"t", "a mark is missing"),
    "key without value": (b"}(" + text("x") + b"u", "key without value"),
    "no object": (b"", "stack is empty"),
    "negative offset": (a_dict(x=a_tensor(-1)), "'x' has no valid shape"),
    "negative stride": (a_dict(x=a_tensor(5, (6,), (-1,))), "'x' has no valid shape"),
    "negative size": (a_dict(x=a_tensor(0, (-6,))), "'x' has no valid shape"),
    "two strides": (a_dict(x=a_tensor(0, (6,), (1, 1))), "'x' has no valid shape"),
    "many dimensions": (
        a_dict(x=a_tensor(0, (1,) * 40, (1,) * 40)),
        "'x' has no valid shape",
    ),
    "offset outside": (a_dict(x=a_tensor(6, (1,))), "'x' reaches outside"),
    "too large": (a_dict(x=a_tensor(0, (7,))), "'x' reaches outside"),
    "stride outside": (a_dict(x=a_tensor(0, (2, 3), (4, 1))), "'x' reaches outside"),
    "repeated": (a_dict(x=a_tensor(0, (1 << 30,), (0,))), "'x' reaches outside"),
    "overflow of size": (a_dict(x=a_tensor(0, (1 << 63, 2))), "no valid shape"),
    "overflow of extent": (
        a_dict(x=a_tensor(0, (1 << 32, 1 << 32), (1, 1))),
        "'x' reaches outside",
    ),
    "overflow of stride": (a_dict(x=a_tensor(0, (2,), (1 << 62,))), "reaches outside"),
    "overflow of offset": (a_dict(x=a_tensor((1 << 64) - 1, (1,))), "reaches outside"),
    "empty but vast": (
        a_dict(x=a_tensor(0, (0, 1 << 62, 1 << 62), (1, 1, 1))),
        "no sane shape",
    ),
    "storage too large": (a_dict(x=a_tensor(storage=a_storage(count=7))), "storage"),
    "storage vast": (a_dict(x=a_tensor(storage=a_storage(count=1 << 62))), "storage"),
    "storage negative": (a_dict(x=a_tensor(storage=a_storage(count=-6))), "no storage"),
    "storage of doubles": (
        a_dict(x=a_tensor(storage=a_storage("DoubleStorage"))),
        "storage",
    ),
    "storage twice": (
        a_dict(x=a_tensor(), y=a_tensor(storage=a_storage("IntStorage"))),
        "described in two ways",
    ),
    "storage within another": (
        a_dict(x=a_tensor(storage=a_storage()[:-2] + b"K\1tQ")),
        "no storage",
    ),
    "negated data": (
        a_dict(x=a_tensor()[:-2] + b"}" + text("neg") + b"\x88stR"),
        "arguments it does not take",
    ),
    "storage elsewhere": (
        a_dict(x=a_tensor(storage=a_storage(key="../data.pkl"))),
        "storage|missing",
    ),
    "no state_dict": (
        a_dict(epoch=b"K\x03"),
        "tensors; its entries: 'epoch'.",
    ),
    "nothing": (b"}", "no state_dict of tensors; its entries: none."),
    "not a dict": (a_tensor(), "holds no dict of tensors"),
    "odd state_dict": (a_dict(state_dict=b"]"), "'state_dict' is not a dict"),
    "empty state_dict": (a_dict(state_dict=b"}"), "no state_dict"),
    "mixed": (
        a_dict(state_dict=a_dict(x=a_tensor(), lr=b"K\1", best=b"N")),
        "2 entries that are not tensors: 'lr', 'best'",
    ),
    "number as name": (b"}(K\1" + a_tensor() + b"u", "not tensors: 1"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_object_is_refused_with_one_line(make, case):
    opcodes, part = HOSTILE[case]
    message = message_of(make(opcodes))
    assert any(option in message for option in part.split("|")), message
    assert len(message) < 500


def test_huge_memo_index_takes_no_memory(make):
    opcodes = a_dict(x=a_tensor()) + b"r\xff\xff\xff\xff"
    assert_same(read_torch_file(make(opcodes)), {"x": FLOATS})


def test_stride_of_a_single_element_counts_for_nothing(make):
    opcodes = a_dict(x=a_tensor(0, (1, 6), (1 << 62, 1)))
    assert_same(read_torch_file(make(opcodes)), {"x": FLOATS[None]})


def test_dict_that_holds_itself_ends(make):
    message = message_of(make(b"}q\x00" + text("state_dict") + b"h\x00s"))
    assert "no state_dict" in message


def test_lying_storage_allocates_nothing(make):
    import tracemalloc

    path = make(a_dict(x=a_tensor(storage=a_storage(count=1 << 40))))
    tracemalloc.start()
    message_of(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "changes, part",
    (
        ({"facts": {"little_endian": False}}, "big-endian, which is not read"),
        ({"facts": {}}, "does not tell the byte order"),
        ({"keys": ("0", "0")}, "list of storages"),
        ({"keys": ()}, "list of storages"),
        ({"keys": ("0", "1")}, "list of storages"),
        ({"keys": (0,)}, "list of storages"),
        ({"count": 5}, "storage '0' has 5 elements"),
        ({"count": -1}, "storage '0' has -1 elements"),
        ({"count": (1 << 63) - 1}, "storage '0' has 9223372036854775807 elements"),
    ),
)
def test_legacy_stream_that_contradicts_itself_is_refused(changes, part, tmp_path):
    path = tmp_path / "made.pth"
    path.write_bytes(b"".join(legacy_parts(a_dict(x=a_tensor()), **changes)))
    assert part in message_of(path)


def test_legacy_stream_with_other_numbers_is_refused(tmp_path):
    parts = legacy_parts(a_dict(x=a_tensor()))
    path = tmp_path / "made.pth"
    path.write_bytes(b"".join(parts) + b"?")
    assert "1 bytes too long" in message_of(path)
    path.write_bytes(b"".join([parts[0], pickle.dumps(1002, 2), *parts[2:]]))
    assert "its protocol version is not 1001" in message_of(path)
    path.write_bytes(pickle.dumps({"x": [1.0, 2.0]}, 2))
    assert "a pickle, but not of torch.save" in message_of(path)


# --- hostile archives ----------------------------------------------------------------

OBJECT = ("m/data.pkl", b"\x80\x02" + a_dict(x=a_tensor()) + b".")
DATA = ("m/data/0", FLOATS.tobytes())


@pytest.mark.parametrize(
    "members, part",
    (
        ([("x.npy", b"")], "not of torch.save"),
        ([("../data.pkl", OBJECT[1])], "'data/0' is missing"),
        ([OBJECT, DATA, ("n/data.pkl", OBJECT[1])], "not of torch.save"),
        ([OBJECT], "'data/0' is missing"),
        ([OBJECT, ("m/data/0", b"\0" * 23)], "storage '0' has 23 bytes"),
        ([OBJECT, DATA, ("m/byteorder", b"big")], "big-endian, which is not read"),
        ([OBJECT, DATA, ("m/constants.pkl", b"")], "a TorchScript archive"),
        ([OBJECT, DATA, ("m/code/__torch__.py", b"")], "a TorchScript archive"),
    ),
)
def test_archive_of_other_members_is_refused(members, part, tmp_path):
    write_zip(tmp_path / "made.pth", members)
    assert part in message_of(tmp_path / "made.pth")


def test_archive_with_a_name_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(tmp_path / "made.pth", [OBJECT, DATA, DATA])
    assert "a name stands twice" in message_of(tmp_path / "made.pth")


def test_archive_that_unpacks_to_much_is_refused(tmp_path):
    bomb = ("m/data/0", bytes(50_000_000))
    write_zip(tmp_path / "made.pth", [OBJECT, bomb], zipfile.ZIP_DEFLATED)
    assert "compressed or encrypted" in message_of(tmp_path / "made.pth")


def test_archive_with_a_changed_weight_is_refused(tmp_path):
    path = tmp_path / "made.pth"
    write_zip(path, [OBJECT, DATA])
    content = bytearray(path.read_bytes())
    content[content.index(FLOATS.tobytes()) + 6] ^= 1
    path.write_bytes(content)
    assert "its member 'm/data/0' is damaged (wrong CRC)" in message_of(path)


def test_archive_member_with_dots_is_only_a_name(tmp_path):
    storage = a_storage(key="../../../outside")
    pickled = b"\x80\x02" + a_dict(x=a_tensor(storage=storage)) + b"."
    inside = tmp_path / "a" / "b" / "made.pth"
    inside.parent.mkdir(parents=True)
    members = [("m/data.pkl", pickled), ("m/data/../../../outside", DATA[1])]
    write_zip(inside, members)
    assert_same(read_torch_file(inside), {"x": FLOATS})
    found = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert found == [inside]


# --- files of other kinds ------------------------------------------------------------


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, part",
    (
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "looks like a web page"),
        (b"\xef\xbb\xbf \n<HTML>", "looks like a web page"),
        (b'{"error": "quota exceeded"}', "text, not weights (it begins with"),
        (b"hello", "text, not weights"),
        (b"class,value\n1,2\n", "text, not weights"),
        ("Größe".encode(), "text, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "compressed with gzip"),
        (tar_bytes(), "a tar archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "cut off or damaged"),
        (b"PK\x03\x04" + bytes(50), "a zip archive cut off or damaged"),
        (bytes(1000), "cut off or damaged"),
    ),
)
def test_file_of_another_kind_is_named(content, part, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert part in message_of(path)


def test_missing_file_and_folder_are_named(tmp_path):
    assert "there is no such file" in message_of(tmp_path / "none.pth")
    assert "not a file" in message_of(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a file" in message_of(tmp_path / "pipe.pth")


# --- damage --------------------------------------------------------------------------

SMALL = OrderedDict(w=FLOATS.reshape(2, 3), n=np.array(7, np.int64))


@pytest.fixture
def small(layout, tmp_path):
    path = tmp_path / "small.pth"
    write_torch_file(path, SMALL, layout)
    return path


def test_file_cut_at_any_byte_is_refused(small):
    content = small.read_bytes()
    assert_same(read_torch_file(small), SMALL)
    for length in range(len(content)):
        small.write_bytes(content[:length])
        message_of(small)


def test_thousands_of_damaged_files_give_arrays_or_one_line(small, monkeypatch):
    content = small.read_bytes()
    source = random.Random(0)
    refused = 0
    for _ in range(2500):
        damaged = bytearray(content)
        for _ in range(source.choice((1, 1, 2, 5))):
            place = source.randrange(len(damaged))
            kind = source.random()
            if kind < 0.6:
                damaged[place] = source.randrange(256)
            elif kind < 0.8:
                del damaged[place : place + source.randrange(1, 9)]
            else:
                damaged[place:place] = source.randbytes(source.randrange(1, 9))
        small.write_bytes(damaged)
        try:
            arrays = read_torch_file(small)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{small}: ")
            assert "\n" not in str(error)
        else:
            for array in arrays.values():
                array.sum()  # touches every byte
    assert 500 < refused < 2500


def test_modules_never_import_what_runs_pickles():
    for module in (torch_file, torch_pickle):
        lines = pathlib.Path(module.__file__).read_text(encoding="utf-8").splitlines()
        assert not [
            line
            for line in lines
            if re.match(r"\s*(import|from) (pickle|torch|cPickle|dill)\b", line)
            or "allow_pickle=True" in line
        ]


def test_disk_of_another_make_are_not_called_damaged(make):
    strange = (
        items(text("module"), b"N", b"N", b"N", b"N") + b"Q",
        a_tensor()[:-2] + b"}" + text("neg") + b"\x88stR",
        HOOKS + STATE + b"b",
        a_tensor() + STATE + b"b",
        b"ctorch\nFloatStorage\n)R",
        a_tensor() + b"K\1a",
        a_tensor() + b"NNs",
    )
    for opcodes in strange:
        message = message_of(make(a_dict(x=opcodes, y=a_tensor())))
        assert "is not as torch.save writes it for tensors" in message
        assert "damaged" not in message and "Fetch" not in message


def test_names_that_are_left_unevaluated_are_few_and_call_nothing():
    modules = {name.rpartition(".")[0] for name in torch_pickle._UNEVALUATED}
    assert modules == {
        *("numpy", "numpy.core.multiarray", "numpy._core.multiarray"),
        *("numpy.core.numeric", "numpy._core.numeric"),
        *("_codecs", "collections", "builtins", "__builtin__", "torch"),
    }
    assert len(torch_pickle._UNEVALUATED) < 50
    for harmful in ("eval", "exec", "getattr", "__import__", "open", "compile", "map"):
        assert f"builtins.{harmful}" not in torch_pickle._UNEVALUATED
