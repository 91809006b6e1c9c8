"""Files that are whole or not there at all, and one writer at a time."""

import contextlib
import errno
import json
import os
import re
from typing import Any, Iterator, Optional, Union

from absl import logging

from soka_tf.errors import UserError, reason

PathLike = Union[str, "os.PathLike[str]"]
# What file systems answer that have no locks, or do not flush folders.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
# Names of `replacing`, of what is written into a run's folder.
_TEMPORARY = re.compile(r".+\.(?:csv|gin|html|json|png)\.(\d+)\.tmp")


@contextlib.contextmanager
def replacing(path: PathLike, flushed: bool = True) -> Iterator[str]:
    """Yields a name to write to; the file takes its place once the block has ended.

    The name ends in ".tmp", so that what a kill leaves looks like nothing else.

    Args:
      path: the file to write or replace, in a folder that exists.
      flushed: whether the file, and its name, are to survive a power cut from then on;
        that takes milliseconds. False for the many files that can be made again.

    Raises:
      OSError: if the disk refuses; what was at `path` stays then, as it does after
        any exception of the block.
    """
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        yield temporary
        if flushed:
            flush(temporary)
        os.replace(temporary, path)
        if flushed:
            flush(os.path.dirname(os.path.abspath(path)))
    finally:
        with contextlib.suppress(OSError):  # gone already, or not to be removed
            os.remove(temporary)


def remove_leftovers(folder: PathLike) -> None:
    """Removes what processes that were killed within `replacing` left in a folder.

    What a process that lives writes there, such as `evaluate`, stays.

    Args:
      folder: need not exist.

    Raises:
      OSError: if one cannot be removed.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for match in filter(None, map(_TEMPORARY.fullmatch, names)):
        if not _lives(int(match[1])):
            os.remove(os.path.join(folder, match[0]))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def flush(path: PathLike) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut.

    Raises:
      OSError: if the disk refuses; not where it knows no such request.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
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


def write_json(path: PathLike, content: Any, indent: Optional[int] = 1) -> None:
    """Writes or replaces a JSON file; its folder is made if need be.

    Raises:
      ValueError: if a value is NaN or infinite, which JSON cannot hold.
      TypeError: if a value is none that JSON has.
      OSError: if the disk refuses.
    """
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


@contextlib.contextmanager
def locked(
    path: PathLike, purpose: str, remedy: Optional[str] = None
) -> Iterator[None]:
    """Holds a lock file that no other process holds; a kill lets it go, too.

    Where the file system has no locks, a warning says so, and nothing is held.

    Args:
      path: the lock file, made if need be, in a folder that exists; it stays. Or a
        folder that exists, which needs no file, on local disks.
      purpose: what the other process does: "draws rooms in /x".
      remedy: what to do, for the error where another process holds the lock; None
        waits for it, and says so in the log.

    Raises:
      UserError: if another process holds the lock, given a `remedy`.
      OSError: if the file cannot be written.
    """
    kind = os.O_RDONLY if os.path.isdir(path) else os.O_WRONLY | os.O_CREAT
    file = os.open(path, kind, 0o666)
    try:
        if not _lock(file, path):
            if remedy is not None:
                raise UserError(f"Another process {purpose}. {remedy}")
            logging.info("Waiting for another process that %s ...", purpose)
            _lock(file, path, wait=True)
        yield
    finally:
        os.close(file)


def _lock(file: int, path: PathLike, wait: bool = False) -> bool:
    """Whether nobody else holds the lock of a file, which then is this process's."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        logging.warning(
            "%s cannot be locked here (%s): take care that no other process writes in "
            "this folder.",
            path,
            reason(error),
        )
    return True
