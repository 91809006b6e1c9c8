"""The tool that compares teachers and chooses an auxiliary one, as users run it."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from soka_tf.data.filesystem import sha256_of
from soka_tf.teachers.auxiliary_choice import DEFAULT_THRESHOLD
from soka_tf.teachers.similarity import LAYERS
from tests import tiny_runs
from tests.tools import load_tool, run_tool

TARGETS = "--targets=depth,edge_texture"


@pytest.fixture
def run(capsys):
    return lambda *arguments: run_tool("task_similarity", *arguments, capsys=capsys)


@pytest.fixture(scope="module")
def two_teachers(tiny, tmp_path_factory):
    """A folder of fewer teachers, to be quick."""
    folder = tmp_path_factory.mktemp("two_teachers")
    for name in ("depth_zbuffer", "normal"):
        shutil.copy(tiny.teachers / f"{name}.safetensors", folder)
    return folder


def test_results_are_the_matrix_its_picture_and_the_choice(tiny, tmp_path, run):
    out_dir = tmp_path / "deep" / "out"
    done = run(
        f"--teachers={tiny.teachers}",
        f"--images={tiny.images}",
        f"--out_dir={out_dir}",
        TARGETS,
        "--targets=normal,edge_occlusion,depth",
        "--threshold=0.99",
        "--max_images=5",
        "--inputs=released",
        "--nocentred",
        "--layer=block3",
    )
    assert done.code == 0, done.err
    assert sorted(os.listdir(out_dir)) == ["similarity.json", "similarity.png"]
    with Image.open(out_dir / "similarity.png") as image:
        assert image.width > 300
    content = json.loads((out_dir / "similarity.json").read_text())
    names = content["names"]
    assert set(names) == {*tiny_runs.TARGETS, *tiny_runs.AUXILIARIES}
    matrix = np.array(content["similarity"])
    assert matrix.shape == (5, 5) and (matrix == matrix.T).all()
    assert content["images"] == 5 and content["source"] == str(tiny.images)
    assert content["settings"] == {
        "layer": "block3",
        "inputs": "released",
        "centred": False,
        "image_size": 16,
        "antialias": False,
    }
    file = tiny.teachers / "normal.safetensors"
    assert content["teachers"]["normal"] == {
        "file": str(file),
        "sha256": sha256_of(file),
    }
    choice, other = content["choices"]
    assert other["targets"] == ["normal", "edge_occlusion", "depth_zbuffer"]
    assert "\n".join(other["explanation"]) in done.out
    assert choice["targets"] == ["depth_zbuffer", "edge_texture"]
    s = matrix[names.index("depth_zbuffer"), names.index("edge_texture")]
    assert choice["pairs"][0]["similarity"] == s
    assert len(choice["ranking"]) == 3
    assert choice["explanation"][-1] == f"Decision: {choice['summary']}."
    assert "\n".join(choice["explanation"]) in done.out
    assert f"{s:.3f}" in done.out and "3  edge_texture" in done.out


@pytest.mark.slow
def test_without_images_rooms_are_drawn_and_without_targets_nothing_is_chosen(
    two_teachers, tmp_path, run, monkeypatch
):
    monkeypatch.setenv("SOKA_TF_CACHE", str(tmp_path / "cache"))
    done = run(f"--teachers={two_teachers}", f"--out_dir={tmp_path / 'out'}")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out" / "similarity.json").read_text())
    assert content["images"] == 200 and content["choices"] == []
    assert content["source"] == "procedural rooms of seed 2"
    assert "Decision" not in done.out


def test_damaged_image_is_named_and_left_out(tiny, two_teachers, tmp_path, run, caplog):
    images = shutil.copytree(tiny.images, tmp_path / "images")
    (images / "2.png").write_bytes(b"not an image")
    done = run(
        f"--teachers={two_teachers}",
        f"--images={images}",
        f"--out_dir={tmp_path / 'out'}",
    )
    assert done.code == 0
    assert "2.png: it is not an image" in caplog.text
    content = json.loads((tmp_path / "out" / "similarity.json").read_text())
    assert content["images"] == 5


def test_images_of_one_building_are_not_mistaken_for_a_folder_of_photographs(
    tiny, tmp_path, run
):
    for domain in ("rgb", "normal"):
        tiny_runs.write_images(tmp_path / "building" / domain, 3)
    done = run(
        f"--teachers={tiny.teachers}",
        f"--images={tmp_path / 'building'}",
        f"--out_dir={tmp_path / 'out'}",
    )
    assert done.code == 2 and "looks like one building" in done.err


MISTAKES = [
    (["--teachers=no/such"], "there is no such folder"),
    (["--teachers=nosuch"], "neither a folder nor tasks"),
    (["--teachers=depth,jigsaw"], "no teacher of jigsaw comes with soka_tf"),
    (["--teachers=depth"], "Two or more teachers"),
    (["--teachers={empty}"], "there is no teacher in the folder"),
    (["--teachers={damaged}"], "depth_zbuffer.safetensors: not a teacher file"),
    (["--images={empty}/no"], "there is no such folder"),
    (["--images={empty}"], "no image in"),
    (["--images={two}"], "2 readable images"),
    (["--max_images=2"], "at least 3. Received: 2"),
    (["--image_size=-1"], "--image_size is required and positive"),
    (["--targets=depth,dept"], "no task named 'dept'. Did you mean 'depth_"),
    (["--targets=depth,reshading"], "no teacher of the target reshading"),
    (["--targets=depth"], "two or more different targets"),
    (["--targets=depth,depth"], "named once"),
    (["--targets=depth,jigsaw"], "can only be an auxiliary"),
    ([TARGETS, "--threshold=1.5"], "in [-1, 1]. Received: 1.5"),
    (["--layer=block9"], "--layer"),
    (["--out_dir={file}"], "is not a folder"),
    (["--out_dir={file}/deep"], "is not a folder"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments, message, tiny, tmp_path, run, caplog
):
    places = {"empty": tmp_path / "empty", "two": tmp_path / "two"}
    places["empty"].mkdir()
    tiny_runs.write_images(places["two"], 2)
    places["damaged"] = shutil.copytree(tiny.teachers, tmp_path / "damaged")
    (places["damaged"] / "depth_zbuffer.safetensors").write_bytes(b"PK")
    places["file"] = tmp_path / "file"
    places["file"].write_text("")
    usual = {
        "--teachers": str(tiny.teachers),
        "--images": str(tiny.images),
        "--out_dir": str(tmp_path / "out"),
    }
    for argument in arguments:
        flag, _, value = argument.format(**places).partition("=")
        usual[flag] = value
    done = run(*(f"{flag}={value}" for flag, value in usual.items()))
    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
    assert "Comparing" not in caplog.text  # told before the work, not after


def test_unlike_sizes_of_teachers_ask_for_one(tiny, tmp_path, run):
    from soka_tf.networks.encoder import Encoder
    from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
    from soka_tf.teachers.taskonomy.teacher_file import save_teacher

    folder = shutil.copytree(tiny.teachers, tmp_path / "teachers")
    encoder = Encoder((1, 1, 1, 1), 1 / 32, (2, 2, 1, 1))
    save_teacher(
        TaskonomyTeacher("jigsaw", encoder, None, 32), folder / "jigsaw.safetensors"
    )
    done = run(f"--teachers={folder}", f"--out_dir={tmp_path / 'out'}")
    assert done.code == 2 and "--image_size is required" in done.err


def test_flags_offer_what_the_library_has():
    tool = load_tool("task_similarity")
    flags = tool.FLAGS
    assert tuple(flags["layer"].parser.enum_values) == LAYERS
    assert flags["threshold"].default == DEFAULT_THRESHOLD


def test_results_that_cannot_be_written_whole_are_not_written(tmp_path):
    tool = load_tool("task_similarity")
    with pytest.raises(TypeError):
        tool.write_json(str(tmp_path / "a.json"), {"b": 1, "c": object()})
    assert not list(tmp_path.iterdir())
