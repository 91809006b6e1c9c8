"""A folder of checkpoints: found, saved and deleted by exact names only."""

import os

import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.runs import checkpoint_folder
from soka_tf.runs.checkpoint_folder import CheckpointFolder, readable


def folder_at(path, keep=2):
    variable = tf.Variable(0.0)
    return CheckpointFolder(str(path), tf.train.Checkpoint(value=variable), keep)


def names(path):
    return sorted(p.name for p in path.iterdir())


def files_of(*steps):
    parts = ("data-00000-of-00001", "index")
    return [f"ckpt-{step}.{part}" for step in steps for part in parts]


def value_in(prefix):
    return tf.train.load_checkpoint(prefix).get_tensor(
        "value/.ATTRIBUTES/VARIABLE_VALUE"
    )


def save(folder, step):
    folder.checkpoint.value.assign(float(step))
    folder.save(step)


@pytest.mark.parametrize("name", ["run", "run[1]", "h?", "a*b", "{a,b}", "a b\n", "ü"])
def test_names_that_are_patterns_are_names(tmp_path, name):
    others = [tmp_path / other for other in ("run1", "hx", "axb", "a", "b")]
    for other in others:
        save(folder_at(other), 1)
    folder = folder_at(tmp_path / name)
    for step in (1, 2, 10):
        save(folder, step)
    assert folder.steps() == [2, 10]
    assert names(tmp_path / name) == sorted(files_of(10, 2))
    again = folder_at(tmp_path / name)
    with readable(again.last()) as prefix:
        again.checkpoint.read(prefix).assert_consumed()
    assert again.checkpoint.value.numpy() == 10.0
    for other in others:
        assert names(other) == files_of(1)


@pytest.mark.parametrize(
    "words", [b"", b"\xff\x00", b'all_model_checkpoint_paths: "{elsewhere}/*"\n']
)
def test_the_bookkeeping_of_tensorflow_is_not_believed(tmp_path, words):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.index").write_text("mine")
    folder = folder_at(tmp_path / "run", keep=1)
    save(folder, 3)
    words = words.replace(b"{elsewhere}", str(elsewhere).encode())
    (tmp_path / "run" / "checkpoint").write_bytes(words)
    assert folder_at(tmp_path / "run").last() == folder.prefix(3)
    save(folder, 4)
    assert folder.steps() == [4] and names(elsewhere) == ["thesis.index"]
    assert (tmp_path / "run" / "checkpoint").read_bytes() == words


def test_folder_of_nothing_has_no_checkpoint(tmp_path):
    for path in (tmp_path, tmp_path / "not there"):
        folder = CheckpointFolder(str(path))
        assert folder.steps() == [] and folder.last() is None
        assert folder.remove_leftovers() == []
        folder.refuse_fragments()


@pytest.mark.parametrize("moment", ["written", "data moved"])
def test_save_that_is_killed_leaves_no_checkpoint(tmp_path, moment, monkeypatch):
    folder = folder_at(tmp_path)
    save(folder, 1)
    real = os.replace

    def killed(source, target):
        if moment == "written" or target.endswith(".index"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(folder, 2)
    monkeypatch.setattr(os, "replace", real)
    assert folder.steps() == [1] and value_in(folder.last()) == 1.0
    folder.refuse_fragments()
    data = ["ckpt-2.data-00000-of-00001"] if moment == "data moved" else []
    assert folder.remove_leftovers() == [*data, "ckpt-2_temp"]
    assert names(tmp_path) == files_of(1)
    save(folder, 2)
    assert folder.steps() == [1, 2]


def test_files_are_flushed_before_they_are_in_place(tmp_path, monkeypatch):
    done = []
    folder = folder_at(tmp_path)
    monkeypatch.setattr(checkpoint_folder, "flush", lambda path: done.append(path))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(b), real(a, b)))
    save(folder, 5)
    written = [str(tmp_path / "ckpt-5_temp" / name) for name in files_of(5)]
    placed = [str(tmp_path / name) for name in files_of(5)]
    assert done == [*written, *placed, str(tmp_path)]


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    folder = folder_at(tmp_path)
    save(folder, 4)
    (tmp_path / "ckpt-6_temp").mkdir()
    (tmp_path / "ckpt-6_temp" / "part-00000").write_bytes(b"1")
    left = ["checkpoint.tmp12", "ckpt-6.data-00000-of-00001"]
    for name in (*left, "ckpt-8.index", "ckpt-007.index", "notes.txt"):
        (tmp_path / name).write_bytes(b"1")
    assert folder.remove_leftovers() == [*left, "ckpt-6_temp"]
    kept = ["ckpt-8.index", "ckpt-007.index", "notes.txt"]
    assert names(tmp_path) == sorted([*files_of(4), *kept])


def test_folder_that_was_robbed_of_its_data_stops_the_run(tmp_path):
    folder = folder_at(tmp_path)
    save(folder, 3)
    data = tmp_path / "ckpt-3.data-00000-of-00001"
    content = data.read_bytes()
    data.unlink()
    with pytest.raises(UserError, match="ckpt-3.index: its data files are not beside"):
        folder.refuse_fragments()
    assert names(tmp_path) == ["ckpt-3.index"]
    data.write_bytes(content)
    folder.refuse_fragments()
    assert folder.steps() == [3]


@pytest.mark.parametrize("dangling", [False, True])
def test_what_is_no_folder_is_refused_before_training(tmp_path, dangling):
    path = tmp_path / "checkpoints"
    if dangling:
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    with pytest.raises(UserError, match="checkpoints: not a folder"):
        folder_at(path).refuse_fragments()
