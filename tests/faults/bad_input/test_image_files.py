"""Images and labels that are damaged, lie, or are no images: named with the reason."""

import os
import socket
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from soka_tf.data import image_files
from soka_tf.data.image_files import DamagedFile
from tests.data.test_image_files import png
from tests.tiny_runs import ROOT


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12"]
)
def test_read_pixels_damaged_exif_does_not_spoil_the_image(tmp_path, exif):
    path = tmp_path / "photo.png"
    Image.new("RGB", (6, 2), (1, 2, 3)).save(path, exif=exif)
    assert image_files.read_pixels(str(path), "rgb")[0, 0].tolist() == [1, 2, 3]


def test_read_pixels_label_beyond_sixteen_bits_is_refused(tmp_path):
    path = tmp_path / "depth.png"
    values = np.array([[0, 70000]], np.int32)
    Image.fromarray(values).save(path, format="TIFF")
    with pytest.raises(DamagedFile, match="do not fit 16 bits"):
        image_files.read_pixels(str(path), "depth_zbuffer")


def _truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def _bomb(path):
    path.write_bytes(png(30000, 30000, 8, 2, b""))


DAMAGES = {
    "truncated": (_truncated, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "html": (lambda path: path.write_text("<!DOCTYPE html><p>404"), "text, not an"),
    "lfs": (lambda path: path.write_text("version https://git-lfs\n"), "text, not"),
    "noise": (lambda path: path.write_bytes(b"\x01\x02" * 50), "not an image"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "absent": (lambda path: None, "no such file"),
    "bomb": (_bomb, "more pixels than are safe"),
    "zero_size": (lambda path: path.write_bytes(png(0, 4, 8, 2, b"")), "damaged|not"),
    "header_only": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "damaged|not"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_read_pixels_damaged_file_is_named_with_the_reason(tmp_path, kind):
    damage, reason = DAMAGES[kind]
    path = tmp_path / "point_0_view_0_domain_rgb.png"
    damage(path)
    with pytest.raises(DamagedFile, match=reason) as caught:
        image_files.read_pixels(str(path), "rgb")
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def _floating_point(path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(path, format="TIFF")


IN_MEMORY = {k: d for k, (d, _) in DAMAGES.items() if k not in ("folder", "absent")}
IN_MEMORY["floating_point"] = _floating_point


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_rgb_of_bytes_refuses_what_read_pixels_refuses_for_the_same_reason(
    tmp_path, kind
):
    path = tmp_path / "image.png"
    IN_MEMORY[kind](path)
    with pytest.raises(DamagedFile) as of_file:
        image_files.read_pixels(str(path), "rgb")
    with pytest.raises(ValueError) as of_bytes:
        image_files.rgb_of_bytes(path.read_bytes(), 10**12)
    assert str(of_bytes.value) == of_file.value.reason


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_read_pixels_bomb_that_pillow_only_warns_of_is_refused(tmp_path, action):
    path = tmp_path / "image.png"
    path.write_bytes(png(10000, 10000, 8, 2, b""))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(DamagedFile, match="more.* than .*are safe to open"):
            image_files.read_pixels(str(path), "rgb")


def test_read_pixels_eight_bit_depth_is_refused(tmp_path):
    path = tmp_path / "depth.png"
    Image.new("L", (4, 4), 7).save(path)
    with pytest.raises(DamagedFile, match="depth_zbuffer needs .* 16 bits"):
        image_files.read_pixels(str(path), "depth_zbuffer")


def test_read_pixels_grey_normal_is_refused(tmp_path):
    path = tmp_path / "normal.png"
    Image.new("L", (4, 4), 7).save(path)
    with pytest.raises(DamagedFile, match="normal needs 3 channels"):
        image_files.read_pixels(str(path), "normal")


def test_read_vanishing_point_takes_nine_finite_numbers_only(tmp_path):
    path = tmp_path / "points.npy"
    np.save(path, np.arange(9.0).reshape(3, 3))
    values = image_files.read_vanishing_point(str(path))
    assert values.dtype == np.float32 and values.tolist() == list(range(9))
    for wrong in (np.zeros(8), np.full(9, np.nan), np.array([{}], dtype=object)):
        np.save(path, wrong)
        with pytest.raises(DamagedFile):
            image_files.read_vanishing_point(str(path))


def _socket(path):
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(path))


OTHERS = {
    "pipe": (os.mkfifo, "it is a named pipe"),
    "socket": (_socket, "it is a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "link": (lambda path: path.symlink_to(path.name), "Too many levels|no such file"),
}


@pytest.mark.parametrize("domain", ["rgb", "depth_zbuffer", "vanishing_point"])
@pytest.mark.parametrize("kind", OTHERS)
def test_read_file_what_is_no_regular_file_is_never_opened(tmp_path, kind, domain):
    make, reason = OTHERS[kind]
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(DamagedFile, match=reason):
        image_files.read_file(str(path), domain)


@pytest.mark.parametrize("domain", ["rgb", "depth_zbuffer", "reshading"])
@pytest.mark.parametrize("value", [0.5, np.nan, 300.0])
def test_read_pixels_floating_point_is_refused_not_black(tmp_path, domain, value):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((4, 4), value, np.float32)).save(path)
    with pytest.raises(DamagedFile, match="floating-point numbers.*convert it to PNG"):
        image_files.read_pixels(str(path), domain)


def test_read_pixels_memory_that_is_short_is_no_damage(tmp_path, monkeypatch):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")

    def short(image):
        raise MemoryError

    monkeypatch.setattr(image_files, "_rgb_pixels", short)
    with pytest.raises(MemoryError):
        image_files.read_pixels(str(tmp_path / "a.png"), "rgb")


def test_read_vanishing_point_claims_of_size_are_not_believed(tmp_path):
    path = tmp_path / "points.npy"
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }\n"
    for count in (1 << 40, 1 << 62):
        text = (header % count).encode()
        size = struct.pack("<H", len(text))
        path.write_bytes(b"\x93NUMPY\x01\x00" + size + text)
        with pytest.raises(DamagedFile, match="damaged"):
            image_files.read_vanishing_point(str(path))
    os.truncate(path, 1 << 40)
    with pytest.raises(DamagedFile, match="too large for 9 numbers"):
        image_files.read_vanishing_point(str(path))


_LITTLE_MEMORY = """
import resource, sys
import numpy as np
from soka_tf.data.sources.folder import find
from soka_tf.serving.predictions import predict_images
from soka_tf.tasks import get_task

samples, task = find(sys.argv[1]), get_task("normal")
class Maps:
    def numpy(self):
        return np.zeros([1, 8, 8, 3], np.float32)
def student(images):
    return {"normal": Maps()}
names = [sample.key for sample in samples]
predict_images(student, [task], samples[:1], names[:1], sys.argv[2])  # imports all
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
print("left out:", predict_images(student, [task], samples, names, sys.argv[2]))
"""


def test_image_too_large_for_memory_is_left_out_and_the_others_predicted(tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in "ac":
        Image.new("RGB", (4, 4)).save(images / f"{name}.png")
    rows = (1 + 3 * 9000) * 9000
    (images / "b.png").write_bytes(png(9000, 9000, 8, 2, bytes(rows)))
    done = subprocess.run(
        [sys.executable, "-c", _LITTLE_MEMORY, str(images), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "left out: 1"
    assert "b.png is left out: no memory for its 9000 x 9000 pixels." in done.stderr
    assert sorted(path.name for path in out.glob("?.png")) == ["a.png", "c.png"]
