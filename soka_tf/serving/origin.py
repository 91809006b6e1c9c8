"""Where a student comes from: what its model card says and no SavedModel knows."""

import dataclasses
import os
import re
from typing import Any, Dict, List, Optional

from soka_tf.atomic import write_json
from soka_tf.data.documents import Number, read_json

FILE = "origin.json"
SHIPPED_LICENSE = "Apache-2.0"
_REMEDY = "Remove it; the next export's model card then says less."
_SHAPE = {
    "supervision": str,
    "teachers": [
        {
            "task": str,
            "role": str,
            "file": str,
            "sha256": (str, None),
            "fingerprint": (str, None),
            "license": (str, None),
            "shipped": bool,
            "image_size": (Number(int, 1, 65536), None),
            "parameters": int,
        }
    ],
    "images": {
        "source": str,
        "validation_source?": str,
        "train": int,
        "validation": int,
    },
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a student learnt from, and how well.

    Attributes:
      supervision: "teachers", or "labels" where it learnt from ground truth.
      teachers: "task", "role" ("target" or "auxiliary"), name of its "file",
        "sha256" of a file or "fingerprint" of a folder, "license" as given or None,
        whether it was "shipped" with soka_tf, "image_size" and "parameters" of each.
      images: "source" in words, "validation_source" of those for validation where that
        is another one, how many to "train" and for "validation".
      step: of training.
      metrics: of `evaluation.evaluator.evaluate` at that step; None if there are none.
    """

    supervision: str
    teachers: List[Dict[str, Any]]
    images: Dict[str, Any]
    step: Optional[int] = None
    metrics: Optional[Dict[str, Any]] = None

    @property
    def measured_on(self) -> str:
        """Where the run's own images to measure on come from, in words."""
        return self.images.get("validation_source") or self.images["source"]


def write_origin(origin: Origin, folder: str) -> None:
    """Keeps it in a run's folder, for exports to come."""
    known = {name: getattr(origin, name) for name in _SHAPE}
    write_json(os.path.join(folder, FILE), known)


def read_origin(
    folder: str, step: int, evaluation: Optional[str] = None
) -> Optional[Origin]:
    """What a run's folder tells of the student of a step; None of earlier versions'.

    Args:
      folder: the run's.
      step: of the student.
      evaluation: name of the file that `evaluate` writes, None to leave it out, as
        it is where it is of another step.

    Raises:
      UserError: if a file there is damaged.
    """
    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        return None
    known = read_json(path, _SHAPE, _REMEDY, "not the origin of a student")
    measured = evaluation and os.path.join(folder, evaluation)
    metrics = None
    if measured and os.path.isfile(measured):
        rows = {str: ({str: (float, None)}, None)}
        shape = {"step": int, "split": str, "images": int, "tasks": {str: rows}}
        shape["source?"] = str
        metrics = read_json(measured, shape, "Measure again or remove it.")
        metrics = metrics if metrics["step"] == step else None
    fields = {name: known[name] for name in _SHAPE}
    return Origin(**fields, step=step, metrics=metrics)


def without_folders(source: str) -> str:
    """What images are, in words, with paths cut to their last names."""
    return re.sub(r"(?<=\s)[^\s,]*/(?:[^,/]*/)*", "", source)
