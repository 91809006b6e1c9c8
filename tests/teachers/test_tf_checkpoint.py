"""TensorFlow checkpoints, read in a process of its own: exactly, or one error."""

import os

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.teachers import tf_checkpoint
from soka_tf.teachers.taskonomy.taskbank import checkpoint_files
from soka_tf.teachers.tf_checkpoint import read_checkpoint

VALUES = {
    "encoder/conv1/weights": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "encoder/conv1/weights/Adam": np.zeros(24, np.float32),
    "double": np.array([1e300, -0.0]),
    "global_step": np.int64(200_000),
    "none": np.zeros((0, 3), np.float32),
    "text": np.array([b"one", b""]),
}


def save(prefix, values):
    names = sorted(values)
    prefix.parent.mkdir(exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.convert_to_tensor(values[name]) for name in names],
    )
    return str(prefix)


def assert_refused(prefix, *words):
    with pytest.raises(UserError) as error:
        read_checkpoint(prefix, checkpoint_files(prefix))
    message = str(error.value)
    assert message.startswith(f"{prefix}: cannot be read")
    assert message.isprintable() and len(message) < 1000
    for word in words:
        assert word in message


def test_variables_are_read_bit_for_bit_without_slots_from_any_path(
    tmp_path, monkeypatch
):
    # Patterns to TensorFlow, and a package to whoever looks into the folder first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise ImportError('of another numpy')\n")
    saved = save(tmp_path / "model", VALUES)
    folder = tmp_path / "[a]*?{b} c"
    folder.mkdir()
    for file in checkpoint_files(saved):
        os.rename(file, folder / os.path.basename(file))
    prefix = "[a]*?{b} c//model"
    arrays = read_checkpoint(prefix, checkpoint_files(prefix))
    assert set(arrays) == set(VALUES) - {"encoder/conv1/weights/Adam"}
    for name, array in arrays.items():
        assert array.shape == VALUES[name].shape
        assert array.tobytes() == VALUES[name].tobytes(), name


def test_byte_that_flipped_is_refused_by_the_variable(tmp_path):
    prefix = save(tmp_path / "model", {"kernel": np.ones(100, np.float32)})
    (data,) = checkpoint_files(prefix)[1:]
    with open(data, "r+b") as file:
        file.seek(50)
        file.write(b"\xff")
    assert_refused(prefix, "kernel: ", "Fetch it again")


@pytest.mark.parametrize("share", [0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_index_of_something_else_or_cut_off_is_refused(tmp_path, share):
    prefix = save(tmp_path / "model", VALUES)
    with open(f"{prefix}.index", "r+b") as file:
        content = file.read()
        file.seek(0)
        file.truncate()
        file.write(content[: int(len(content) * share)] or b"<!DOCTYPE html>\n")
    assert_refused(prefix, "index: ")


def checksum(data, folder):
    """The masked CRC-32C, with which a record of TensorFlow ends, too."""
    path = str(folder / "record")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(data)
    with open(path, "rb") as file:
        return file.read()[-4:]


def test_index_that_lies_about_a_shape_ends_another_process_than_this(tmp_path):
    shape = tf.constant([1 << 40, 0, 1 << 40], tf.int64)
    prefix = save(tmp_path / "model", {"kernel": tf.fill(shape, 1.0)})
    with open(f"{prefix}.index", "r+b") as file:
        content = file.read()
        end = content.index(b"\0\0\0\0\1\0\0\0\0") + 9  # of the first block
        assert content[end : end + 4] == checksum(content[:end], tmp_path)
        # In place of 0 and 2**40, one dimension of 2**49: their product is 2**89.
        block = content[:end].replace(
            b"\x12\x00\x12\x07\x08" + b"\x80" * 5 + b"\x20",
            b"\x12\x09\x08" + b"\x80" * 7 + b"\x01",
        )
        assert block != content[:end] and len(block) == end
        file.seek(0)
        file.write(block + checksum(block, tmp_path))
    assert_refused(prefix, "TensorFlow was ended by SIGABRT")


def test_process_that_does_not_end_is_ended(tmp_path, monkeypatch):
    prefix = save(tmp_path / "model", VALUES)
    monkeypatch.setattr(tf_checkpoint, "_CHILD", "import time; time.sleep(60) # {path}")
    monkeypatch.setattr(tf_checkpoint, "_TIMEOUT_S", 0.2)
    assert_refused(prefix, "had not read it after 0.2 s")
