"""Files of any file system that TensorFlow knows, shown with its in-memory one."""

import contextlib
import os
import zlib

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data import file_writing, filesystem, image_files, pipeline
from soka_tf.data.rooms import room_files
from soka_tf.data.sources import taskonomy
from soka_tf.data.sources.folder import find as find_images
from soka_tf.errors import UserError
from soka_tf.runs.run_evaluation import evaluate_run
from soka_tf.runs.training_loop import train
from soka_tf.tasks import get_targets


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    root = tmp_path_factory.mktemp("local")
    room_files.generate_rooms(
        folder=str(root),
        seed=3,
        rooms=2,
        views=2,
        size=16,
        domains=["rgb", "depth_zbuffer", "edge_texture"],
    )
    return root


@pytest.fixture(scope="module")
def remote(local):
    root = "ram://taskonomy"
    for folder, _, names in os.walk(local):
        below = os.path.relpath(folder, local)
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                file_writing.write_bytes(f"{root}/{below}/{name}", file.read())
    yield root
    tf.io.gfile.rmtree(root)


@pytest.fixture
def ram():
    """A folder in memory that is gone afterwards."""
    yield "ram://scratch"
    with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.rmtree("ram://scratch")


def test_remote_folder_has_the_samples_and_batches_of_the_local_one(local, remote):
    domains = ["depth_zbuffer", "edge_texture"]
    here, there = (taskonomy.find(root, domains) for root in (local, remote))
    assert [s.key for s in here] == [s.key for s in there]
    assert all(path.startswith(remote) for s in there for path in s.files.values())
    tasks, shown = get_targets(domains), pipeline.Batches(16, 4)
    batches = [
        next(iter(pipeline.labelled_dataset(samples, tasks, shown)))
        for samples in (here, there)
    ]
    tf.nest.map_structure(np.testing.assert_array_equal, *batches)
    assert [s.key for s in find_images(f"{remote}/rooms/rgb/")] == [
        s.key for s in find_images(local / "rooms" / "rgb")
    ]


@pytest.mark.usefixtures("fresh_gin")
def test_remote_folder_trains_a_step_and_is_evaluated(tiny, remote, tmp_path):
    run = tiny.build(
        tmp_path,
        "images_dir = None",
        f"taskonomy_dir = {remote!r}",
        "split.validation_fraction = 0.5",
        "build_data.check_files = True",
        "max_steps = 1",
    )
    train(run, str(tmp_path))
    assert run.model.step.numpy() == 1
    measured = evaluate_run(run, str(tmp_path))
    assert measured


def test_remote_image_damaged_or_gone_is_named_with_the_reason(ram):
    file_writing.write_bytes(f"{ram}/page.png", b"<!DOCTYPE html>")
    file_writing.write_bytes(f"{ram}/empty.png", b"")
    for name, reason in {
        "page.png": "it holds text, not an image",
        "empty.png": "the file is empty",
        "gone.png": "there is no such file",
    }.items():
        with pytest.raises(image_files.DamagedFile, match=f"{ram}/{name}: {reason}"):
            image_files.read_pixels(f"{ram}/{name}", "rgb")


@pytest.mark.parametrize("find", [find_images, lambda p: _samples(p)])
def test_remote_folder_that_is_not_there_or_unknown_is_a_user_error(find, ram):
    with pytest.raises(UserError, match="There is no .*folder 'ram://nothing'"):
        find("ram://nothing")
    message = "nosuch://bucket/a: .* no file system for nosuch://"
    with pytest.raises(UserError, match=message):
        find("nosuch://bucket/a")


def _samples(path):
    return taskonomy.find(path, ["normal"])


def test_remote_hidden_folders_are_not_entered(ram):
    for name in ("a.png", ".b/c.png", "d/e.png", "d/.f.png"):
        file_writing.write_bytes(f"{ram}/{name}", b"x")
    assert [s.key for s in find_images(ram)] == ["a", "d/e"]


def test_part_of_a_file_is_read_as_a_file_and_checked(tmp_path, ram):
    for root in (str(tmp_path), ram):
        path = f"{root}/a.tfrecord"
        file_writing.write_bytes(path, b"0123456789")
        part = filesystem.Part(path, 3, 4, zlib.crc32(b"3456"), "b/c.png")
        assert filesystem.parse_part(str(part)) == part
        assert filesystem.read_bytes(str(part)) == b"3456"
        assert filesystem.size(str(part)) == 4 and filesystem.exists(str(part))
        for wrong in (part._replace(offset=4), part._replace(offset=8)):
            with pytest.raises(
                filesystem.ChangedPart, match="not those that were written"
            ):
                filesystem.read_bytes(str(wrong))
        gone = part._replace(file=f"{root}/gone.tfrecord")
        assert not filesystem.exists(str(gone))
    assert filesystem.parse_part(path) is None


def test_written_bytes_replace_a_file_whole_or_not_at_all(tmp_path, ram, monkeypatch):
    for root in (str(tmp_path), ram):
        path = f"{root}/folder/a"
        file_writing.write_bytes(path, b"old")
        with monkeypatch.context() as patch:

            def full(old, new):
                raise OSError(28, "No space left on device", new)

            patch.setattr(file_writing, "replace", full)
            with pytest.raises(OSError, match="No space"):
                file_writing.write_bytes(path, b"new")
        assert filesystem.read_bytes(path) == b"old"
        assert filesystem.names(f"{root}/folder") == ["a"]
