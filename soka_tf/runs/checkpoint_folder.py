"""A folder of checkpoints: which are whole, which is the last, saving and deleting.

TensorFlow's own bookkeeping, a file `checkpoint` with paths in it, is neither written
nor read: TensorFlow takes its paths for patterns (`run[1]` is then `run1`), and they
may name files of others. What counts are the whole ckpt-<step> that are in the folder.
A save moves its files there when all are written, the index last: killed at any moment
it leaves nothing that looks like a whole one.
"""

import contextlib
import os
import re
import shutil
import tempfile
from typing import Dict, Iterator, List, NamedTuple, Optional

import tensorflow as tf

from soka_tf.atomic import flush
from soka_tf.errors import UserError

_PART = re.compile(r"ckpt-(0|[1-9]\d*)\.(?:index|data-(\d{5})-of-(\d{5}))")
_TEMPORARY = re.compile(r"ckpt-\d+_temp|checkpoint\.tmp.*")


@contextlib.contextmanager
def readable(prefix: str) -> Iterator[str]:
    """Yields a name by which TensorFlow reads this checkpoint and no other."""
    folder, name = os.path.split(os.path.abspath(prefix))
    if not set("*?[]\\") & set(folder):
        yield prefix
        return
    with tempfile.TemporaryDirectory() as place:
        link = os.path.join(place, "checkpoints")
        os.symlink(folder, link)
        yield os.path.join(link, name)


class _Parts(NamedTuple):
    """What there is of one checkpoint."""

    index: List[str]
    data: List[str]
    count: int  # of data files, as their names say

    @property
    def whole(self) -> bool:
        return bool(self.index) and 0 < len(self.data) == self.count


class CheckpointFolder:
    """The checkpoints ckpt-<step> of a folder, TensorFlow's files of them by name."""

    def __init__(
        self,
        path: str,
        checkpoint: Optional[tf.train.Checkpoint] = None,
        keep: int = 1,
    ):
        """Looks at nothing yet.

        Args:
          path: the folder; `save` makes it.
          checkpoint: what is saved; None for a folder that is only read.
          keep: how many of the last checkpoints a save leaves.
        """
        self.path, self.checkpoint, self._keep = path, checkpoint, keep

    def steps(self) -> List[int]:
        """The steps of the whole checkpoints, ascending."""
        return sorted(step for step, parts in self._parts().items() if parts.whole)

    def prefix(self, step: int) -> str:
        """What TensorFlow calls the checkpoint of a step."""
        return os.path.join(self.path, f"ckpt-{step}")

    def last(self) -> Optional[str]:
        """The prefix of the last whole checkpoint; None without one."""
        steps = self.steps()
        return self.prefix(steps[-1]) if steps else None

    def save(self, step: int) -> str:
        """Saves the checkpoint of a step, then deletes those that are too old.

        Returns:
          Its prefix.

        Raises:
          OSError or OpError: what the disk or TensorFlow says; see `remove_leftovers`.
        """
        written = os.path.join(self.path, f"ckpt-{step}_temp")
        shutil.rmtree(written, ignore_errors=True)
        os.makedirs(written)
        self.checkpoint.write(os.path.join(written, f"ckpt-{step}"))
        names = sorted(filter(_PART.fullmatch, os.listdir(written)))
        for name in names:  # data before index
            flush(os.path.join(written, name))
        for name in names:
            os.replace(os.path.join(written, name), os.path.join(self.path, name))
        flush(self.path)
        shutil.rmtree(written, ignore_errors=True)
        parts = self._parts()
        for old in self.steps()[: -self._keep]:
            self._remove([*parts[old].index, *parts[old].data])
        return self.prefix(step)

    def refuse_fragments(self) -> None:
        """Refuses what is no folder, or one from whose checkpoints something was taken.

        A save that was killed leaves no index without its data.

        Raises:
          UserError: naming the file; nothing is touched.
        """
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise UserError(
                f"{self.path}: not a folder, and checkpoints are to be saved there. "
                "Move it away, or choose another --model_dir."
            )
        parts = self._parts()
        robbed = [p.index[0] for p in parts.values() if p.index and not p.whole]
        if robbed and not any(p.whole for p in parts.values()):
            raise UserError(
                f"{os.path.join(self.path, robbed[-1])}: its data files are not beside "
                "it, and no other checkpoint is whole. Bring them back to go on, or "
                "choose another --model_dir to begin anew; nothing was touched."
            )

    def remove_leftovers(self) -> List[str]:
        """Removes what a save leaves that was killed or failed; returns their names.

        These are folders of files half written, and data without an index. An index
        without its data is none: something else took them, and may bring them back.
        """
        left = [n for p in self._parts().values() if not p.index for n in p.data]
        left += [name for name in self._names() if _TEMPORARY.fullmatch(name)]
        self._remove(left)
        return sorted(set(left) - set(self._names()))

    def _parts(self) -> Dict[int, _Parts]:
        found: Dict[int, _Parts] = {}
        for name in self._names():
            match = _PART.fullmatch(name)
            if match is None:
                continue
            step, count = int(match[1]), int(match[3] or 0)
            before = found.get(step, _Parts([], [], 0))
            if match[2] is None:
                found[step] = before._replace(index=[name])
            else:
                data = [*before.data, name]
                found[step] = before._replace(data=data, count=count)
        return found

    def _names(self) -> List[str]:
        try:
            return sorted(os.listdir(self.path))
        except OSError:
            return []

    def _remove(self, names: List[str]) -> None:
        """Removes by exact name; a disk gone read-only keeps them for the next time."""
        for name in names:
            path = os.path.join(self.path, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.remove(path)
