"""Shards are whole or not there, and a hostile index is one that is not whole."""

import json
import os
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from soka_tf.data import documents, file_writing, filesystem, shard_store
from soka_tf.errors import UserError

CONTENTS = [b"one", b"", bytes(range(256)) * 9]


def rows(index):
    for key, *place in index["parts"]:
        yield key, place


def write(folder, name="a.tfrecord", contents=CONTENTS):
    with shard_store.ShardWriter(str(folder)) as writer:
        parts = []
        for number, content in enumerate(contents):
            record = shard_store.example(
                {"content": content, "number": bytes([number])}
            )
            parts.append([number, *writer.add(record, content), f"{number}.png"])
        return writer.finish(name, {"parts": parts})


@pytest.mark.parametrize("remote", [False, True])
def test_shard_parts_are_what_was_written_and_records_those_of_tensorflow(
    tmp_path, remote
):
    folder = "ram://store" if remote else str(tmp_path)
    try:
        shard = write(folder)
        index, parts = shard_store.read_index(shard, rows, whole=True)
        assert [filesystem.read_part(part) for _, part in parts] == CONTENTS
        assert [(key, part.name) for key, part in parts][2] == (2, "2.png")
        found = list(tf.data.TFRecordDataset(shard).as_numpy_iterator())
        assert found[1] == shard_store.example({"content": b"", "number": b"\1"})
        size = shard_store.example_bytes({"content": CONTENTS[2], "number": b"\2"})
        assert size == 12 + len(found[2]) + 4
        assert index["bytes"] == sum(12 + len(record) + 4 for record in found)
        assert filesystem.names(folder) == ["a.json", "a.tfrecord"]
    finally:
        if remote:
            tf.io.gfile.rmtree(folder)


def test_shard_that_is_not_finished_leaves_the_one_before(tmp_path):
    shard = write(tmp_path)
    with (
        pytest.raises(KeyboardInterrupt),
        shard_store.ShardWriter(str(tmp_path)) as writer,
    ):
        writer.add(b"new")
        raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.tfrecord"]
    assert shard_store.read_index(shard, rows, whole=True) is not None


def test_killed_writer_costs_its_shard_and_what_it_leaves_is_removed(tmp_path):
    write(tmp_path)
    for name in ("a.tmp", "a.tfrecord.tmp.png", ".tfrecord.tmp"):  # somebody else's
        (tmp_path / name).write_bytes(b"kept")
    kept = sorted(os.listdir(tmp_path))
    child = (
        "import os\n"
        "from soka_tf.data import shard_store\n"
        f"writer = shard_store.ShardWriter({str(tmp_path)!r})\n"
        "writer.add(b'half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", child], timeout=120)
    assert done.returncode == -signal.SIGKILL
    # What earlier versions left, and a kill between a shard and its index.
    (tmp_path / "7.tfrecord.tmp").write_bytes(b"")
    (tmp_path / "manifest.json.7.tmp").write_bytes(b"")
    (tmp_path / "b.tfrecord").write_bytes(b"no index")
    assert len(os.listdir(tmp_path)) == len(kept) + 4
    parts, damaged = shard_store.read_shards(str(tmp_path), rows)
    assert sorted(parts) == [0, 1, 2] and damaged == ["b.tfrecord"]
    shard_store.remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "b.tfrecord"])


def test_flipped_byte_or_another_length_is_not_whole(tmp_path):
    shard = write(tmp_path)
    _, parts = shard_store.read_index(shard, rows)
    with open(shard, "r+b") as file:
        file.seek(parts[2][1].offset)
        file.write(b"\xff")
    assert shard_store.read_index(shard, rows) is not None
    assert shard_store.read_index(shard, rows, whole=True) is None
    with open(shard, "ab") as file:
        file.write(b"x")
    assert shard_store.read_index(shard, rows) is None


@pytest.mark.parametrize(
    "place, value",
    [
        (1, -1),
        (1, 1 << 63),
        (1, 40.0),
        (1, True),
        (2, 1 << 40),
        (2, -5),
        (3, "0f3a9b1c"),
        (3, 1 << 32),
        (4, "/../../secret.png"),
        (4, None),
    ],
)
def test_index_that_names_other_bytes_than_its_shards_is_damaged(
    tmp_path, place, value
):
    shard = write(tmp_path)
    index = documents.load_json(shard_store.index_of(shard), {}, 1 << 20)
    index["parts"][0][place] = value
    file_writing.write_bytes(shard_store.index_of(shard), json.dumps(index).encode())
    assert shard_store.read_index(shard, rows) is None
    assert shard_store.read_shards(str(tmp_path), rows) == ({}, ["a.tfrecord"])


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"7", b'{"bytes": "x"}', b"[" * 10**4, b"\xff", b"9" * 5000]
    + [b'{"bytes": %d, "parts": ' + parts for parts in (b"7}", b"[[]]}", b"[7]}")],
)
def test_index_of_anything_else_is_damaged(tmp_path, content):
    shard = write(tmp_path)
    if b"%d" in content:
        content %= os.path.getsize(shard)
    file_writing.write_bytes(shard_store.index_of(shard), content)
    assert shard_store.read_index(shard, rows) is None


def test_index_too_large_for_its_shard_is_not_read(tmp_path):
    shard = write(tmp_path)
    os.truncate(shard_store.index_of(shard), 1 << 40)  # of no byte on the disk
    assert shard_store.read_index(shard, rows) is None
    with pytest.raises(ValueError, match="1099511627776 bytes, more than the 1048576"):
        documents.load_json(shard_store.index_of(shard), {}, 1 << 20)


def test_room_that_is_missing_is_refused_and_a_margin_kept(tmp_path, monkeypatch):
    room = shard_store.DISK_MARGIN + 10
    monkeypatch.setattr(file_writing, "free_bytes", lambda folder: room)
    shard_store.check_room("x", 10, "10 files", "Make room.")
    message = "10 files: 11 bytes more than there is room for.* 256.0 MiB must .*room.$"
    with pytest.raises(UserError, match=message):
        shard_store.check_room("x", 11, "10 files", "Make room.")
    room = 0
    shard_store.check_room("x", 0, "nothing", "")
    room = None  # nobody knows it of a remote folder
    shard_store.check_room("x", 1 << 60, "", "")


def test_refused_write_names_folder_and_remedy(tmp_path, monkeypatch):
    def write(self, record):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left")

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", write)
    message = f"{tmp_path}: the shards cannot be written .No space left.*Make room.$"
    with pytest.raises(UserError, match=message):
        with shard_store.writing(str(tmp_path), "the shards", "Make room."):
            with shard_store.ShardWriter(str(tmp_path)) as writer:
                writer.add(b"record")
    assert not os.listdir(tmp_path)
