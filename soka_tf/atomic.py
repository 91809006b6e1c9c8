"""Files that are whole or not there at all, and one writer at a time."""

import contextlib
import json
import os
from typing import Any, Iterator, Optional, Union

from absl import logging

PathLike = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[str]:
    """Yields a name to write to; the file takes its place once the block has ended.

    The name ends in ".tmp", so that what a kill leaves looks like nothing else.

    Args:
      path: the file to write or replace, in a folder that exists.

    Raises:
      OSError: if the disk refuses; what was at `path` stays then, as it does after
        any exception of the block.
    """
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # gone already, or not to be removed
            os.remove(temporary)


def flush(path: PathLike) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut.

    Raises:
      OSError: if the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: PathLike, text: str) -> None:
    """Writes or replaces a text file, in UTF-8; its folder is made if need be.

    Raises:
      OSError: if the disk refuses.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        flush(temporary)


def write_json(path: PathLike, content: Any, indent: Optional[int] = 1) -> None:
    """Writes or replaces a JSON file; its folder is made if need be.

    Raises:
      ValueError: if a value is NaN or infinite, which JSON cannot hold.
      TypeError: if a value is none that JSON has.
      OSError: if the disk refuses.
    """
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


@contextlib.contextmanager
def locked(path: PathLike, purpose: str) -> Iterator[None]:
    """Waits until no other process holds a lock file; a kill lets it go, too.

    Args:
      path: the lock file, made if need be, in a folder that exists; it stays. Or a
        folder that exists, which needs no file, on local disks.
      purpose: what the other process does, for the log: "draws rooms in /x".

    Raises:
      OSError: if the file cannot be written.
    """
    import fcntl  # not on Windows, where the rest of this module is of use

    kind = os.O_RDONLY if os.path.isdir(path) else os.O_WRONLY | os.O_CREAT
    file = os.open(path, kind, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("Waiting for another process that %s ...", purpose)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
