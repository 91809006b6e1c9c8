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
from soka_tf.errors import UserError
from soka_tf.serving import exported, full_size, inputs, predictions, videos
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


def run(folder, out_dir, size="network"):
    samples = inputs.find_inputs([str(folder)], str(out_dir)).images
    names = inputs.output_names([s.key for s in samples], NAMES)
    damaged = predictions.predict_images(
        answer, TASKS, samples, names, str(out_dir), size
    )
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
    names = inputs.output_names(keys, NAMES)
    assert names == ["a_x", "b_x", "b_x-2", "y_png", "y_jpg", "Z", "z-2"]


def test_a_picture_is_never_named_like_the_raw_map_of_another_image():
    names = inputs.output_names(["a", "a_domain_edge_texture"], NAMES)
    files = [f for name in names for f in inputs.files_of(name, NAMES)]
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
        inputs.find_inputs([str(tmp_path)], str(tmp_path))


def test_overwriting_an_image_is_refused(tmp_path):
    save_image(tmp_path / "a.png")
    found = inputs.find_inputs([str(tmp_path / "a.png")], str(tmp_path / "out"))
    results = inputs.files_of("a", NAMES)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="would overwrite the image 'a.png'"):
            inputs.refuse_overwriting(found.paths, results, str(tmp_path), overwrite)


# At the images' own size


def weights(length, size):
    """[size, length]: linear between the centres of pixels, constant beyond them."""
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    rows = [np.interp(centres, np.arange(length), one) for one in np.eye(length)]
    return np.stack(rows, 1)


def test_raw_maps_have_their_images_size_resized_in_metres(tmp_path):
    save_image(tmp_path / "in" / "a.png", size=(40, 20))
    run(tmp_path / "in", tmp_path / "out", size="input")
    depth = np.asarray(Image.open(tmp_path / "out" / "a_domain_depth_zbuffer.png"))
    assert depth.shape == (20, 40)
    metres = weights(SIZE, 40) @ np.linspace(1, 5, SIZE)
    np.testing.assert_allclose(depth / 512, np.tile(metres, (20, 1)), atol=2e-3)


def test_bands_are_the_map_resized_at_once(monkeypatch):
    values = np.random.default_rng(0).uniform(1, 9, (5, 7, 1)).astype(np.float32)
    expected = np.einsum("yh,hwc,xw->yxc", weights(5, 23), values, weights(7, 31))
    at_once = full_size.pixels_at(TASKS[0], values, 23, 31)
    np.testing.assert_allclose(at_once, expected * 512, atol=1)
    monkeypatch.setattr(full_size, "_BAND_VALUES", 31 * 4)
    in_bands = full_size.pixels_at(TASKS[0], values, 23, 31)
    np.testing.assert_array_equal(in_bands, at_once)


def test_maps_that_shrink_are_averaged():
    values = np.tile(np.float32([0, 8]), 8)[None, :, None].repeat(16, 0)
    found = full_size.resized(TASKS[0], values, 2, 2, (0, 2))
    np.testing.assert_allclose(found, 4, atol=0.5)


def test_directions_are_unit_vectors_between_two_of_them_too():
    normal = get_task("normal")
    values = np.float32([[[1, 0, 0], [0, 1, 0]]])
    found = full_size.resized(normal, values, 1, 8, (0, 1))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    assert 0.3 < found[0, 3, 1] < found[0, 4, 1] < 0.95


def test_classes_are_the_likeliest_of_resized_probabilities():
    task = get_task("segment_semantic")
    values = np.zeros((1, 2, task.channels), np.float32)
    values[0, :, 2] = [1.0, 0.0]
    values[0, :, 5] = [0.0, 0.3]
    values[0, 1, 7] = 0.7
    found = full_size.pixels_at(task, values, 1, 400)
    assert found.dtype == np.uint8 and found.shape == (1, 400, 1)
    changes = np.flatnonzero(np.diff(found[0, :, 0].astype(int)))
    # 1 - t = 0.7 t at t = 10 / 17 between the two centres.
    assert found[0, 0, 0] == 2 and found[0, -1, 0] == 7
    assert changes == [100 + round(200 * 10 / 17) - 1]


# What to predict on


def test_folders_files_and_patterns_are_taken_together_each_image_once(tmp_path):
    for path in ("a/x.png", "a/sub/y.png", "b/x.jpg", "b/z.jpg", "b/note.txt"):
        if path.endswith("txt"):
            (tmp_path / path).write_text("")
        else:
            save_image(tmp_path / path)
    (tmp_path / "b" / "clip.mp4").write_bytes(b"")
    given = [str(tmp_path / one) for one in ("a", "b/*", "b/z.jpg", "**/y.png")]
    found = inputs.find_inputs(given, str(tmp_path / "out"))
    paths = [os.path.relpath(path, tmp_path) for path in found.paths]
    assert paths == ["a/sub/y.png", "a/x.png", "b/x.jpg", "b/z.jpg", "b/clip.mp4"]
    names = inputs.output_names([s.key for s in found.images], NAMES)
    assert names == ["y", "a_x", "b_x", "z"]


def test_a_folder_named_like_a_video_is_a_folder(tmp_path):
    folder = tmp_path / "clip.mp4"
    folder.mkdir()
    save_image(folder / "frame.png")
    found = inputs.find_inputs([str(folder)], str(tmp_path / "out"))
    assert [sample.key for sample in found.images] == ["frame"] and not found.videos


def test_same_names_in_folders_of_the_same_name_do_not_collide(tmp_path):
    for folder in ("p/photos", "q/photos"):
        save_image(tmp_path / folder / "a.png")
    given = [str(tmp_path / one) for one in ("p/photos", "q/photos")]
    found = inputs.find_inputs(given, str(tmp_path / "out")).images
    names = inputs.output_names([s.key for s in found], NAMES)
    assert names == ["photos_a", "photos_a-2"]


def test_a_pattern_that_matches_nothing_of_use_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"matches '.*\*\.txt', which matches 1 names"):
        inputs.find_inputs([str(tmp_path / "*.txt")], str(tmp_path / "out"))
    with pytest.raises(UserError, match="There is no file or folder .*none.mp4"):
        inputs.find_inputs([str(tmp_path / "none.mp4")], str(tmp_path / "out"))


def test_a_pattern_passes_over_the_folder_of_results(tmp_path):
    save_image(tmp_path / "a" / "x.png")
    save_image(tmp_path / "out" / "x.png")
    found = inputs.find_inputs([str(tmp_path / "*")], str(tmp_path / "out"))
    assert [os.path.relpath(p, tmp_path) for p in found.paths] == ["a/x.png"]


def test_results_that_are_there_are_replaced_only_if_told(tmp_path):
    (tmp_path / "a_domain_edge_texture.png").write_bytes(b"")
    results = inputs.files_of("a", NAMES)
    said = r"has 1 of the 3 files to write, such as 'a_domain_edge_texture.png'.*--over"
    with pytest.raises(UserError, match=said):
        inputs.refuse_overwriting([], results, str(tmp_path))
    inputs.refuse_overwriting([], results, str(tmp_path), overwrite=True)
    inputs.refuse_overwriting([], inputs.files_of("b", NAMES), str(tmp_path))


def test_the_export_of_a_run_is_found_in_its_folder(tmp_path):
    with pytest.raises(UserError) as refused:
        exported.find_export(str(tmp_path))
    assert str(tmp_path / "saved_model.pb") in str(refused.value)
    assert str(tmp_path / "saved_model" / "saved_model.pb") in str(refused.value)
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"")
    assert exported.find_export(str(tmp_path)) == str(tmp_path / "saved_model")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert exported.find_export(str(tmp_path)) == str(tmp_path)


# Videos


def video_of(path, frames, fps=5.0):
    pytest.importorskip("imageio_ffmpeg")
    videos.write(str(path), frames, fps)
    return inputs.find_inputs([str(path)], str(path.parent / "out")).videos


def test_every_frame_of_a_video_is_drawn_beside_its_maps(tmp_path):
    frames = [np.full((18, 32, 3), value, np.uint8) for value in (20, 120, 220)]
    samples = video_of(tmp_path / "clip.mp4", frames)
    out = tmp_path / "out"
    assert predictions.predict_videos(answer, TASKS, samples, ["clip"], str(out)) == 0
    assert os.listdir(out) == ["clip.mp4"]
    with videos.reading(str(out / "clip.mp4")) as video:
        assert video.fps == 5
        drawn = list(video.frames)
    assert len(drawn) == 3
    first = drawn[0].astype(int)
    assert first.shape[1] > 2 * first.shape[0] and first.shape[0] % 2 == 0
    # The frame in the picture, about in the middle of its column.
    greys = [image[image.shape[0] // 2, 200].mean() for image in drawn]
    np.testing.assert_allclose(greys, [20, 120, 220], atol=6)


def test_colours_of_a_video_mean_the_same_in_every_frame(tmp_path):
    def brightness(images):
        is_bright = images.mean() > 100
        depth = np.full((1, SIZE, SIZE, 1), 10 if is_bright else 1, np.float32)
        # By itself the second frame's scale would end at 20 m, and 10 m be its middle.
        depth[:, 0] = [[0], [20 if is_bright else 10]] * (SIZE // 2)
        return {"depth_zbuffer": tf.constant(depth)}

    frames = [np.full((18, 32, 3), value, np.uint8) for value in (20, 200)]
    samples = video_of(tmp_path / "clip.mp4", frames)
    predictions.predict_videos(
        brightness, TASKS[:1], samples, ["clip"], str(tmp_path / "out")
    )
    with videos.reading(str(tmp_path / "out" / "clip.mp4")) as video:
        dark, bright = (frame.astype(int).sum(-1) for frame in video.frames)
    row, column = dark.shape[0] // 2, dark.shape[1] - 250
    # magma's ends are black and a pale yellow of 696 in all; its middle has 359.
    assert dark[row, column] < 200 and bright[row, column] > 600


def test_a_damaged_video_is_named_and_leaves_nothing(tmp_path, caplog):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    samples = inputs.find_inputs([str(tmp_path / "clip.mp4")], "out").videos
    out = tmp_path / "out"
    assert predictions.predict_videos(answer, TASKS, samples, ["clip"], str(out)) == 1
    assert "clip.mp4 is left out: it is no video that ffmpeg reads" in caplog.text
    assert not out.exists()


def test_a_video_that_fails_half_way_leaves_nothing(tmp_path):
    frames = [np.zeros((18, 32, 3), np.uint8)] * 4
    samples = video_of(tmp_path / "clip.mp4", frames)
    left = iter([answer, answer])

    def failing(images):
        return next(left)(images)

    with pytest.raises(RuntimeError, match="StopIteration"):
        predictions.predict_videos(
            failing, TASKS, samples, ["clip"], str(tmp_path / "out")
        )
    assert os.listdir(tmp_path / "out") == []


def test_videos_without_the_package_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="Videos need the package imageio-ffmpeg"):
        videos.require_package()


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
        timeout=300,
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
    assert "1 image could not be read" in done.stderr
    assert "for 1 image into" in done.stderr
    assert "numbers of 16 bits, dark in a viewer" in done.stderr
    assert "have their images' sizes, resized from the network's 16" in done.stderr
    assert not re.search(r"Traceback|cuda|Warning", done.stderr)
    with Image.open(tmp_path / "out" / "a_domain_depth_zbuffer.png") as raw:
        assert raw.size == (40, 20)
    again = command(*flags, f"--out_dir={tmp_path / 'out'}", cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.count("\n") == 1
    assert "already has 3 of the 6 files" in again.stderr


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
            exported._load(str(tmp_path), tasks)


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
