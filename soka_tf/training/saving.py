"""Saving that may fail: a full disk costs a checkpoint, not the run."""

import os
import re
import shutil
from typing import List, Optional

import tensorflow as tf

from soka_tf.errors import reason
from soka_tf.training.strategy import raise_if_worker_lost

# What Python and TensorFlow raise where a file cannot be written.
FAILURES = (OSError, tf.errors.OpError)
_PART = re.compile(r"(ckpt-\d+)\.(index|data-\d+-of-\d+)")


def try_save(manager: tf.train.CheckpointManager, step: int) -> Optional[str]:
    """Saves a checkpoint, or leaves everything as it was before.

    Args:
      manager: saves and deletes.
      step: the number of the checkpoint.

    Returns:
      None if it was saved, else why it was not.
    """
    try:
        manager.save(checkpoint_number=step)
    except FAILURES as error:
        raise_if_worker_lost(error)
        remove_leftovers(manager.directory)
        return reason(error)
    return None


def remove_leftovers(folder: str) -> List[str]:
    """Removes what a save leaves that was killed or failed; returns their names.

    TensorFlow writes the data first, in a folder of its own, and the index last: a
    checkpoint of which either is missing was never whole.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    parts = [match for match in map(_PART.fullmatch, names) if match]
    indexed = {m[1] for m in parts if m[2] == "index"}
    filled = {m[1] for m in parts if m[2] != "index"}
    left = [m[0] for m in parts if m[1] not in indexed & filled]
    left += [n for n in names if re.match(r"ckpt-\d+_temp|checkpoint\.tmp", n)]
    removed = []
    for name in left:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            _remove(path)
        if not os.path.exists(path):
            removed.append(name)
    return sorted(removed)


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass  # a disk gone read-only keeps them; the next start tries again
