"""The pixels of one file, read without trust.

This module does not need TensorFlow, but for paths such as gs://bucket/folder.
"""

import io
from typing import BinaryIO, Optional

import numpy as np
from absl import logging
from PIL import Image, ImageOps, UnidentifiedImageError

from soka_tf.data import filesystem
from soka_tf.errors import UserError
from soka_tf.tasks import TASKS

RGB = "rgb"
VANISHING_POINT = "vanishing_point"  # the one domain kept as numbers, float32 [9]
_MOST_POINTS_BYTES = 1 << 16
_LARGE = 1 << 24  # pixels, that is 64 MB and more

# Pillow would also try formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_FLOATING_POINT = (
    "its pixels are floating-point numbers, whose range is not known; convert it to "
    "PNG of 8 or 16 bits"
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


class DamagedFile(UserError):
    """A file that cannot be read, with its path and the reason.

    Attributes:
      path: the file.
      reason: why it cannot be used.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(
            f"Cannot use {path}: {reason}. Replace or delete the file; a sample "
            "without it is left out."
        )
        self.path = path
        self.reason = reason


class _Unusable(ValueError):
    """An image that is not damaged, and of no use all the same: why, in words."""


class TooManyPixels(_Unusable):
    """An image that claims more pixels than are allowed; it was not decoded."""


class NoRoom(MemoryError):
    """A large image, whole perhaps, that does not fit into memory.

    Attributes:
      path: the file.
      reason: what did not fit.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def read_file(path: str, domain: str) -> np.ndarray:
    """Reads a file of any domain: `read_pixels` or `read_vanishing_point`.

    Raises:
      DamagedFile: if it cannot be read or cannot belong to the domain.
    """
    if domain == VANISHING_POINT:
        return read_vanishing_point(path)
    return read_pixels(path, domain)


def read_pixels(path: str, domain: str) -> np.ndarray:
    """Reads an image or a label file.

    Args:
      path: the file.
      domain: "rgb" or a task's name.

    Returns:
      rgb: uint8 [height, width, 3], upright (EXIF), whatever the file's kind of colour;
      transparency is ignored. Labels: uint8 or uint16, as in the file,
      [height, width, 1 or 3].

    Raises:
      DamagedFile: if the file cannot be read whole, or cannot belong to the domain.
      NoRoom: if it is large, and memory too small for it.
    """
    try:
        with filesystem.opened(path) as file:
            pixels = _decoded(file, path, domain, Image.MAX_IMAGE_PIXELS)
    except MemoryError:
        raise  # the machine's memory is not the file's fault
    except _Unusable as error:
        raise DamagedFile(path, str(error)) from error
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise DamagedFile(path, _reason(path, error)) from error
    _check_label(path, domain, pixels)
    return pixels


def rgb_of_bytes(content: bytes, most_pixels: int) -> np.ndarray:
    """Reads a photograph that is in memory, as `read_pixels` does of a file.

    Args:
      content: of a file of any kind that is read.
      most_pixels: an image that claims more is not decoded.

    Returns:
      uint8 [height, width, 3].

    Raises:
      TooManyPixels: if it claims more.
      ValueError: if it cannot be read, with the reason in words.
      NoRoom: if it is large, and memory too small for it.
    """
    try:
        return _decoded(io.BytesIO(content), "the image", RGB, most_pixels, "allowed")
    except (_Unusable, MemoryError):
        raise
    except Exception as error:  # decoders of damaged files raise nearly everything
        start = content[:64].lstrip().lower()
        why = _why(start, error) if content else "the file is empty"
        raise ValueError(why) from error


def read_vanishing_point(path: str) -> np.ndarray:
    """Reads the three vanishing points of a view.

    Args:
      path: an .npy file, 9 finite numbers.

    Returns:
      float32 [9]: three unit vectors, one after the other.

    Raises:
      DamagedFile: if the file holds anything else.
    """
    try:
        if filesystem.size(path) > _MOST_POINTS_BYTES:
            raise ValueError("it is too large for 9 numbers")
        values = np.load(io.BytesIO(filesystem.read_bytes(path)), allow_pickle=False)
        values = np.asarray(values, np.float32).reshape(-1)
    except Exception as error:
        raise DamagedFile(path, _reason(path, error)) from error
    if values.shape != (9,) or not np.isfinite(values).all():
        raise DamagedFile(path, f"it must hold 9 finite numbers, not {values.shape}")
    return values


def _decoded(
    file: BinaryIO,
    name: str,
    domain: str,
    most_pixels: Optional[int],
    allowed: str = "that are safe to open",
) -> np.ndarray:
    """The pixels of an image or a label file, as `read_pixels` returns them.

    Args:
      file: its content.
      name: what to call it where it does not fit into memory.
      domain: "rgb" or a task's name.
      most_pixels: what claims more is not decoded; None for any number.
      allowed: what the number is, in words.

    Raises:
      TooManyPixels: if it claims more.
      _Unusable: if its range is not known.
      NoRoom: if it is large, and memory too small for it.
      Exception: any other, if it is damaged.
    """
    try:
        with Image.open(file, formats=_FORMATS) as image:
            count = image.width * image.height
            claimed = f"{image.width} x {image.height} pixels"
            if most_pixels is not None and count > most_pixels:
                raise TooManyPixels(
                    f"it claims {claimed}, more than the {most_pixels:,} {allowed}"
                )
            if image.mode.startswith("F"):
                raise _Unusable(_FLOATING_POINT)
            try:
                return _pixels_of(image, domain)
            except MemoryError as error:
                if count < _LARGE:
                    raise  # memory is short for anything
                raise NoRoom(name, f"no memory for its {claimed}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels("it claims more pixels than are safe to open") from error


def _pixels_of(image: Image.Image, domain: str) -> np.ndarray:
    if domain == RGB:
        return _rgb_pixels(image)
    has_classes = domain in TASKS and TASKS[domain].has_classes
    return _class_pixels(image) if has_classes else _label_pixels(image)


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    image.load()
    if "exif" in image.info:
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # the note about the camera is damaged, the image is not
            logging.debug("%s: cannot read its EXIF data", image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's conversion would cut it
        grey = np.rint(_sixteen_bits(image) / 257.0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may have transparent entries
    return np.array(image.convert("RGB"))


def _label_pixels(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode.startswith("I"):
        return _sixteen_bits(image)[..., None]
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))[..., None]
    if image.mode == "P":
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _class_pixels(image: Image.Image) -> np.ndarray:
    """Indices as they stand in the file: a palette is for people only."""
    image.load()
    if image.mode in ("1", "P"):
        return np.array(image).astype(np.uint8)[..., None]
    return _label_pixels(image)


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    values = np.array(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels do not fit 16 bits")
    return values.astype(np.uint16)


def _check_label(path: str, domain: str, pixels: np.ndarray) -> None:
    task = TASKS.get(domain)
    if task is None or task.encoding is None:
        return
    if task.encoding.kind == "log_depth" and pixels.dtype != np.uint16:
        raise DamagedFile(
            path, f"{domain} needs one channel of 16 bits, the file has 8 bits"
        )
    if pixels.shape[-1] < task.file_channels:
        raise DamagedFile(
            path,
            f"{domain} needs {task.file_channels} channels, the file has "
            f"{pixels.shape[-1]}",
        )
    if task.has_classes and pixels.shape[-1] > 1:
        raise DamagedFile(
            path,
            f"{domain} needs one channel, the index of a class in each pixel; the file "
            f"has {pixels.shape[-1]}",
        )


def _reason(path: str, error: Exception) -> str:
    """Says in words what is wrong with a file that could not be read."""
    try:
        if not filesystem.exists(path):
            return "there is no such file"
        if isinstance(error, filesystem.ChangedPart):
            return str(error.strerror)
        if filesystem.is_remote(path) and filesystem.is_folder(path):
            return "it is a folder"
        with filesystem.opened(path) as file:
            start = file.read(64).lstrip().lower()
        if not filesystem.size(path):
            return "the file is empty"
    except OSError as denied:
        return str(denied.strerror)
    return _why(start, error)


def _why(start: bytes, error: Exception) -> str:
    """The same of a file that is there, from its first bytes in small letters."""
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")):
        return "it holds text, not an image (a failed download?)"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a known kind"
    return f"it is damaged ({error})"
