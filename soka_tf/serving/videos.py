"""Videos read and written, frame by frame, by ffmpeg of the package imageio-ffmpeg."""

import contextlib
import itertools
import os
import re
import subprocess
import tempfile
from typing import IO, Any, Iterable, Iterator, List, NamedTuple, Optional

import numpy as np

from soka_tf.atomic import replacing
from soka_tf.data import filesystem
from soka_tf.data.image_files import DamagedFile
from soka_tf.errors import UserError, one_line

# A file with a video's name may be a list of others: none of another machine is opened.
_LOCAL = ("-protocol_whitelist", "file,pipe")
_FPS = 25.0  # where a file does not tell
_LAST_WORDS = 1 << 12


class Video(NamedTuple):
    """A video that is being read.

    Attributes:
      frames: uint8 [height, width, 3] each, upright.
      fps: frames in a second.
      frame_count: about how many; None if unknown.
    """

    frames: Iterator[np.ndarray]
    fps: float
    frame_count: Optional[int]


def require_package() -> str:
    """The path of ffmpeg.

    Raises:
      UserError: if the package that brings it is missing, with how to install it.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            "Videos need the package imageio-ffmpeg, which cannot be imported "
            f"({one_line(error)}): python -m pip install imageio-ffmpeg"
        ) from error
    return imageio_ffmpeg.get_ffmpeg_exe()


@contextlib.contextmanager
def reading(path: str) -> Iterator[Video]:
    """Opens a video.

    Raises:
      UserError: if the package is missing.
      DamagedFile: if it cannot be read, or, from `frames`, not to its end.
    """
    ffmpeg = require_package()
    if filesystem.is_remote(path) or not os.path.isfile(path):
        raise DamagedFile(path, "it is no file of this machine")
    source = ["-nostdin", "-nostats", *_LOCAL, "-i", os.path.abspath(path)]
    frames_out = ["-map", "0:v:0", "-f", "image2pipe", "-c:v", "ppm", "-"]
    with _running([ffmpeg, *source, *frames_out], stdout=subprocess.PIPE) as process:
        # Until the first frame is there, it is not known what ffmpeg says of the file.
        first = _frame(process.stdout)
        if first is None:
            process.wait()
            reason = _last_words(process) or "it has no frame"
            raise DamagedFile(path, f"it is no video that ffmpeg reads ({reason})")
        about = _said(process)
        rate = re.search(r"Video:.*?([\d.]+) fps", about)
        length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", about)
        fps = float(rate[1]) if rate and float(rate[1]) else _FPS
        seconds = [float(part) for part in length.groups()] if length else [0, 0, 0]
        count = round(np.dot(seconds, [3600, 60, 1]) * fps) or None
        yield Video(_frames(path, process, first), fps, count)


def _frames(path: str, process: Any, first: np.ndarray) -> Iterator[np.ndarray]:
    frame: Optional[np.ndarray] = first
    while frame is not None:
        yield frame
        frame = _frame(process.stdout)
    if process.wait():
        raise DamagedFile(path, f"ffmpeg failed ({_last_words(process)})")


def _frame(stream: IO[bytes]) -> Optional[np.ndarray]:
    """The next image of a stream of PPM; None at its end."""
    header = [stream.readline() for _ in range(3)]
    if header[0] != b"P6\n":
        return None
    width, height = map(int, header[1].split())
    pixels = stream.read(width * height * 3)
    if len(pixels) < width * height * 3:
        return None
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def write(path: str, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes an .mp4 of H.264, whole or not at all.

    Args:
      path: the file to write or replace; its folder is made if need be.
      frames: uint8 [height, width, 3] each, all of one size, one at least. Odd sizes,
        which the format does not have, are enlarged by a white line.
      fps: frames in a second.

    Raises:
      OSError: if it cannot be written.
      UserError: if the package is missing.
    """
    ffmpeg = require_package()
    frames = iter(frames)
    first = _even(next(frames))
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    size = f"{first.shape[1]}x{first.shape[0]}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:g}"]
    coded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20"]
    with replacing(path) as temporary:
        command = [ffmpeg, "-y", *raw, "-i", "-", *coded, "-f", "mp4", temporary]
        with _running(command, stdin=subprocess.PIPE) as process:
            with contextlib.suppress(BrokenPipeError):  # it says why, below
                for frame in itertools.chain([first], map(_even, frames)):
                    process.stdin.write(np.ascontiguousarray(frame))
                process.stdin.close()
            if process.wait():
                raise OSError(f"{path} cannot be written ({_last_words(process)})")


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    return np.pad(frame, pad, constant_values=255)


@contextlib.contextmanager
def _running(command: List[str], **pipes: int) -> Iterator[Any]:
    """A process that ends with the block; what it says is in its `.said`."""
    # A pipe would fill up, and whoever fills it would wait.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stderr=said, **pipes)
        process.said = said
        try:
            yield process
        finally:
            for pipe in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            process.kill()
            process.wait()


# The process shares the file's position: it must not move here.


def _said(process: Any) -> str:
    return os.pread(process.said.fileno(), 1 << 16, 0).decode(errors="replace")


def _last_words(process: Any) -> str:
    file = process.said.fileno()
    start = max(0, os.fstat(file).st_size - _LAST_WORDS)
    text = os.pread(file, _LAST_WORDS, start).decode(errors="replace")
    return one_line((text.strip().splitlines() or [""])[-1], 150)
