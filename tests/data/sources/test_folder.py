"""Any folder of images."""

import os

import pytest
from PIL import Image

from soka_tf.data import service
from soka_tf.data.samples import drop_damaged, split_samples
from soka_tf.data.sources import folder, records
from soka_tf.errors import UserError


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path, format="PNG")


def test_find_nested_folders_gives_relative_keys_sorted(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/b.webp", "notes.txt", "no_suffix"):
        _touch(tmp_path / name)
    samples = folder.find(tmp_path)
    assert [s.key for s in samples] == ["a/b", "a/c", "b"]
    assert samples[2].files == {"rgb": str(tmp_path / "b.png")}
    assert samples[2].point == "b"


def test_find_hidden_files_and_folders_are_passed_over(tmp_path):
    for name in ("a.png", "._a.png", ".thumbs/a.png", ".hidden.png"):
        _touch(tmp_path / name)
    assert [s.key for s in folder.find(tmp_path)] == ["a"]


def test_find_same_stem_twice_keeps_keys_unique(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        _touch(tmp_path / name)
    assert [s.key for s in folder.find(tmp_path)] == ["a.jpg", "a.png", "b"]


def test_find_folder_named_like_an_image_is_searched(tmp_path):
    _touch(tmp_path / "x.png" / "y.png")
    assert [s.key for s in folder.find(tmp_path)] == ["x.png/y"]


def test_find_single_file_is_one_sample(tmp_path):
    _touch(tmp_path / "photo.jpeg")
    (sample,) = folder.find(str(tmp_path / "photo.jpeg"))
    assert sample.key == "photo"
    assert sample.files["rgb"] == str(tmp_path / "photo.jpeg")


def test_find_nothing_there_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match="no image in .*Looked for .png .jpg"):
        folder.find(tmp_path)
    with pytest.raises(UserError, match="no file or folder .*absent"):
        folder.find(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="notes.txt.* is not an image. Allowed: .png"):
        folder.find(tmp_path / "notes.txt")


def test_find_images_of_kinds_not_read_are_counted_in_one_warning(tmp_path, caplog):
    for name in ("a.png", "b.HEIC", "c/d.heic", "e.avif", ".f.avif", "notes.txt"):
        _touch(tmp_path / name)
    assert [s.key for s in folder.find(tmp_path)] == ["a"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: left out 3 files of kinds that are not read: .heic (2), "
        ".avif (1); convert to PNG or JPEG."
    )
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"no image in .*It has 3 files.*\.heic \(2\)"):
        folder.find(tmp_path)
    with pytest.raises(UserError, match="not an image.*It is a file of a kind that is"):
        folder.find(tmp_path / "b.HEIC")


def test_find_names_that_are_no_utf8_are_split_packed_and_found(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    for one in (name, "b.png"):
        _touch(tmp_path / "in" / one)
    samples = folder.find(tmp_path / "in")
    path = str(tmp_path / "split.json")
    train, validation = split_samples(samples, 0.5, path=path)
    assert split_samples(samples, 0.5, path=path) == (train, validation)
    records.write_records(samples, str(tmp_path / "out"), "photos")
    packed = records.find(str(tmp_path / "out"), [])
    assert [s.key for s in packed] == [s.key for s in samples]
    assert packed[1].read("rgb").shape == (2, 2, 3)


def test_find_pipe_named_like_an_image_is_told_by_who_reads_it(tmp_path):
    _touch(tmp_path / "b.png")
    os.mkfifo(tmp_path / "a.png")
    samples = folder.find(tmp_path)
    good, damaged = drop_damaged(samples, [])
    assert [s.key for s in good] == ["b"]
    assert damaged == {str(tmp_path / "a.png"): "it is a named pipe"}
    paths = [sample.files["rgb"] for sample in samples]
    with pytest.raises(UserError, match="a.png: not a regular file"):
        service._check_service("grpc://host:1", paths)
