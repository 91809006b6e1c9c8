"""What an export is and is good for: model_card.json, for people model_card.md.

The card is made when the files of an export take their places, by `describe`, so that
the sha256 in it are theirs.
"""

import hashlib
import json
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from soka_tf.data import encodings
from soka_tf.data.documents import ANY, read_json
from soka_tf.data.filesystem import sha256_of
from soka_tf.errors import UserError, one_line
from soka_tf.networks.untrusted import GRAPH
from soka_tf.serving import export_folder
from soka_tf.serving.card_page import format_card
from soka_tf.serving.origin import Origin
from soka_tf.stack import versions
from soka_tf.tasks import Task

CARD, PAGE = "model_card.json", "model_card.md"
FILES = (CARD, PAGE)
_FORMAT = 1
_PRECISIONS = {
    "student_float16.tflite": "float16",
    "student_int8.tflite": "int8",
    "student.onnx": "float32",
}
# They tell of the export; the report may come later.
_NOT_OF_THE_STUDENT = (*FILES, export_folder.MANIFEST)
_REPORTS = "export_report."


def facts_of(
    student: Any, tasks: Sequence[Task], image_size: int, origin: Optional[Origin]
) -> Dict[str, Any]:
    """What a card says of a student, whatever its files.

    Args:
      student: an encoder in `.encoder` and task name -> decoder in `.decoders`.
      tasks: those that are exported.
      image_size: side in pixels of images and maps.
      origin: where it comes from; None if nobody told.
    """
    networks = [student.encoder, *(student.decoders[task.name] for task in tasks)]
    digest = hashlib.sha256()
    for network in networks:
        for variable in network.variables:
            digest.update(np.ascontiguousarray(variable.numpy()))
    scalars = [v.shape.num_elements() for n in networks for v in n.trainable_variables]
    return {
        "format": _FORMAT,
        "student": {
            "parameters": sum(scalars),
            "image_size": image_size,
            "step": origin.step if origin else None,
            "weights_sha256": digest.hexdigest(),
        },
        "tasks": {task.name: _task(task) for task in tasks},
        "supervision": origin.supervision if origin else None,
        "teachers": origin.teachers if origin else None,
        "images": origin.images if origin else None,
        "metrics": _metrics(origin, tasks),
    }


def describe(facts: Mapping[str, Any], files: Mapping[str, str]) -> Dict[str, bytes]:
    """The card of an export.

    Args:
      facts: of `facts_of`.
      files: all that the export will have: name -> path where it lies now.

    Returns:
      Name -> content of the card's files.
    """
    ours = [n for n in sorted(files) if n not in _NOT_OF_THE_STUDENT]
    ours = [name for name in ours if not name.startswith(_REPORTS)]
    others = _of_another_student(facts, files)
    ours = [name for name in ours if name not in others]
    card = {
        **facts,
        "formats": _formats(ours, files),
        "files": {
            name: {
                "sha256": sha256_of(files[name]),
                "bytes": os.path.getsize(files[name]),
            }
            for name in ours
        },
        "files_of_another_student": others,
        "versions": versions(),
    }
    card["limits"] = limits_of(card)
    text = json.dumps(card, indent=1, allow_nan=False) + "\n"
    return {CARD: text.encode(), PAGE: format_card(card).encode()}


def describe_training(folder: str) -> str:
    """What the student of an export was trained on, and what that means for others.

    Args:
      folder: of the export.

    Returns:
      A sentence; "" where no model card tells.
    """
    shape = {
        "supervision": str,
        "teachers": [{"role": str, "shipped": bool}],
        "images": {"source": str},
    }
    try:
        card = read_json(os.path.join(folder, CARD), shape, "", "")
    except (UserError, OSError):
        return ""
    source = one_line(card["images"]["source"])
    targets = [one for one in card["teachers"] if one["role"] == "target"]
    if card["supervision"] == "teachers" and any(one["shipped"] for one in targets):
        return (
            f"Trained on {source} by teachers that know drawn rooms only: what it says "
            "of photographs is a guess."
        )
    return f"Trained on {source}: on other images it may be further off."


def limits_of(card: Mapping[str, Any]) -> List[str]:
    """What the student is not good for, in sentences that follow from the facts."""
    size = card["student"]["image_size"]
    limits = [
        f"Images are resized to {size} x {size} pixels, whatever their aspect: what is "
        "finer is lost, and maps made larger again are no sharper."
    ]
    if card["teachers"] is None:
        limits.append(
            "Which teachers and images it learnt from is not known to this card."
        )
        return limits + _of_files(card)
    targets = [one for one in card["teachers"] if one["role"] == "target"]
    shipped = [one for one in targets if one["shipped"]]
    if shipped:
        names = ", ".join(one["task"] for one in shipped)
        limits.append(
            f"The teachers of {names} came with soka_tf: they have only seen drawn "
            f"rooms at {shipped[0]['image_size']} pixels. Photographs are foreign to "
            "them, and so to the student."
        )
    if card["supervision"] == "teachers":
        limits.append(
            "It learnt from its teachers' answers, not from labels: where they are "
            "wrong, it has learnt to be."
        )
    for one in targets:
        if one["image_size"] not in (None, size):
            limits.append(
                f"The teacher of {one['task']} was trained at {one['image_size']} "
                f"pixels, not {size}."
            )
    unlicensed = [one["task"] for one in card["teachers"] if not one["license"]]
    if unlicensed:
        limits.append(
            f"No licence is given of the teachers of {', '.join(unlicensed)}: whether "
            "the student may be passed on is for you to find out."
        )
    return limits + _of_measurement(card["metrics"]) + _of_files(card)


def _of_measurement(metrics: Optional[Mapping[str, Any]]) -> List[str]:
    if metrics is None:
        return ["This student, of this step, has not been measured."]
    without = [
        name for name, rows in metrics["tasks"].items() if not rows.get("student")
    ]
    if not without:
        return []
    return [
        f"There was no ground truth of {', '.join(without)}: the student was compared "
        "with its teacher only."
    ]


def _of_files(card: Mapping[str, Any]) -> List[str]:
    others = card["files_of_another_student"]
    if not others:
        return []
    return [
        f"{', '.join(others)} in this folder are of an earlier export of another "
        "student, of which this card says nothing."
    ]


def _of_another_student(
    facts: Mapping[str, Any], files: Mapping[str, str]
) -> List[str]:
    """Files that stay of an export whose card tells of other weights."""
    if CARD not in files:
        return []
    shape = {
        "student": {"weights_sha256": str},
        "files": {str: ANY},
        "files_of_another_student": [str],
    }
    try:
        former = read_json(files[CARD], shape, "", "")
    except UserError:
        return []
    # What is new does not lie in the export's own folder yet.
    folder = os.path.dirname(files[CARD])
    kept = {n for n, path in files.items() if path == os.path.join(folder, n)}
    others = set(former["files_of_another_student"])
    if former["student"]["weights_sha256"] != facts["student"]["weights_sha256"]:
        others |= set(former["files"])
    return sorted(others & kept)


def _formats(names: Sequence[str], files: Mapping[str, str]) -> Dict[str, str]:
    """The formats of an export, by what one opens, with their precisions."""
    found = {name: _PRECISIONS[name] for name in names if name in _PRECISIONS}
    if GRAPH in names:
        precision = "float32"
        if export_folder.METADATA in files:
            metadata = read_json(files[export_folder.METADATA], {}, "", "")
            precision = str(metadata.get("precision", precision))
        found = {"SavedModel": precision, **found}
    return found


def _metrics(
    origin: Optional[Origin], tasks: Sequence[Task]
) -> Optional[Dict[str, Any]]:
    if origin is None or origin.metrics is None:
        return None
    measured = origin.metrics
    source = measured.get("source", origin.measured_on)
    names = [task.name for task in tasks if task.name in measured["tasks"]]
    return {
        "on": f"{measured['images']} {measured['split']} images ({source})",
        "images": measured["images"],
        "tasks": {name: measured["tasks"][name] for name in names},
    }


def _task(task: Task) -> Dict[str, Any]:
    encoding = task.encoding
    assert encoding is not None  # of no student's task
    low, high, file = _range_and_file(task)
    described: Dict[str, Any] = {
        "title": task.title,
        "kind": encoding.kind,
        "channels": task.channels,
        "unit": task.unit,
        "range": [low, high],
        "file": f"PNG of {encoding.bits} bits, {file}",
    }
    if task.has_classes:
        described["classes"] = list(task.classes)
    return described


def _range_and_file(task: Task):
    """Lowest and highest value in the unit, and how `encodings.store` writes them."""
    encoding = task.encoding
    full = 2**encoding.bits - 1
    steps = encodings.DEPTH_STEPS_PER_METRE
    if encoding.kind == "log_depth":
        most = (encodings.FIRST_INVALID_DEPTH - 1) / steps
        missing = encodings.MISSING_DEPTH
        return 0.0, most, f"1/{steps:.0f} m a step, {missing} where there is no value"
    if encoding.kind == "direction":
        return -1.0, 1.0, f"-1 to 1 as 0 to {full} in each channel"
    if encoding.kind == "classes":
        return (
            0.0,
            1.0,
            f"the index of the likeliest class, {encodings.NO_CLASS} if none",
        )
    if encoding.kind == "standardize":
        return 0.0, float(full), "rounded"
    if encoding.kind == "continuous":
        low, high = encoding.low, encoding.high
        return low, high, f"{low:g} to {high:g} as 0 to {full}"
    low, high = encoding.low, encoding.high
    return low, high, f"0 to 1 as 0 to {full}"
