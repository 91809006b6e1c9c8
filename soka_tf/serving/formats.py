"""The files an export may consist of, and how far each is from the float32 student."""

import dataclasses
import functools
import json
import math
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from tabulate import tabulate

from soka_tf.data import encodings
from soka_tf.data.image_files import RGB
from soka_tf.data.pipeline import Batches, image_dataset, labelled_dataset
from soka_tf.data.samples import Sample, spread
from soka_tf.errors import UserError
from soka_tf.evaluation.evaluator import read_truth
from soka_tf.evaluation.metrics import accumulator_of, main_error
from soka_tf.serving import (
    export_folder,
    model_card,
    onnx_file,
    saved_model,
    tflite,
)
from soka_tf.serving.fixed_size import FixedSizeStudent
from soka_tf.serving.origin import Origin
from soka_tf.tasks import Task, get_task

SAVED_MODEL = "saved_model"
FILES = {
    "tflite_float16": "student_float16.tflite",
    "tflite_int8": "student_int8.tflite",
    "onnx": "student.onnx",
}
FORMATS = (SAVED_MODEL, *FILES)
REPORT = "export_report.json"
TABLE = "export_report.md"
# Images to compare on. More make the table slower and hardly another one.
_COMPARED_IMAGES = 50
_MEBIBYTE = 2**20

Answer = Callable[[np.ndarray], Dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Images:
    """Samples, and how they become images.

    Attributes:
      calibration: samples that show an int8 file which values occur.
      comparison: samples to compare on, with the labels that there are.
      size: side in pixels.
      antialias: as the student was trained.
    """

    calibration: Sequence[Sample]
    comparison: Sequence[Sample]
    size: int
    antialias: bool


def check_formats(formats: Sequence[str]) -> None:
    """Refuses what cannot be written, before anything is.

    Raises:
      UserError: if a format is unknown or needs a package that is missing.
    """
    if not formats:
        raise UserError(f"No format to write. Allowed: {', '.join(FORMATS)}.")
    for name in formats:
        if name not in FORMATS:
            raise UserError(
                f"Unknown format. Received: {name!r}. Allowed: {', '.join(FORMATS)}."
            )
    if "onnx" in formats:
        onnx_file.require_packages()


def check_folder(directory: str, formats: Sequence[str]) -> None:
    """Refuses a folder where files that are not ours are in the way.

    Raises:
      UserError: naming the first.
    """
    files = [FILES[name] for name in formats if name != SAVED_MODEL]
    names = [*files, REPORT, TABLE] if files else []
    names += model_card.FILES
    if SAVED_MODEL in formats:
        names += export_folder.SAVED_MODEL_FILES
    export_folder.refuse_others(directory, names)


def write_formats(
    student: tf.keras.Model,
    tasks: Sequence[Task],
    directory: str,
    formats: Sequence[str],
    images: Images,
    origin: Optional[Origin] = None,
) -> List[str]:
    """Writes files beside, or in place of, a SavedModel; each completely or not at all.

    All take uint8 images [batch, S, S, 3] in 0..255 under the name `images`, S being
    the size of training, and return float32 maps [batch, S, S, channels] in physical
    units by task name; TensorFlow Lite's batch is 1, ONNX's any.

    Args:
      student: in float32; an encoder in `.encoder`, decoders in `.decoders`.
      tasks: the tasks to export, any of the student's.
      directory: the folder to write to; what else it holds stays.
      formats: of `FILES`.
      images: only "tflite_int8" looks at any.
      origin: of the student, for its model card; None if it is not known.

    Returns:
      The paths of the files.

    Raises:
      UserError: if a format is unknown, a package is missing, the folder is a file or
        has a file of that name that is not ours, or there are no images.
      OSError: if the folder cannot be written to.
    """
    check_formats(formats)
    check_folder(directory, formats)
    one_image = FixedSizeStudent(student, tasks, images.size, 1)
    any_batch = FixedSizeStudent(student, tasks, images.size, None)
    facts = model_card.facts_of(student, tasks, images.size, origin)
    describe = functools.partial(model_card.describe, facts)
    paths = []
    for name in formats:
        logging.info("Converting to %s ...", name)
        if name == "onnx":
            content = onnx_file.to_onnx(any_batch)
        elif name == "tflite_int8":
            content = tflite.to_int8(one_image, _calibration_images(images))
        else:
            content = tflite.to_float16(one_image)
        paths.append(os.path.join(directory, FILES[name]))
        export_folder.put(directory, {FILES[name]: content}, describe)
    return paths


def compare(
    student: tf.keras.Model,
    tasks: Sequence[Task],
    directory: str,
    formats: Sequence[str],
    images: Images,
) -> Dict[str, Any]:
    """Runs what was written and compares it with the float32 student.

    Everybody gets the same 8-bit images, at most 50, spread evenly.

    Args:
      student: as was exported.
      tasks: as were exported.
      directory: where the files are.
      formats: of `FORMATS`; what to compare.
      images: which to compare on.

    Returns:
      The content of export_report.json, all values plain: "images" (their number),
      "student" (task -> rmse against labels, None without), and "files": format ->
      "path", "bytes", "tasks": task -> "unit", "max_error" and "rms_error" (both from
      the student), "rmse" and "rmse_change" (against labels; a fraction of the
      student's rmse), None where undefined. Of classes the share of wrong pixels stands
      in place of the rmse.
    """
    measured = {task.name: _measured(task) for task in tasks}
    runtimes = {name: _load(name, directory) for name in formats}
    reference = FixedSizeStudent(student, tasks, images.size, None).serve
    differences = {n: {t.name: _Difference() for t in tasks} for n in formats}
    to_truth = {
        runtime: {name: accumulator_of(task) for name, task in measured.items()}
        for runtime in ("", *formats)
    }
    dataset, count = _comparison_batches(images, tasks)
    for batch in dataset:
        pixels = encodings.rgb_pixels(batch[RGB])
        expected = {k: v.numpy() for k, v in reference(tf.constant(pixels)).items()}
        maps = {"": expected, **{n: run(pixels) for n, run in runtimes.items()}}
        for task in tasks:
            truth, valid = read_truth(task, batch)
            for runtime, predicted in maps.items():
                if runtime:
                    differences[runtime][task.name].update(
                        predicted[task.name], expected[task.name]
                    )
                if truth is not None:
                    to_truth[runtime][task.name].update(
                        predicted[task.name], truth, valid
                    )
    rmse = {
        runtime: {name: main_error(m.result()) for name, m in entries.items()}
        for runtime, entries in to_truth.items()
    }
    files = {}
    for name in formats:
        path = _path(name, directory)
        entries = {
            task.name: {
                "unit": task.unit,
                **differences[name][task.name].result(),
                "rmse": rmse[name][task.name],
                "rmse_change": _change(rmse[name][task.name], rmse[""][task.name]),
            }
            for task in tasks
        }
        files[name] = {"path": path, "bytes": _size_bytes(path), "tasks": entries}
        _warn_of_nonfinite(path, entries)
    return {"images": count, "student": rmse[""], "files": files}


def _measured(task: Task) -> Task:
    """The task with the one metric that files are compared by, whatever its own are."""
    metrics = ("accuracy",) if task.has_classes else ("rmse",)
    return dataclasses.replace(task, metrics=metrics)


def format_table(report: Mapping[str, Any], style: str = "simple") -> str:
    """Returns a report of `compare` as a table, a row for each file and task.

    Args:
      report: what `compare` returned.
      style: one of tabulate's; "github" is Markdown.
    """
    rows = []
    for name, file in report["files"].items():
        size = f"{file['bytes'] / _MEBIBYTE:.2f}"
        for task, entry in file["tasks"].items():
            title = get_task(task).title
            if entry["unit"]:
                title += f" ({entry['unit']})"
            change = entry["rmse_change"]
            rows.append(
                [
                    name,
                    size,
                    title,
                    _number(entry["max_error"]),
                    _number(entry["rms_error"]),
                    _number(report["student"][task]),
                    _number(entry["rmse"]),
                    "-" if change is None else f"{change:+.2%}",
                ]
            )
            name = size = ""
    columns = ["file", "MiB", "task", "largest error", "rms error"]
    columns += ["student's rmse", "its rmse", "change"]
    return tabulate(
        rows,
        columns,
        tablefmt=style,
        colalign=("left", "right", "left", *["right"] * 5),
        disable_numparse=True,
    )


def write_report(report: Mapping[str, Any], directory: str) -> None:
    """Writes export_report.json and the same as a Markdown table."""
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    about = (
        f"Errors are differences from the float32 student on {report['images']} "
        "validation images; rmse is against labels"
    )
    if any(get_task(name).has_classes for name in report["student"]):
        about += ", of classes the share of wrong pixels"
    about += ".\n"
    table = format_table(report, "github") + "\n\n" + about
    export_folder.put(directory, {REPORT: text.encode(), TABLE: table.encode()})


class _Difference:
    """The largest and the rms difference of everything seen."""

    def __init__(self):
        self._largest, self._squared, self._values = 0.0, 0.0, 0

    def update(self, values: np.ndarray, expected: np.ndarray) -> None:
        difference = values.astype(np.float64) - expected
        self._largest = np.maximum(self._largest, np.abs(difference).max())
        self._squared += np.sum(difference**2)
        self._values += difference.size

    def result(self) -> Dict[str, Any]:
        if not np.isfinite(self._squared):
            return {"max_error": None, "rms_error": None}
        rms = math.sqrt(self._squared / self._values)
        return {"max_error": float(self._largest), "rms_error": rms}


def _warn_of_nonfinite(path: str, entries: Mapping[str, Any]) -> None:
    for task, entry in entries.items():
        if entry["max_error"] is None:
            logging.warning(
                "%s: predictions of %s are not finite. Do not use it.", path, task
            )


def _calibration_images(images: Images) -> np.ndarray:
    dataset = image_dataset(
        images.calibration,
        Batches(images.size, 1, images.antialias),
        seed=0,
        steps=len(images.calibration),
    )
    return np.concatenate([encodings.rgb_pixels(batch[RGB]) for batch in dataset])


def _comparison_batches(images: Images, tasks: Sequence[Task]):
    samples = spread(images.comparison, _COMPARED_IMAGES)
    batches = Batches(images.size, 1, images.antialias)
    dataset = labelled_dataset(samples, tasks, batches)
    return dataset, len(samples)


def _path(name: str, directory: str) -> str:
    return directory if name == SAVED_MODEL else os.path.join(directory, FILES[name])


def _load(name: str, directory: str) -> Answer:
    path = _path(name, directory)
    if name == "onnx":
        return onnx_file.load(path)
    if name != SAVED_MODEL:
        return tflite.load(path)
    model = tf.saved_model.load(path)

    def run(pixels: np.ndarray) -> Dict[str, np.ndarray]:
        maps = model.signatures[saved_model.DEFAULT](images=tf.constant(pixels))
        return {name: values.numpy() for name, values in maps.items()}

    return run


def _size_bytes(path: str) -> int:
    """Of a file, or of what a SavedModel needs of its folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    size = os.path.getsize(os.path.join(path, "saved_model.pb"))
    for folder, _, names in os.walk(os.path.join(path, "variables")):
        size += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
    return size


def _change(rmse, reference):
    """How much larger an rmse is, as a fraction."""
    return None if rmse is None or not reference else rmse / reference - 1


def _number(value) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}"
