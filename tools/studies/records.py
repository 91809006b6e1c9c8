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


def read_json(path: pathlib.Path) -> Optional[Any]:
    """The content of a JSON file; None if there is none.

    Raises:
      UserError: if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}). Remove it to measure again."
        ) from error
