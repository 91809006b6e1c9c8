"""The pixels of a file, whatever its kind; damage: tests/faults/bad_input/."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from soka_tf.data import image_files
from soka_tf.data.image_files import DamagedFile


def png(width, height, depth, colour, data):
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
    path.write_bytes(png(2, 2, 16, 2, row * 2))
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


def test_read_pixels_link_to_a_file_is_read(tmp_path):
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    pixels = image_files.read_pixels(str(tmp_path / "b.png"), "rgb")
    assert pixels[0, 0].tolist() == [1, 2, 3]


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
