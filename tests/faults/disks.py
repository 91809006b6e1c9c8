"""Disks that refuse to be written: real ones where they may be mounted, else limits."""

import contextlib
import pathlib
import resource
import subprocess
from typing import Any, Iterator

_FEW_BYTES = 4096


class MountedDisk:
    """8 MB of memory."""

    full, read_only = "No space left", "Read-only file system"

    def __init__(self, folder: pathlib.Path):
        """Mounts it; OSError or CalledProcessError where that is not allowed."""
        self._folder = folder
        self._ballast = folder / "ballast"
        self._mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")

    def fill(self) -> None:
        """Leaves no byte."""
        with contextlib.suppress(OSError), open(self._ballast, "wb", 0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Takes away what `fill` wrote."""
        self._ballast.unlink(missing_ok=True)

    def lock(self) -> None:
        """Nothing may be written any more."""
        self._mount("-o", "remount,ro")

    def unlock(self) -> None:
        """As before `lock`."""
        self._mount("-o", "remount,rw")

    def close(self) -> None:
        """Takes it away: lazily, for TensorBoard's writer closes when collected."""
        subprocess.run(["umount", "--lazy", self._folder], check=True)

    def _mount(self, *arguments: Any) -> None:
        command = ["mount", *arguments, self._folder]
        subprocess.run(command, check=True, capture_output=True)


class LimitedDisk:
    """Wherever it is, files of this process may not grow (RLIMIT_FSIZE).

    What is refused, and where from, is the same; the system's words are others.
    """

    full = read_only = "File too large"

    def fill(self) -> None:
        """No file may have more than some bytes."""
        self._limit(_FEW_BYTES)

    def free(self) -> None:
        """As before `fill`."""
        self._limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])

    lock, unlock, close = fill, free, free

    def _limit(self, size: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@contextlib.contextmanager
def disk(folder: pathlib.Path) -> Iterator[Any]:
    """A new folder on a disk of its own, as real as this user may have one."""
    folder.mkdir(parents=True)
    try:
        made = MountedDisk(folder)
    except (OSError, subprocess.CalledProcessError):
        made = LimitedDisk()
    try:
        yield made
    finally:
        made.close()
