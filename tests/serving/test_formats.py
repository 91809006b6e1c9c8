"""TensorFlow Lite and ONNX files: what they answer, what is told of them, failures."""

import errno
import importlib.util
import json
import os
import re
import sys
import types

import gin
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf import cli, export
from soka_tf.data import encodings
from soka_tf.data.samples import Sample
from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.runs import build_networks
from soka_tf.runs.checkpoint_folder import CheckpointFolder
from soka_tf.runs.config import parse_gin
from soka_tf.runs.folder import claim
from soka_tf.runs.settings import Settings
from soka_tf.serving import (
    export_folder,
    fixed_size,
    formats,
    model_card,
    onnx_file,
    tflite,
)
from soka_tf.serving.saved_model import read_metadata
from soka_tf.soka.student import Student
from soka_tf.tasks import get_task
from tests import tiny_runs
from tests.encode_rgb import encode_rgb

SIZE = 32
TASKS = tuple(get_task(n) for n in ("depth_zbuffer", "normal"))
NAMES = [task.name for task in TASKS]
TFLITE = ("tflite_float16", "tflite_int8")
ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
POSITIVE = ("gamma", "moving_variance")
# Largest rms error, in parts of the maps' own spread.
TOLERANCE = {"tflite_float16": 0.01, "tflite_int8": 0.15}


@pytest.fixture(scope="module")
def student():
    encoder = Encoder(units=(1, 1, 1, 1), width=1 / 32, strides=(2, 2, 2, 1))
    decoders = {
        task.name: Decoder(task.channels, 1 / 64, upsamplings=3, min_filters=4)
        for task in TASKS
    }
    student = Student(encoder, decoders)
    rng = np.random.default_rng(0)
    for variable in student.variables:
        name = variable.name.split("/")[-1][:-2]
        if name != "kernel":
            around = 1.0 if name in POSITIVE else 0.0
            variable.assign(around + 0.2 * rng.uniform(-1, 1, variable.shape))
    return student


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    samples = []
    for i in range(6):
        files = {name: str(folder / f"{i}_{name}.png") for name in ("rgb", *NAMES)}
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        image.save(files["rgb"])
        depth = rng.integers(500, 5000, (SIZE, SIZE)).astype(np.uint16)
        Image.fromarray(depth).save(files["depth_zbuffer"])
        del files["normal"]  # some tasks have no labels
        samples.append(Sample(str(i), str(i), files))
    return formats.Images(samples[:4], samples[4:], SIZE, antialias=True)


@pytest.fixture(scope="module")
def exported(student, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "export"
    paths = formats.write_formats(student, TASKS, str(folder), TFLITE, images)
    names = [export_folder.MANIFEST, *model_card.FILES, *map(os.path.basename, paths)]
    assert names == sorted(os.listdir(folder))
    return folder


@pytest.fixture(scope="module")
def report(student, images, exported):
    return formats.compare(student, TASKS, str(exported), TFLITE, images)


def pixels_of(samples):
    return np.stack([np.asarray(Image.open(s.files["rgb"])) for s in samples])


def students_maps(student, samples):
    rgb = np.stack([encode_rgb(p, SIZE) for p in pixels_of(samples)])
    answers = student(rgb, training=False)
    return {t.name: encodings.decode(t, answers[t.name].numpy()) for t in TASKS}


def rms(values):
    return np.sqrt(np.mean(np.square(values, dtype=np.float64)))


@pytest.mark.parametrize("name", TFLITE)
def test_tflite_file_answers_close_to_the_student(exported, student, images, name):
    expected = students_maps(student, images.comparison)
    answer = tflite.load(str(exported / formats.FILES[name]))
    maps = answer(pixels_of(images.comparison))
    assert set(maps) == set(NAMES)
    for task, values in expected.items():
        assert maps[task].dtype == np.float32 and maps[task].shape == values.shape
        assert rms(maps[task] - values) < TOLERANCE[name] * values.std(), task


@pytest.mark.parametrize("name", TFLITE)
def test_tflite_file_takes_one_image_of_bytes_by_name(exported, name):
    interpreter = tflite.make_interpreter(str(exported / formats.FILES[name]))
    (signature,) = interpreter.get_signature_list().values()
    assert signature == {"inputs": ["images"], "outputs": sorted(NAMES)}
    (details,) = interpreter.get_input_details()
    assert details["dtype"] == np.uint8
    assert list(details["shape_signature"]) == [1, SIZE, SIZE, 3]


def test_files_are_made_of_a_graph_that_resizes_nothing(student):
    module = fixed_size.FixedSizeStudent(student, TASKS, SIZE, 1)
    graph = module.serve.get_concrete_function().graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert kinds and not [kind for kind in kinds if "Resize" in kind]


def test_int8_file_computes_in_int8_but_at_its_ends(exported):
    interpreter = tflite.make_interpreter(str(exported / "student_int8.tflite"))
    dtypes = {d["name"]: d["dtype"] for d in interpreter.get_tensor_details()}

    def of(part):
        return {dtype for name, dtype in dtypes.items() if part in name}

    assert of("conv5/LeakyRelu") == {np.int8}
    assert of("deconv14/LeakyRelu") == of("decoder_output/Tanh") == {np.float32}
    assert of(fixed_size.UNITS_SCOPE) <= {np.float32, np.int32}
    sizes = [(exported / formats.FILES[name]).stat().st_size for name in TFLITE]
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    "child, said",
    [
        ("import sys; sys.exit('no such operation')", "status 1: no such operation"),
        ("import os; os.abort()", "status -6: without a message"),
    ],
)
def test_converter_that_fails_or_aborts_is_one_sentence(
    student, images, tmp_path, monkeypatch, child, said
):
    monkeypatch.setattr(tflite, "_CHILD", child)
    with pytest.raises(UserError, match=f"{said}. Leave the tflite formats out"):
        formats.write_formats(student, TASKS, str(tmp_path), TFLITE, images)
    assert not list(tmp_path.iterdir())


def test_full_temporary_folder_is_named_and_what_to_do(student, images, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(UserError, match="soka_tf_tflite_.*No space left.*set TMPDIR"):
        formats.write_formats(student, TASKS, "nowhere", ["tflite_int8"], images)


def test_file_runs_by_litert_where_tensorflow_has_no_interpreter(monkeypatch):
    monkeypatch.setattr(tflite, "tf", types.SimpleNamespace(__version__="3.0"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(UserError, match="TensorFlow 3.0 .* pip install ai-edge-litert"):
        tflite.make_interpreter("a.tflite")
    litert = types.SimpleNamespace(Interpreter=lambda path: f"LiteRT of {path}")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", litert)
    assert tflite.make_interpreter("a.tflite") == "LiteRT of a.tflite"


def test_report_tells_size_errors_and_rmse_of_each_file(
    report, exported, student, images
):
    expected = students_maps(student, images.comparison)
    assert report["images"] == 2 and list(report["files"]) == list(TFLITE)
    file = report["files"]["tflite_int8"]
    assert file["bytes"] == (exported / "student_int8.tflite").stat().st_size
    maps = tflite.load(file["path"])(pixels_of(images.comparison))
    for task, values in expected.items():
        error = maps[task].astype(np.float64) - values
        entry = file["tasks"][task]
        assert entry["max_error"] == pytest.approx(np.abs(error).max(), rel=1e-3)
        assert entry["rms_error"] == pytest.approx(rms(error), rel=1e-3)
    truth = np.stack(
        [np.asarray(Image.open(s.files["depth_zbuffer"])) for s in images.comparison]
    )
    depth = file["tasks"]["depth_zbuffer"]
    wanted = rms(maps["depth_zbuffer"][..., 0] - truth / 512)
    assert depth["rmse"] == pytest.approx(wanted, rel=1e-2)
    before = report["student"]["depth_zbuffer"]
    assert depth["rmse_change"] == pytest.approx(depth["rmse"] / before - 1)
    normal = file["tasks"]["normal"]
    assert normal["rmse"] is None and normal["rmse_change"] is None


def test_report_is_kept_as_json_and_as_markdown(report, tmp_path):
    formats.write_report(report, str(tmp_path))
    assert json.loads((tmp_path / formats.REPORT).read_text()) == report
    lines = (tmp_path / formats.TABLE).read_text().splitlines()
    assert lines[0].startswith("| file ") and "validation images" in lines[-1]
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[1] == "tflite_float16" and cells[3] == "depth (m)"
    assert re.fullmatch(r"[+-]\d+\.\d\d%", cells[8])


def test_report_of_answers_that_are_not_finite_warns(report, caplog):
    difference = formats._Difference()
    difference.update(np.array([np.nan], np.float32), np.zeros(1, np.float32))
    assert difference.result() == {"max_error": None, "rms_error": None}
    formats._warn_of_nonfinite("a.tflite", {"normal": difference.result()})
    assert "a.tflite: predictions of normal are not finite" in caplog.text


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ONNX_PACKAGES)),
    reason="needs the packages onnx, onnxruntime and tf2onnx",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tf2onnx's own code
def test_onnx_file_answers_any_batch_as_the_student_does(student, images, tmp_path):
    (path,) = formats.write_formats(student, TASKS, str(tmp_path), ["onnx"], images)
    answer = onnx_file.load(path)
    expected = students_maps(student, images.comparison)
    for count in (1, 2):
        maps = answer(pixels_of(images.comparison[:count]))
        assert set(maps) == set(NAMES)
        for task, values in expected.items():
            np.testing.assert_allclose(
                maps[task], values[:count], rtol=1e-3, atol=1e-3 * values.std()
            )


@pytest.mark.parametrize("missing", ONNX_PACKAGES)
def test_missing_onnx_package_is_named_before_anything_is_written(
    student, images, tmp_path, monkeypatch, missing
):
    monkeypatch.setattr(
        importlib, "import_module", fail_for(missing, importlib.import_module)
    )
    with pytest.raises(UserError, match=rf'{missing}.*pip install "tf2onnx==1.17.0"'):
        formats.write_formats(
            student, TASKS, str(tmp_path), ["tflite_float16", "onnx"], images
        )
    assert not list(tmp_path.iterdir())


def fail_for(missing, real):
    def import_module(name):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return sys if name in ONNX_PACKAGES else real(name)

    return import_module


def test_onnx_requirements_are_the_same_everywhere():
    setup = (tiny_runs.ROOT / "setup.py").read_text(encoding="utf-8")
    for_tests = (tiny_runs.ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    for requirement in onnx_file.REQUIREMENTS:
        assert f'"{requirement}; python_version' in setup
        assert f"\n{requirement}; python_version" in for_tests


@pytest.mark.parametrize("names", [["tflite"], []])
def test_unknown_or_no_format_is_refused_with_those_there_are(names):
    with pytest.raises(UserError, match="Allowed: saved_model, tflite_float16, tfl"):
        formats.check_formats(names)


def test_full_folder_keeps_the_earlier_file_and_nothing_half_written(
    tmp_path, monkeypatch
):
    path = tmp_path / "student.onnx"
    export_folder.put(str(tmp_path), {"student.onnx": b"earlier"})
    there = {"student.onnx", export_folder.MANIFEST}

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        export_folder.put(str(tmp_path), {"student.onnx": b"new"})
    assert {p.name for p in tmp_path.iterdir()} == there
    assert path.read_text() == "earlier"


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(UserError, match="it is a file"):
        export_folder.put(str(tmp_path / "thesis"), {"student.onnx": b"new"})
    assert (tmp_path / "thesis").read_text() == "years of work"


def run_command(*arguments):
    export.FLAGS.unparse_flags()
    with pytest.raises(SystemExit) as stopped:
        cli.run(export.main, export.FLAGS, ["export", *arguments])
    return stopped.value.code


@pytest.fixture
def model_dir(tiny, tmp_path, fresh_gin):
    """The folder of a run on rooms, as if after one step."""
    folder = tmp_path / "run"
    bindings = tiny.params(
        "tasks = ['depth_zbuffer', 'normal']",
        "images_dir = None",
        f"rooms.dir = {str(tmp_path / 'rooms')!r}",
        "rooms.count = 1",
        "rooms.train_views = 2",
        "rooms.validation_count = 1",
        "rooms.validation_views = 1",
    )
    parse_gin(["gin/rooms/soka.gin"], bindings)
    claim(str(folder), gin.config_str())
    student = build_networks.build_student(Settings().task_names)
    checkpoint = tf.train.Checkpoint(
        student=student, step=tf.Variable(1, dtype="int64")
    )
    directory = str(folder / "checkpoints")
    CheckpointFolder(directory, checkpoint).save(1)
    return folder


@pytest.mark.slow
def test_command_writes_beside_the_saved_model_and_prints_the_table(
    model_dir, tmp_path, capfd
):
    folder = tmp_path / "export"
    code = run_command(
        f"--model_dir={model_dir}",
        f"--export_dir={folder}",
        "--format=saved_model,tflite_float16",
    )
    printed, errors = capfd.readouterr()
    assert not code, errors
    assert {"saved_model.pb", "student_float16.tflite", formats.TABLE} <= {
        path.name for path in folder.iterdir()
    }
    kept = json.loads((folder / formats.REPORT).read_text())
    assert kept["step"] == 1 and list(kept["files"]) == ["saved_model", TFLITE[0]]
    for file in kept["files"].values():
        for task, entry in file["tasks"].items():
            assert entry["rms_error"] < 0.01, task
            assert abs(entry["rmse_change"]) < 0.01, task
    measured, following = printed.rstrip().split("\n\nNext:\n")
    assert following.strip().startswith("python -m soka_tf.predict --saved_model=")
    table, images = measured.rsplit("\n", 1)
    assert table.endswith(formats.format_table(kept))
    assert images.startswith("Errors and both rmse are of 1 of the 1 validation images")
    assert images.endswith("evaluation.json measure on all 1.")
    # TensorFlow Lite's own account of the conversion is kept from the user.
    assert "Non-Converted" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("given, wanted", [((), "bfloat16"), (("float32",), "float32")])
def test_command_exports_as_the_run_says_unless_told_otherwise(
    model_dir, tmp_path, given, wanted
):
    with open(model_dir / "operative_config.gin", "a") as file:
        file.write("\nrun.export_precision = 'bfloat16'\n")
    folder = tmp_path / "export"
    told = [f"--precision={precision}" for precision in given]
    assert not run_command(f"--model_dir={model_dir}", f"--export_dir={folder}", *told)
    assert read_metadata(str(folder))["precision"] == wanted


def test_help_names_every_format(capsys):
    assert not run_command("--help")
    text = capsys.readouterr().out
    assert "--format=saved_model,tflite_float16,tflite_int8,onnx" in text
    for name, file in formats.FILES.items():
        assert name in text and file in text
