"""The index of a checkpoint read without TensorFlow, which would end the process.

Only indices that TensorFlow wrote are shown to TensorFlow here.
"""

import os
import random
import struct

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.teachers import checkpoint_index
from soka_tf.teachers.checkpoint_index import read_index

NAME = b"encoder/conv1/weights"
SHAPE = (7, 7, 3, 64)
SIZE = 4 * 7 * 7 * 3 * 64
VALUES = {
    "scalar": np.float32(1),
    "global_step": np.int64(7),
    "half": np.ones((2, 3), np.float16),
    "double": np.ones((1, 2, 3, 4), np.float64),
    "brain": tf.ones((5,), tf.bfloat16),
    "flags": np.ones((3, 1), bool),
    "bytes": np.ones((3,), np.uint8),
    "shorts": np.ones((3,), np.uint16),
    "complex": np.ones((3,), np.complex64),
    "complexer": np.ones((3,), np.complex128),
    "words": np.array([["a", "bc"], ["", "d" * 300]], object),
    "word": np.array("x", object),
    "nothing": np.zeros((0, 4), np.float32),
    "no_words": np.zeros((0,), object),
    "eight": np.ones((1, 2, 1, 2, 1, 2, 1, 2), np.int32),
    "\u00e9tage/weights": np.ones((2,), np.float32),
}


def save(prefix, values):
    names = list(values)
    tensors = [tf.convert_to_tensor(value) for value in values.values()]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=tensors,
    )


def assert_as_tensorflow_reads(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    entries = read_index(str(prefix))
    shapes = {name: list(entry.shape) for name, entry in entries.items()}
    dtypes = {name: tf.as_dtype(entry.dtype) for name, entry in entries.items()}
    assert shapes == reader.get_variable_to_shape_map()
    assert dtypes == reader.get_variable_to_dtype_map()
    assert list(entries) == sorted(entries, key=str.encode)
    return entries


def refuse(prefix, *texts):
    with pytest.raises(UserError) as caught:
        read_index(str(prefix))
    message = str(caught.value)
    assert message.startswith(f"{prefix}.index: ")
    assert message.isprintable()
    for text in texts:
        assert text in message


# A writer of tables and messages: TensorFlow's own never writes what is to be refused.


def varint(number):
    number %= 2**64
    out = b""
    while number >= 128:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(8 * number) + varint(value)
    return varint(8 * number + 2) + varint(len(value)) + value


def entry(shape=SHAPE, dtype=1, size=SIZE, offset=0, shard=0, more=b"", unknown=0):
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    parts = [field(1, dtype), field(2, dims + field(3, unknown)), field(3, shard)]
    return b"".join(parts) + field(4, offset) + field(5, size) + more


def header(shards=1, more=b""):
    return field(1, shards) + more + field(3, field(1, 1))


def block(pairs, restarts=None):
    out, starts = b"", []
    for key, value in pairs:
        starts.append(len(out))
        out += varint(0) + varint(len(key)) + varint(len(value)) + key + value
    starts = (starts or [0]) if restarts is None else restarts
    return out + struct.pack(f"<{len(starts) + 1}I", *starts, len(starts))


def table(blocks, handles=None, last=b"\xff", compression=b"\0"):
    """Blocks of pairs, or of bytes as they are; the index block is made for them."""
    out = b""

    def put(content):
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        out += content + compression
        checksum = checkpoint_index._masked_crc32c(content + compression)
        out += struct.pack("<I", checksum)
        return handle

    placed = [put(b if isinstance(b, bytes) else block(b)) for b in blocks]
    meta = put(block([]))
    if handles is None:
        keys = [pairs[-1][0] for pairs in blocks[:-1]] + [last]
        handles = list(zip(keys, placed))
    index = put(block(handles))
    footer = (meta + index).ljust(40, b"\0")
    return out + footer + struct.pack("<Q", 0xDB4775248B80FB57)


@pytest.fixture
def prefix(tmp_path):
    """Of a checkpoint whose data file is there and large enough for one variable."""
    prefix = tmp_path / "model.permanent-ckpt"
    with_suffix(prefix, ".data-00000-of-00001").write_bytes(bytes(SIZE))
    return prefix


def with_suffix(prefix, suffix):
    return prefix.with_name(prefix.name + suffix)


def write(prefix, content):
    with_suffix(prefix, ".index").write_bytes(content)


def write_variables(prefix, variables, head=None):
    pairs = [(b"", header() if head is None else head), *sorted(variables.items())]
    write(prefix, table([pairs]))


# What TensorFlow writes.


def test_read_index_every_type_as_tensorflow_reads(tmp_path):
    save(tmp_path / "m", VALUES)
    entries = assert_as_tensorflow_reads(tmp_path / "m")
    assert entries["half"].size == 12
    assert entries["double"] == ("float64", (1, 2, 3, 4), 192)
    assert len(entries) == len(VALUES)


def test_read_index_several_data_blocks_as_tensorflow_reads(tmp_path):
    shared = "encoder/block/" * 8
    values = {f"{shared}{i}/weights": np.zeros(i % 3, np.int8) for i in range(9000)}
    save(tmp_path / "m", values)
    # TensorFlow begins a new block after 256 kB.
    assert os.path.getsize(tmp_path / "m.index") > 300_000
    assert len(assert_as_tensorflow_reads(tmp_path / "m")) == 9000


@pytest.mark.parametrize("sharded", [False, True])
def test_read_index_training_checkpoint_as_tensorflow_reads(tmp_path, sharded):
    v1 = tf.compat.v1
    config = v1.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), v1.Session(config=config) as session:
        step = v1.train.get_or_create_global_step()
        loss = 0.0
        for i, device in enumerate(["/cpu:0", "/cpu:1", "/cpu:0"]):
            with v1.variable_scope(f"encoder/conv{i}"), tf.device(device):
                weights = v1.get_variable(
                    "weights", (3, 3, i + 1, 4), use_resource=False
                )
                loss += tf.reduce_sum(weights**2)
        v1.train.AdamOptimizer().minimize(loss, global_step=step)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(sharded=sharded)
        prefix = saver.save(session, str(tmp_path / "model.permanent-ckpt"))
    entries = assert_as_tensorflow_reads(prefix)
    assert "encoder/conv1/weights/Adam_1" in entries
    assert ("beta1_power" in entries) and entries["global_step"].dtype == "int64"
    assert len(list(tmp_path.glob("*.data-*"))) == (3 if sharded else 1)


def test_read_index_tensorflow_2_checkpoint_as_tensorflow_reads(tmp_path):
    prefix = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0])).write(str(tmp_path / "m"))
    assert_as_tensorflow_reads(prefix)


def test_read_index_partitioned_variable_is_refused_by_name(tmp_path):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable(
            "fc/weights",
            (4, 3),
            partitioner=v1.fixed_size_partitioner(2),
            use_resource=False,
        )
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "m"))
    refuse(tmp_path / "m", "'fc/weights' is kept in slices", "without a partitioner")


# What only this file's writer writes.


def test_read_index_well_formed_table_is_read(prefix):
    write_variables(prefix, {NAME: entry(), b"step": entry((), 9, 8, offset=80)})
    assert read_index(str(prefix)) == {
        NAME.decode(): ("float32", SHAPE, SIZE),
        "step": ("int64", (), 8),
    }


def test_read_index_blocks_in_order_are_read(prefix):
    write(prefix, table([[(b"", header()), (b"a", entry())], [(b"b", entry())]]))
    assert list(read_index(str(prefix))) == ["a", "b"]


def test_read_index_unknown_fields_are_skipped(prefix):
    more = field(99, 5) + field(98, b"?") + varint(97 * 8 + 1) + bytes(8)
    more += varint(96 * 8 + 5) + bytes(4)
    write_variables(prefix, {NAME: entry(more=more)})
    assert read_index(str(prefix))[NAME.decode()].shape == SHAPE


def test_read_index_repeated_shape_is_merged_as_protocol_buffers_do(prefix):
    more = field(2, field(2, field(1, 2**40)))
    write_variables(prefix, {NAME: entry(more=more)})
    refuse(prefix, "2**31")


HOSTILE_ENTRIES = {
    "negative dimension": (entry((-7, 7, 3, 64)), "a dimension is negative"),
    "overflowing dimensions": (entry((2**62, 2**62), size=4), "above 2**31 - 1"),
    "overflowing product": (entry((2**31 - 1,) * 3 + (0,), size=0), "too large"),
    "unknown rank": (entry((), size=4, unknown=1), "its shape is unknown"),
    "300 dimensions": (entry((1,) * 300, size=4), "300 dimensions, 8 are read"),
    "offset in the file, end behind it": (entry(offset=1), "ends at byte 37633"),
    "offset far": (entry(offset=2**62), "a data file of 37632"),
    "negative offset": (entry(offset=-4), "a data file of 37632"),
    "size lies": (entry(size=2**62), "are not those of float32 [7, 7, 3, 64]"),
    "negative size": (entry(size=-SIZE), "are not those of float32"),
    "size of another type": (entry(dtype=14), "are not those of bfloat16"),
    "too many strings": (entry((SIZE + 1,), 7), "are not those of string"),
    "endless strings": (entry((2,), 7, size=2**63), "a data file of 37632"),
    "quantized": (entry(dtype=11), "number 11"),
    "resource": (entry(dtype=20), "number 20"),
    "variant": (entry(dtype=21), "number 21"),
    "unknown type": (entry(dtype=99), "number 99"),
    "type beyond 32 bits": (entry(dtype=2**32 + 1), "which is not read"),
    "reference type": (entry(dtype=101), "number 101"),
    "no type": (b"", "number 0"),
    "another shard": (entry(shard=1), "in shard 1 of 1"),
    "negative shard": (entry(shard=-1), "counted from 0"),
    "garbage": (b"\xff\xff\xff", "a number does not end"),
    "number of 11 bytes": (b"\x08" + b"\xff" * 11, "a number does not end"),
    "number beyond 64 bits": (b"\x08" + b"\xff" * 9 + b"\x7f", "does not end"),
    "group": (varint(8 * 9 + 3), "a field's tag is 75"),
    "field 0": (b"\0\0", "a field's tag is 0"),
    "text beyond the message": (b"\x12\x7f", "not inside its message"),
    "sliced": (entry(more=field(7, b"")), "is kept in slices"),
}


@pytest.mark.parametrize("kind", HOSTILE_ENTRIES)
def test_read_index_hostile_entry_is_refused(prefix, kind):
    value, text = HOSTILE_ENTRIES[kind]
    write_variables(prefix, {NAME: value})
    refuse(prefix, NAME.decode(), text)


@pytest.mark.parametrize("name", [b"bad\xff\xfe", b"bad\nname\x1b[31m", b"a\0b"])
def test_read_index_name_that_is_no_text_is_refused(prefix, name):
    write_variables(prefix, {name: entry()})
    refuse(prefix, "is no name of a variable", "Fetch it again")


HOSTILE_HEADERS = {
    "no shards": (b"", "0 shards"),
    "2**31 shards": (header(2**31 - 1), "2147483647 shards, 1 to 1000 are read"),
    "negative shards": (header(-1), "shards, 1 to 1000"),
    "garbage": (b"\xff\xff", "a number does not end"),
    "big-endian": (header(more=field(2, 1)), "big-endian"),
    "more shards": (header(2), "m.data-00000-of-00002 is missing"),
}


@pytest.mark.parametrize("kind", HOSTILE_HEADERS)
def test_read_index_hostile_header_is_refused(tmp_path, kind):
    head, text = HOSTILE_HEADERS[kind]
    write_variables(tmp_path / "m", {NAME: entry()}, head)
    refuse(tmp_path / "m", text, "Fetch it again")


PAIRS = [(b"", header()), (b"a", entry()), (b"b", entry())]
RAW = block(PAIRS)
SECOND = 3 + len(header())  # Where the second entry is.
HOSTILE_TABLES = {
    "empty": (b"", "does not end as one"),
    "html": (b"<!DOCTYPE html>\n" * 9, "does not end as one"),
    "magic alone": (table([PAIRS])[-8:], "does not end as one"),
    "no header": (table([PAIRS[1:]]), "the entry about the shards is missing"),
    "no entry": (table([b"\0\0\0\0\1\0\0\0"]), "no entries"),
    "no blocks": (table([PAIRS], handles=[]), "no entries"),
    "same name twice": (table([[*PAIRS, PAIRS[-1]]]), "names are not sorted"),
    "names descend": (table([[PAIRS[0], *PAIRS[:0:-1]]]), "names are not sorted"),
    "same block twice": (
        table([PAIRS], handles=[(b"c", varint(0) + varint(len(RAW)))] * 2),
        "blocks overlap",
    ),
    "key of the block too low": (table([PAIRS], last=b"a"), "blocks are not sorted"),
    "block beyond the file": (
        table([PAIRS], handles=[(b"c", varint(0) + varint(2**40))]),
        "a block is not inside the file",
    ),
    "block far away": (
        table([PAIRS], handles=[(b"c", varint(2**63) + varint(9))]),
        "a block is not inside the file",
    ),
    "handle cut": (table([PAIRS], handles=[(b"c", b"\x80")]), "does not end"),
    "snappy": (table([PAIRS], compression=b"\1"), "compressed"),
    "restart inside an entry": (table([block(PAIRS, [0, 2])]), "list of whole"),
    "restart far": (table([block(PAIRS, [0, 2**31])]), "list of whole"),
    "restarts descend": (table([block(PAIRS, [0, SECOND, 0])]), "list of whole"),
    "restart not at 0": (table([block(PAIRS, [SECOND])]), "list of whole"),
    "restarts beyond the block": (table([RAW[:-4] + b"\xff" * 4]), "no entries"),
    "no restarts": (table([RAW[:-4] + bytes(4)]), "no entries"),
    "tiny block": (table([b"\0\0\0"]), "a block is not inside the file"),
    "value ends in the restarts": (
        table([b"\0\0\1" + struct.pack("<2I", 0, 1)]),
        "an entry is not inside its block",
    ),
    "shares more than there is": (
        table([b"\5\0\0" + struct.pack("<2I", 0, 1)]),
        "an entry is not inside its block",
    ),
    "long name": (table([[*PAIRS, (b"c" * 513, entry())]]), "longer than 512 bytes"),
}


@pytest.mark.parametrize("kind", HOSTILE_TABLES)
def test_read_index_hostile_table_is_refused(prefix, kind):
    content, text = HOSTILE_TABLES[kind]
    write(prefix, content)
    refuse(prefix, text, "Fetch it again")


def test_read_index_key_between_wrong_blocks_is_refused(prefix):
    first, second = block(PAIRS[:2]), block(PAIRS[2:])
    handles = [
        (b"bb", varint(0) + varint(len(first))),
        (b"c", varint(len(first) + 5) + varint(len(second))),
    ]
    write(prefix, table([first, second], handles))
    refuse(prefix, "names are not sorted")


def test_read_index_huge_file_is_refused(prefix):
    write(prefix, b"")
    os.truncate(with_suffix(prefix, ".index"), 2**40)
    refuse(prefix, "larger than 2097152 bytes")


def test_read_index_missing_or_no_file_is_refused(tmp_path):
    refuse(tmp_path / "m", "there is no such file")
    (tmp_path / "m.index").mkdir()
    refuse(tmp_path / "m", "there is no such file")


def test_read_index_data_file_missing_is_refused(prefix):
    write_variables(prefix, {NAME: entry()})
    with_suffix(prefix, ".data-00000-of-00001").unlink()
    refuse(prefix, "model.permanent-ckpt.data-00000-of-00001 is missing")


@pytest.fixture
def small(tmp_path):
    values = {f"encoder/conv{i}/weights": np.ones((3, i)) for i in range(4)}
    save(tmp_path / "m", {**values, "word": np.array("x", object)})
    return tmp_path / "m", (tmp_path / "m.index").read_bytes()


def test_read_index_cut_anywhere_is_refused(small):
    prefix, content = small
    for length in range(len(content)):
        write(prefix, content[:length])
        refuse(prefix, "Fetch it again")


def test_read_index_flipped_byte_is_refused_but_where_nothing_is_read(small):
    prefix, content = small
    good, unseen = read_index(str(prefix)), 0
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        write(prefix, bytes(flipped))
        try:
            assert read_index(str(prefix)) == good
            unseen += 1
        except UserError:
            pass
    # The meta block (8 bytes and its checksum), its handle and the footer's padding.
    assert 13 < unseen <= 13 + 40


def test_read_index_flips_with_right_checksums_raise_nothing_else(prefix, monkeypatch):
    monkeypatch.setattr(checkpoint_index, "_masked_crc32c", lambda data: 0)
    content = table([PAIRS, [(b"c", entry((), 9, 8)), (b"d", entry((2, 3), 2, 48))]])
    write(prefix, content)
    assert len(read_index(str(prefix))) == 4
    draw = random.Random(0)
    refused = 0
    for _ in range(4000):
        flipped = bytearray(content)
        for _ in range(draw.choice([1, 1, 2, 5])):
            flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        write(prefix, bytes(flipped))
        try:
            read_index(str(prefix))
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{prefix}.index: ")
            assert str(error).isprintable()
    assert 1000 < refused < 4000
