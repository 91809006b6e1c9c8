"""Where bytes come from: local files, whatever tf.io.gfile opens, parts of shards.

    /data/photos/1.png, ~/photos            local, read by Python itself
    gs://bucket/photos/1.png, hdfs://...    by TensorFlow's file systems
    /data/records/rgb-0-of-4.tfrecord#64+8812+0f3a9b1c#1.png
                                            bytes 64 to 8876 of a shard, whose CRC-32 is
                                            0f3a9b1c; the last part is a name for people

TensorFlow is imported when a path of its own is met: it is slower on local files, and
not every reader of files needs it.
"""

import contextlib
import errno
import glob
import hashlib
import io
import os
import re
import stat
import zlib
from typing import (
    Any,
    BinaryIO,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

from soka_tf.errors import UserError

PathLike = Union[str, "os.PathLike[str]"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PART = re.compile(r"(.+?\.tfrecord)#(\d+)\+(\d+)\+([0-9a-f]{8})#(.*)", re.DOTALL)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Part(NamedTuple):
    """A part of a file that stands for a file of its own.

    Attributes:
      file: path of the whole.
      offset: where the part starts, in bytes.
      length: in bytes.
      crc32: of the part's bytes.
      name: what to call it.
    """

    file: str
    offset: int
    length: int
    crc32: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}#{self.offset}+{self.length}+{self.crc32:08x}#{self.name}"


class ChangedPart(OSError):
    """The bytes of a part are not those that were written."""


def parse_part(path: PathLike) -> Optional[Part]:
    """The part that a path means; None where it means a file."""
    match = _PART.fullmatch(os.fspath(path))
    if match is None:
        return None
    return Part(match[1], int(match[2]), int(match[3]), int(match[4], 16), match[5])


def is_remote(path: PathLike) -> bool:
    """Whether a path is for TensorFlow's file systems, e.g. gs://bucket/folder."""
    return _SCHEME.match(os.fspath(path)) is not None


def expand(path: PathLike) -> str:
    """The path without "~", and without a slash at the end."""
    path = os.fspath(path)
    if is_remote(path):
        start = _SCHEME.match(path).end()
        return path[:start] + path[start:].rstrip("/")
    return os.path.expanduser(path)


def exists(path: PathLike) -> bool:
    """Whether there is such a file or folder.

    Raises:
      OSError: if a file system cannot be reached.
    """
    path = _whole(path)
    if not is_remote(path):
        return os.path.exists(path)
    with os_errors(path):
        return gfile().exists(path)


def is_folder(path: PathLike) -> bool:
    """Whether there is such a folder.

    Raises:
      OSError: if a file system cannot be reached.
    """
    path = os.fspath(path)
    if not is_remote(path):
        return os.path.isdir(path)
    with os_errors(path):
        # Of a file system that cannot be reached, isdir alone returns False.
        return gfile().exists(path) and gfile().isdir(path)


def matching(pattern: str) -> List[str]:
    """The files and folders that a pattern names, sorted; hidden ones are passed over.

    Args:
      pattern: with "*", "?", "[...]", and of local files "**" for any folders.

    Raises:
      OSError: if a file system cannot be reached.
    """
    if not is_remote(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    with os_errors(pattern):
        return sorted(gfile().glob(pattern))


def size(path: PathLike) -> int:
    """Bytes of a file or part.

    Raises:
      OSError: if it is not there.
    """
    part = parse_part(path)
    if part is not None:
        return part.length
    path = os.fspath(path)
    if not is_remote(path):
        return os.path.getsize(path)
    with os_errors(path):
        return gfile().stat(path).length


def names(folder: PathLike) -> List[str]:
    """Names of the files and folders in a folder, sorted.

    Raises:
      OSError: if it cannot be read.
    """
    folder = os.fspath(folder)
    if not is_remote(folder):
        return sorted(os.listdir(folder))
    with os_errors(folder):
        # Some file systems mark folders by a slash at the end.
        return sorted({name.rstrip("/") for name in gfile().listdir(folder)} - {""})


def subfolders(folder: PathLike) -> List[str]:
    """Names of the folders in a folder, sorted; none where it is no folder.

    Hidden ones are left out.

    Raises:
      OSError: if it cannot be read.
    """
    folder = os.fspath(folder)
    if not is_folder(folder):
        return []
    if is_remote(folder):
        found = names(folder)
        return [
            name
            for name in found
            if name[0] != "." and is_folder(os.path.join(folder, name))
        ]
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")


def walk(root: PathLike) -> Iterator[Tuple[str, List[str], List[str]]]:
    """Like `os.walk`: what is taken out of the list of subfolders is not entered."""
    root = os.fspath(root)
    if not is_remote(root):
        yield from os.walk(root)
        return
    # tf.io.gfile.walk goes down into folders that its caller took out of the list.
    folders, others = [], []
    for name in names(root):
        (folders if is_folder(os.path.join(root, name)) else others).append(name)
    yield root, folders, others
    for name in folders:
        yield from walk(os.path.join(root, name))


@contextlib.contextmanager
def reading(root: PathLike) -> Iterator[None]:
    """Looks through a folder.

    Raises:
      UserError: in place of OSError, naming the file or folder that cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or os.fspath(root)}: cannot be read "
            f"({error.strerror or error})."
        ) from error


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[BinaryIO]:
    """Opens a file or part for reading bytes at any place.

    Raises:
      OSError: if it cannot be read.
    """
    if is_remote(path) or parse_part(path) is not None:
        yield io.BytesIO(read_bytes(path))
    else:
        with open_regular(path) as file:
            yield file


def open_regular(path: PathLike) -> BinaryIO:
    """Opens a local file, which must be one: others may never come to an end.

    Raises:
      OSError: if it cannot be read; of a folder, a named pipe, a socket or a device
        it says which, and does not open it.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((word for is_it, word in _KINDS if is_it(mode)), "no file")
        raise OSError(errno.EINVAL, f"it is {kind}", path)
    return open(path, "rb")


def not_regular(paths: Iterable[PathLike]) -> Iterator[str]:
    """Local paths of what is there but no file, found without asking for each."""
    local = [os.path.split(p) for p in paths if not (is_remote(p) or parse_part(p))]
    for folder in sorted({folder for folder, _ in local}):
        with os.scandir(folder or ".") as entries:
            others = {entry.name for entry in entries if not entry.is_file()}
        for name in sorted(others & {n for f, n in local if others and f == folder}):
            yield os.path.join(folder, name)


def name_bytes(name: str) -> bytes:
    """The bytes of a file's name or of what is made of it, UTF-8 or not.

    Raises:
      UnicodeEncodeError: if no file can have this name.
    """
    return name.encode("utf-8", "surrogateescape")


def read_bytes(path: PathLike) -> bytes:
    """Reads a file or part whole.

    Raises:
      ChangedPart: if a part is not what was written.
      OSError: if it cannot be read.
    """
    part = parse_part(path)
    if part is not None:
        return read_part(part)
    path = os.fspath(path)
    if not is_remote(path):
        with open_regular(path) as file:
            return file.read()
    with os_errors(path), gfile().GFile(path, "rb") as file:
        return file.read()


def sha256_of(path: PathLike) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with opened(path) as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def read_part(part: Part) -> bytes:
    """Reads a part and checks it. Safe to call from many threads.

    Raises:
      ChangedPart: if it is not what was written.
      OSError: if the file cannot be read.
    """
    if is_remote(part.file):
        with os_errors(part.file), gfile().GFile(part.file, "rb") as file:
            file.seek(part.offset)
            content = file.read(part.length)
    else:
        with open_regular(part.file) as file:
            content = os.pread(file.fileno(), part.length, part.offset)
    if len(content) != part.length or zlib.crc32(content) != part.crc32:
        raise ChangedPart(errno.EIO, "its bytes are not those that were written", part)
    return content


def _whole(path: PathLike) -> str:
    part = parse_part(path)
    return os.fspath(path) if part is None else part.file


def gfile() -> Any:
    """`tf.io.gfile`, imported when it is needed."""
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def os_errors(path: str) -> Iterator[None]:
    """TensorFlow's errors of remote files, as Python's: callers handle one kind."""
    if not is_remote(path):
        yield
        return
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        kinds = {
            tf.errors.NotFoundError: (errno.ENOENT, "there is no such file or folder"),
            tf.errors.PermissionDeniedError: (errno.EACCES, "permission denied"),
            tf.errors.UnimplementedError: (
                errno.ENOSYS,
                f"this TensorFlow has no file system for {path.split('://')[0]}://",
            ),
        }
        number, reason = kinds.get(type(error), (errno.EIO, str(error.message)))
        raise OSError(number, reason, path) from error
