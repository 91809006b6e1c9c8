"""Files written whole or not at all, where `filesystem` reads: locally or elsewhere."""

import os
import shutil
import uuid
from typing import Optional

from soka_tf.data.filesystem import PathLike, exists, gfile, is_remote, os_errors


def write_bytes(path: PathLike, content: bytes) -> None:
    """Writes a file, whole or not at all; makes the folder.

    Raises:
      OSError: if it cannot be written.
    """
    path = os.fspath(path)
    make_folder(os.path.dirname(path))
    temporary = temporary_name(path)
    try:
        with os_errors(path):
            opener = gfile().GFile if is_remote(path) else open
            with opener(temporary, "wb") as file:
                file.write(content)
        replace(temporary, path)
    finally:
        remove(temporary)


def make_folder(path: PathLike) -> None:
    """Makes a folder and those above it, where they are missing.

    Raises:
      OSError: if that fails.
    """
    path = os.fspath(path)
    with os_errors(path):
        if is_remote(path):
            gfile().makedirs(path)
        elif path:
            os.makedirs(path, exist_ok=True)


def temporary_name(path: PathLike) -> str:
    """A name beside a file, for what is to take its place."""
    return f"{os.fspath(path)}.{uuid.uuid4().hex[:8]}.tmp"


def replace(old: PathLike, new: PathLike) -> None:
    """Renames a file over another one.

    Raises:
      OSError: if that fails.
    """
    with os_errors(os.fspath(new)):
        if is_remote(new):
            gfile().rename(old, new, overwrite=True)
        else:
            os.replace(old, new)


def remove(path: PathLike) -> None:
    """Removes a file, if it is there."""
    path = os.fspath(path)
    if not exists(path):
        return
    with os_errors(path):
        gfile().remove(path) if is_remote(path) else os.remove(path)


def free_bytes(folder: PathLike) -> Optional[int]:
    """Room on the disk of a folder, made or not; None where it is unknown."""
    folder = os.fspath(folder)
    if is_remote(folder):
        return None
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free
