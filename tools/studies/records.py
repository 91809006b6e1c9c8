"""Files that a study keeps: whole or not there at all."""

import json
import os
import pathlib
import platform
from typing import Any, Dict, Optional

from soka_tf.errors import UserError
from soka_tf.networks.processor import cpu_info

# In a run's folder, once it has come to its end, and where it failed.
RUN_RECORD = "study.json"
FAILURE_RECORD = "failed.json"


def hardware() -> Dict[str, Any]:
    """The machine, as results name it."""
    return {
        "processor": cpu_info("model name") or platform.processor(),
        "cores": os.cpu_count(),
    }


def read_json(path: pathlib.Path, *keys: str) -> Optional[Dict[str, Any]]:
    """The content of a JSON file; None if there is none.

    Args:
      path: of the file.
      keys: what it must hold.

    Raises:
      UserError: if it is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        absent = [key for key in keys if key not in content]
        if absent or not isinstance(content, dict):
            raise ValueError(f"it has no {', '.join(absent) or 'names'}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read as the JSON that it was ({error}). Remove it to "
            "measure again."
        ) from error
    return content
