"""Files that a study keeps: whole or not there at all."""

import functools
import os
import pathlib
import subprocess
from typing import Any, Dict, Optional

from soka_tf.data.documents import Number, read_json
from soka_tf.networks.processor import processor_name

# In a run's folder, once it has come to its end, and where it failed.
RUN_RECORD = "study.json"
FAILURE_RECORD = "failed.json"
# In place of evaluation.json, where it is measured room by room.
ROOMS_FILE = "rooms.json"

_ERRORS = ({str: (float, None)}, None)
RUN_SHAPE = {"cpu_seconds": (float, None)}
FAILURE_SHAPE = {"failed": str}
# What evaluation.json has, as far as studies read it.
TASKS_SHAPE = {"tasks": {str: {"student": _ERRORS, "teacher": _ERRORS, str: _ERRORS}}}
EVALUATION_SHAPE = {
    "step": Number(int, 0, 1e15),
    "parameters": {"student": int, "teachers": int},
    **TASKS_SHAPE,
}
INFERENCE_SHAPE = {"settings": {"batch_sizes": [int]}, "ratio": {str: float}}
SIMILARITY_SHAPE = {
    "names": [str],
    "similarity": [[float]],
    "choices": [{"explanation": [str]}],
    "images": int,
}


def hardware() -> Dict[str, Any]:
    """The machine, as results name it."""
    return {"processor": processor_name(), "cores": os.cpu_count()}


@functools.cache
def commit() -> Optional[str]:
    """The checkout's commit when first asked for; None where git knows none.

    With "+" where code is changed.
    """
    code = [f":(top,exclude){name}" for name in ("docs", "runs")]
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", os.path.dirname(__file__), *words],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for words in (
                ("rev-parse", "HEAD"),
                ("status", "--porcelain", "-uno", "--", ":/", *code),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changed)


def read_record(path: pathlib.Path, shape: Any) -> Optional[Dict[str, Any]]:
    """The content of a JSON file of a study; None if there is none.

    Args:
      path: of the file.
      shape: what it must hold, see `soka_tf.data.documents`.

    Raises:
      UserError: if it is no JSON, or holds something else.
    """
    if not path.exists():
        return None
    wrong = "cannot be read as the JSON that it was"
    return read_json(path, shape, "Remove it to measure again.", wrong)
