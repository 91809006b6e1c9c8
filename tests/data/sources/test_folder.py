"""Any folder of images."""

import pytest
from PIL import Image

from soka_tf.data.sources import folder
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
