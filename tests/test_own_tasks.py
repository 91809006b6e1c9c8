"""A student of tasks of one's own, a kind each: trained, measured, exported, predicted.

What the commands say is compared with what is computed here from the files, by numpy.
"""

import json

import gin
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf.errors import UserError
from soka_tf.runs.config import parse_gin
from soka_tf.runs.finish import complete
from soka_tf.runs.settings import Settings
from soka_tf.serving.saved_model import read_metadata
from soka_tf.tasks import TASKS, get_task
from tests import own_tasks
from tests.own_tasks import DEFINITIONS
from tests.tools import run_command


def label(folder, key, task):
    with Image.open(folder / f"{key}_domain_{task}.png") as image:
        return np.array(image)


def truth_of(folder, key, task):
    """A label in units, NaN where there is none: as docs/tasks.md says."""
    pixels = label(folder / "labelled" / "home" / task, key, task).astype(np.float64)
    if task == "distance":
        return np.where(pixels < 64500, pixels / 512, np.nan)
    if task == "ground":
        return np.where(pixels < 255, pixels, np.nan)
    if task == "facing":
        vectors = pixels / 255 * 2 - 1
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.where(length < 0.1, np.nan, vectors / length)
    return pixels / 65535 * 4 - 1 if task == "height" else pixels / 65535


def metrics_of(task, predicted, wanted):
    """The metrics, and the error that skills are of, by hand."""
    known = np.isfinite(wanted)
    if task == "facing":
        known = known.all(-1)
    predicted, wanted = predicted[known], wanted[known]
    if task == "ground":
        ious = [
            np.sum((predicted == i) & (wanted == i))
            / np.sum((predicted == i) | (wanted == i))
            for i in (0, 1)
        ]
        right = np.mean(predicted == wanted)
        return {"accuracy": right, "mean_iou": np.mean(ious)}, 1 - right
    rmse = np.sqrt(np.mean((predicted - wanted) ** 2))
    found = {"rmse": rmse}
    if task == "facing":
        cosines = np.clip(np.sum(predicted * wanted, -1), -1, 1)
        found = {"mean_angle_deg": np.degrees(np.arccos(cosines)).mean(), **found}
    elif task != "distance":
        found["mean_absolute_error"] = np.abs(predicted - wanted).mean()
    return found, rmse


@pytest.fixture(scope="module")
def run_folder(tiny, tmp_path_factory):
    """Of a run of two steps, with everything that its tasks need below it."""
    folder = tmp_path_factory.mktemp("own")
    own_tasks.write(folder)
    own_tasks.forget()
    gin.clear_config()
    parse_gin(["gin/rooms/soka.gin"], own_tasks.params(tiny, folder, "max_steps = 2"))
    from soka_tf.runs.build_run import build_run

    run = build_run(str(folder / "run"))
    run.model.run_eagerly = True  # faster than tracing graphs, for two steps
    complete(run, str(folder / "run"))
    gin.clear_config()
    own_tasks.forget()
    return folder


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs a command as a process that knows of no task but the built-in ones."""

    def run(name, *arguments):
        gin.clear_config()
        own_tasks.forget()
        done = run_command(name, *arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert done.code == 0, done.err
        gin.clear_config()
        return done

    return run


def validation(folder):
    split = json.loads((folder / "run" / "split.json").read_text())
    return [key.split("/")[-1] for key in split["validation"]]


def predictions(folder, key):
    """What the exported student says of an image, in units."""
    student = tf.saved_model.load(str(folder / "run" / "saved_model"))
    rgb = label(folder / "labelled" / "home" / "rgb", key, "rgb")
    maps = student.signatures["serving_default"](images=tf.constant(rgb[None]))
    return {task: values.numpy()[0] for task, values in maps.items()}


def compared(maps, task):
    """A map as `truth_of` has it."""
    values = maps[task].astype(np.float64)
    if task == "ground":
        return values.argmax(-1)
    return values if task == "facing" else values[..., 0]


def test_evaluation_of_every_kind_is_what_the_files_say(run_folder, command):
    done = command(
        "evaluate", f"--model_dir={run_folder / 'run'}", f"--out_dir={run_folder / 'm'}"
    )
    result = json.loads((run_folder / "m" / "evaluation.json").read_text())
    keys = validation(run_folder)
    answers = [predictions(run_folder, key) for key in keys]
    assert list(result["tasks"]) == list(DEFINITIONS)
    for task, entries in result["tasks"].items():
        wanted = np.stack([truth_of(run_folder, key, task) for key in keys])
        found, error = metrics_of(
            task, np.stack([compared(maps, task) for maps in answers]), wanted
        )
        for name, value in found.items():
            assert entries["student"][name] == pytest.approx(value, rel=2e-3), task
        if task == "ground":
            counts = np.unique(wanted[np.isfinite(wanted)], return_counts=True)[1]
            constant = 1 - counts.max() / counts.sum()
            trivial = entries["baseline_commonest_class"]
            assert trivial["accuracy"] == pytest.approx(1 - constant)
        else:
            constant = entries["baseline_median"]["rmse"]
        assert entries["student"]["skill"] == pytest.approx(
            1 - error / constant, abs=3e-3
        )
        assert set(entries["student"]) == {*TASKS[task].metrics, "skill"}
    for text in ("distance to it", "mIoU", "commonest class", "(m)", "mae", "°"):
        assert text in done.out, text


def test_predict_writes_files_of_every_kind_in_their_units_and_colours(
    run_folder, command, tmp_path
):
    command(
        *("predict", f"--saved_model={run_folder / 'run' / 'saved_model'}"),
        f"--images={run_folder / 'labelled' / 'home' / 'rgb'}",
        f"--out_dir={tmp_path}",
    )
    key = validation(run_folder)[0]
    maps = predictions(run_folder, key)
    files = {task: label(tmp_path, key, task) for task in DEFINITIONS}
    expected = {
        "distance": np.rint(np.clip(maps["distance"][..., 0], 0, None) * 512),
        "ground": maps["ground"].argmax(-1),
        "facing": np.rint((maps["facing"] + 1) / 2 * 255),
        "height": np.rint((maps["height"][..., 0] + 1) / 4 * 65535),
        "outline": np.rint(maps["outline"][..., 0] * 65535),
    }
    for task, pixels in expected.items():
        bits = np.uint8 if task in ("ground", "facing") else np.uint16
        assert files[task].dtype in (bits, np.int32), task
        assert np.abs(files[task].astype(int) - pixels).max() <= 1, task
    with Image.open(tmp_path / f"{key}.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 20)}
    classes = set(np.unique(files["ground"]))
    assert {tuple(DEFINITIONS["ground"]["colours"][i]) for i in classes} <= colours


def test_export_in_every_format_agrees_with_the_student(run_folder, command, tmp_path):
    pytest.importorskip("onnxruntime")
    command(
        *("export", f"--model_dir={run_folder / 'run'}", f"--export_dir={tmp_path}"),
        "--format=saved_model,tflite_float16,onnx",
    )
    report = json.loads((tmp_path / "export_report.json").read_text())
    for name, file in report["files"].items():
        for task, entry in file["tasks"].items():
            assert entry["max_error"] < 0.05, (name, task)
            assert entry["rmse"] == pytest.approx(report["student"][task], abs=0.05)


def test_metadata_describes_the_tasks_and_registers_them(run_folder):
    metadata = read_metadata(str(run_folder / "run" / "saved_model"))
    ground = metadata["tasks"]["ground"]
    assert ground["classes"] == ["ground", "other"]
    assert metadata["tasks"]["height"]["unit"] == "m"
    for task, described in metadata["tasks"].items():
        assert get_task(task).definition == described["definition"]
        assert described["shape"] == [None, 16, 16, get_task(task).channels]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t["ground"].pop("definition"), "no student has a task 'ground'"),
        (
            lambda t: t["ground"]["definition"].update(kind="maps"),
            "task 'ground': kind must be one of .*'maps'",
        ),
        (
            lambda t: t["ground"].update(definition=[3]),
            r"ground.definition has no names",
        ),
        (
            lambda t: t.update(normal={**t["facing"]}),
            "'normal': the name is that of a built-in task",
        ),
        (lambda t: t["ground"]["shape"].append(3), "shape of ground must be"),
    ],
)
def test_wrong_definitions_of_an_export_are_refused(
    run_folder, tmp_path, change, message
):
    source = run_folder / "run" / "saved_model"
    (tmp_path / "saved_model.pb").write_bytes((source / "saved_model.pb").read_bytes())
    path = tmp_path / "assets.extra" / "metadata.json"
    path.parent.mkdir()
    metadata = json.loads((source / "assets.extra" / "metadata.json").read_text())
    change(metadata["tasks"])
    path.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=message) as refused:
        read_metadata(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("fresh_gin")
def test_stored_configuration_defines_the_tasks_of_the_run(run_folder):
    stored = str(run_folder / "run" / "operative_config.gin")
    parse_gin([], [], base=None, stored=stored)
    assert Settings().task_names == list(DEFINITIONS)
    assert get_task("height").encoding.low == -1.0


@pytest.mark.usefixtures("fresh_gin")
def test_same_command_goes_on_and_other_definitions_are_refused(tiny, run_folder):
    from soka_tf.runs.build_run import build_run

    ways = own_tasks.params(tiny, run_folder, "max_steps = 2")
    parse_gin(["gin/rooms/soka.gin"], ways)
    build_run(str(run_folder / "run"))  # as it was
    gin.clear_config()
    own_tasks.forget()
    other = {**DEFINITIONS, "height": {**DEFINITIONS["height"], "range": [0, 3]}}
    parse_gin(["gin/rooms/soka.gin"], [*ways, f"define_tasks.definitions = {other}"])
    with pytest.raises(UserError, match="another configuration: define_tasks.def"):
        build_run(str(run_folder / "run"))
