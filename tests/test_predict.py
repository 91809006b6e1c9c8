import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf import predict
from soka_tf.data import encodings
from soka_tf.data.sources import folder
from soka_tf.errors import UserError
from soka_tf.tasks import get_task
from tests.tools import run_command

TASKS = (get_task("depth_zbuffer"), get_task("edge_texture"))
NAMES = [task.name for task in TASKS]
SIZE = 8


def answer(images):
    """A stand-in export: depth rises to the right, edges are the mean brightness."""
    assert images.dtype == np.uint8 and images.shape[0] == 1
    depth = np.broadcast_to(np.linspace(1, 5, SIZE)[None, None, :, None], (1, 8, 8, 1))
    edges = np.full((1, SIZE, SIZE, 1), 0.08 * images.mean() / 255)
    maps = {"depth_zbuffer": depth, "edge_texture": edges}
    return {name: tf.constant(values, tf.float32) for name, values in maps.items()}


def save_image(path, size=(40, 20), colour=(200, 100, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def run(folder, out_dir):
    samples = predict.find_inputs(str(folder), str(out_dir))
    names = predict.output_names([s.key for s in samples], NAMES)
    damaged = predict.predict(answer, TASKS, samples, names, str(out_dir))
    return damaged, sorted(p.name for p in out_dir.iterdir())


def test_every_image_gets_a_picture_and_its_raw_maps(tmp_path):
    save_image(tmp_path / "in" / "a.png")
    save_image(tmp_path / "in" / "sub" / "b.jpg")
    damaged, files = run(tmp_path / "in", tmp_path / "out")
    assert damaged == 0
    assert files == [
        f"{name}{end}"
        for name in ("a", "b")
        for end in (".png", *(f"_domain_{task}.png" for task in NAMES))
    ]


def test_raw_maps_are_in_the_taskonomy_encoding(tmp_path):
    save_image(tmp_path / "in" / "a.png")
    run(tmp_path / "in", tmp_path / "out")
    depth = np.asarray(Image.open(tmp_path / "out" / "a_domain_depth_zbuffer.png"))
    assert depth.shape == (SIZE, SIZE)
    np.testing.assert_array_equal(depth[0], np.rint(np.linspace(1, 5, SIZE) * 512))
    edges = np.asarray(Image.open(tmp_path / "out" / "a_domain_edge_texture.png"))
    np.testing.assert_array_equal(edges, round(0.08 * 100 / 255 * 65535))
    stored = encodings.store(TASKS[1], np.full((1, 1, 1), 0.08 * 100 / 255))
    assert edges[0, 0] == stored[0, 0, 0]


def test_picture_shows_the_image_and_the_map_at_its_aspect_ratio(tmp_path):
    save_image(tmp_path / "in" / "a.png", size=(40, 20))
    run(tmp_path / "in", tmp_path / "out")
    pixels = np.asarray(Image.open(tmp_path / "out" / "a.png")).astype(int)
    rows, columns = np.nonzero(np.all(pixels == [200, 100, 0], axis=-1))
    assert np.ptp(columns) + 1 == 2 * (np.ptp(rows) + 1)
    beside = pixels[rows.min() : rows.max() + 1, columns.max() + 1 :].sum(axis=-1)
    assert len(np.unique(beside)) > 100  # a colour ramp, not a plain area


def test_taskonomy_images_get_maps_with_taskonomy_names(tmp_path):
    save_image(tmp_path / "in" / "point_1_view_0_domain_rgb.png")
    _, files = run(tmp_path / "in", tmp_path / "out")
    assert "point_1_view_0.png" in files
    assert "point_1_view_0_domain_depth_zbuffer.png" in files


def test_a_damaged_image_is_named_counted_and_left_out(tmp_path, caplog):
    save_image(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    damaged, files = run(tmp_path / "in", tmp_path / "out")
    assert damaged == 1
    assert "good.png" in files and not any("bad" in file for file in files)
    assert "bad.png is left out" in caplog.text


def test_stems_that_collide_get_different_names():
    keys = ["a/x", "b/x", "b_x", "y.png", "y.jpg", "Z", "z"]
    names = predict.output_names(keys, NAMES)
    assert names == ["a_x", "b_x", "b_x-2", "y_png", "y_jpg", "Z", "z-2"]


def test_a_picture_is_never_named_like_the_raw_map_of_another_image():
    names = predict.output_names(["a", "a_domain_edge_texture"], NAMES)
    files = [f for name in names for f in predict._files(name, NAMES)]
    assert len(set(files)) == len(files)


def test_what_is_no_image_never_ends_the_others(tmp_path, caplog):
    save_image(tmp_path / "in" / "good.png")
    os.mkfifo(tmp_path / "in" / "a.png")
    numbers = np.full((4, 4), np.nan, np.float32)
    Image.fromarray(numbers).save(tmp_path / "in" / "b.tif")
    latin = tmp_path / "in" / os.fsdecode(b"caf\xe9.png")
    latin.write_bytes((tmp_path / "in" / "good.png").read_bytes())
    save_image(tmp_path / "in" / "tall.png", size=(1, 9000))
    damaged, files = run(tmp_path / "in", tmp_path / "out")
    assert damaged == 2 and len(files) == 9
    assert "a.png is left out: it is a named pipe" in caplog.text
    assert "b.tif is left out: its pixels are floating-point" in caplog.text


@pytest.mark.parametrize("letter", ["a", "\u00fc", "\u6f22"])
def test_names_that_are_too_long_are_cut_and_stay_different(tmp_path, letter):
    length = 251 // len(letter.encode()) - 1
    for end in "xy":
        save_image(tmp_path / "in" / f"{letter * length}{end}.png"[-255:])
    damaged, files = run(tmp_path / "in", tmp_path / "out")
    assert damaged == 0 and len(files) == 6
    assert all(file.startswith(letter) for file in files)


def test_results_inside_the_folder_are_no_inputs_of_the_next_run(tmp_path):
    save_image(tmp_path / "a.png")
    first = run(tmp_path, tmp_path / "out")
    assert run(tmp_path, tmp_path / "out") == first


def test_the_folder_of_images_is_refused_for_results(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(UserError, match="is the folder of the images"):
        predict.find_inputs(str(tmp_path), str(tmp_path))


def test_overwriting_an_image_is_refused(tmp_path):
    save_image(tmp_path / "a.png")
    (sample,) = folder.find(str(tmp_path / "a.png"))
    with pytest.raises(UserError, match="would overwrite the image 'a.png'"):
        predict._refuse_overwriting([sample.files["rgb"]], ["a"], TASKS, str(tmp_path))


def command(*arguments, cwd):
    root = os.path.dirname(os.path.dirname(os.path.abspath(predict.__file__)))
    environment = {**os.environ, "PYTHONPATH": root}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own
    return subprocess.run(
        [sys.executable, "-m", "soka_tf.predict", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command_predicts_with_an_export(tmp_path):
    from soka_tf.serving import saved_model

    pixels = tf.keras.Input((None, None, 3))
    shared = tf.keras.Model(pixels, {"representation": pixels})
    decoders = {}
    for task in TASKS:
        maps = tf.keras.layers.Conv2D(1, 1, activation="tanh")(pixels)
        decoders[task.name] = tf.keras.Model(pixels, maps)

    class Student:
        encoder = shared

    Student.decoders = decoders
    saved_model.export_student(Student, TASKS, 16, str(tmp_path / "export"))
    save_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"")
    flags = [f"--saved_model={tmp_path / 'export'}", f"--images={tmp_path / 'in'}"]
    done = command(*flags, f"--out_dir={tmp_path / 'out'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.png",
        "a_domain_depth_zbuffer.png",
        "a_domain_edge_texture.png",
    ]
    assert "bad.jpg is left out" in done.stderr
    assert "1 images could not be read" in done.stderr
    assert not re.search(r"Traceback|cuda|Warning", done.stderr)


def test_command_without_an_export_fails_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--saved_model={tmp_path}", "--images=.", "--out_dir=out"]
    done = run_command("predict", *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert "is not a SavedModel" in done.err


def test_command_runs_a_saved_model_that_writes_files_only_if_trusted(
    tmp_path, capsys, monkeypatch
):
    written = tmp_path / "written"

    def answers(images):
        tf.io.write_file(str(written), "x")
        depth = tf.ones([1, SIZE, SIZE, 1]) + 0 * tf.cast(tf.size(images), tf.float32)
        return {"depth_zbuffer": depth}

    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    module = tf.Module()
    module.serve = tf.function(answers, input_signature=[spec], autograph=False)
    model = tmp_path / "model"
    tf.saved_model.save(module, str(model), signatures=module.serve)
    (model / "assets.extra").mkdir()
    shape = [None, SIZE, SIZE, 1]
    about = {
        "format": 1,
        "image_size": SIZE,
        "tasks": {"depth_zbuffer": {"shape": shape}},
    }
    (model / "assets.extra" / "metadata.json").write_text(json.dumps(about))
    save_image(tmp_path / "in" / "a.png")
    flags = [f"--saved_model={model}", f"--images={tmp_path / 'in'}"]
    flags += [f"--out_dir={tmp_path / 'out'}"]
    done = run_command("predict", *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1
    assert "has the operation 'WriteFile'" in done.err
    assert not written.exists() and not (tmp_path / "out").exists()
    flags.append("--trust_saved_model")
    done = run_command("predict", *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert not done.code, done.err
    assert written.exists() and (tmp_path / "out" / "a.png").exists()


def test_command_refuses_an_export_whose_maps_are_not_its_tasks(tmp_path):
    class Exported(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def serve(self, images):
            return {"depth_zbuffer": tf.zeros([1, SIZE, SIZE, 7])}

    module = Exported()
    signatures = {"serving_default": module.serve}
    tf.saved_model.save(module, str(tmp_path), signatures)
    for tasks, why in ((TASKS[:1], "must have 1 channels"), (TASKS[1:], "edge_tex")):
        with pytest.raises(UserError, match=f"cannot be loaded .*{why}.*Export"):
            predict._load(str(tmp_path), "serving_default", tasks)


def test_help_does_not_import_tensorflow(tmp_path):
    program = (
        "import sys, soka_tf.predict; "
        "assert 'tensorflow' not in sys.modules, 'heavy import'"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(predict.__file__)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--saved_model" in command("--help", cwd=tmp_path).stdout
