"""The pixels of a file, whatever its kind; and damage, by its reason."""

import os
import socket
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from soka_tf.data import image_files
from soka_tf.data.image_files import DamagedFile


def _png(width, height, depth, colour, data):
    """The bytes of a PNG that Pillow itself would not write."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_read_pixels_sixteen_bit_grey_label_keeps_its_bits(tmp_path):
    path = tmp_path / "depth.png"
    values = np.array([[0, 1, 64499], [256, 1000, 65535]], np.uint16)
    Image.fromarray(values).save(path)
    pixels = image_files.read_pixels(str(path), "depth_zbuffer")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[..., 0], values)


def test_read_pixels_eight_bit_label_stays_eight_bit(tmp_path):
    path = tmp_path / "shade.png"
    Image.new("L", (4, 4), 200).save(path)
    pixels = image_files.read_pixels(str(path), "reshading")
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 4, 1)
    assert (pixels == 200).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_read_pixels_rgb_of_any_kind_becomes_three_bytes(tmp_path, mode):
    image = Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    pixels = image_files.read_pixels(str(path), "rgb")
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 5, 3)
    assert (pixels == 255).all()


def test_read_pixels_sixteen_bit_rgb_becomes_eight_bit(tmp_path):
    row = b"\0" + struct.pack(">3H", 65535, 32896, 0) * 2
    path = tmp_path / "image.png"
    path.write_bytes(_png(2, 2, 16, 2, row * 2))
    pixels = image_files.read_pixels(str(path), "rgb")
    assert pixels.dtype == np.uint8 and pixels[1, 1].tolist() == [255, 128, 0]


def test_read_pixels_sixteen_bit_grey_as_rgb_is_scaled_not_cut(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(path)
    pixels = image_files.read_pixels(str(path), "rgb")
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_read_pixels_palette_with_transparency_reads_without_warning(tmp_path):
    path = tmp_path / "image.png"
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(path, transparency=b"\x00\x80")
    assert image_files.read_pixels(str(path), "rgb")[0, 0].tolist() == [10, 20, 30]


def test_read_pixels_rotated_photo_is_turned_upright(tmp_path):
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (6, 2)).save(path, exif=exif)
    assert image_files.read_pixels(str(path), "rgb").shape == (6, 2, 3)


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
    path.write_bytes(_png(30000, 30000, 8, 2, b""))


DAMAGES = {
    "truncated": (_truncated, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "html": (lambda path: path.write_text("<!DOCTYPE html><p>404"), "text, not an"),
    "lfs": (lambda path: path.write_text("version https://git-lfs\n"), "text, not"),
    "noise": (lambda path: path.write_bytes(b"\x01\x02" * 50), "not an image"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "absent": (lambda path: None, "no such file"),
    "bomb": (_bomb, "more pixels than are safe"),
    "zero_size": (lambda path: path.write_bytes(_png(0, 4, 8, 2, b"")), "damaged|not"),
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


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_read_pixels_bomb_that_pillow_only_warns_of_is_refused(tmp_path, action):
    path = tmp_path / "image.png"
    path.write_bytes(_png(10000, 10000, 8, 2, b""))
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


def test_read_pixels_link_to_a_file_is_read(tmp_path):
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    pixels = image_files.read_pixels(str(tmp_path / "b.png"), "rgb")
    assert pixels[0, 0].tolist() == [1, 2, 3]


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


@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_read_pixels_classes_are_the_indices_of_the_file(tmp_path, mode):
    indices = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(indices * 255 if mode == "1" else indices, mode="L")
    image = image.convert("1") if mode == "1" else image
    if mode == "P":
        image = Image.fromarray(indices, mode="P")
        image.putpalette([200, 0, 0, 0, 0, 90])
    image.save(tmp_path / "classes.png")
    pixels = image_files.read_pixels(str(tmp_path / "classes.png"), "segment_semantic")
    np.testing.assert_array_equal(pixels[..., 0], indices)


def test_read_pixels_classes_as_colours_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "classes.png")
    with pytest.raises(DamagedFile, match="one channel, the index of a class.* has 3"):
        image_files.read_pixels(str(tmp_path / "classes.png"), "segment_semantic")
