"""Runs that learn from a teacher that is a folder."""

import functools
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.pipeline import Batches, image_dataset
from soka_tf.data.sources import folder as images_of
from soka_tf.errors import UserError, plain_message
from soka_tf.runs.auxiliary import select_auxiliary
from soka_tf.runs.build_run import build_run
from soka_tf.runs.config import bound_values, operative_config, parse_gin
from soka_tf.runs.finish import complete
from soka_tf.runs.folder import claim_teachers
from soka_tf.runs.training_loop import train
from soka_tf.tasks import register_task
from soka_tf.teachers import load_teacher
from soka_tf.teachers.cache import TeacherCache
from soka_tf.teachers.finding import find_teachers, load_pool
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.teacher_file import save_teacher
from tests import tiny_runs
from tests.teachers.saved_model import folders
from tests.tools import run_command, run_tool

KD = (
    "tasks = ['depth_zbuffer', 'my_edges']",
    "auxiliary = 'none'",
    "build_amalgamation.variant = None",
    "max_steps = 2",
    "schedule.joint_steps = 1",
)
pytestmark = pytest.mark.usefixtures("fresh_gin")


@pytest.fixture
def caffe(tmp_path):
    folder = tmp_path / "caffe"
    folders.write_caffe(folder)
    return folder


def test_run_learns_from_a_folder_and_refuses_to_go_on_with_another(
    tiny, tmp_path, caffe
):
    bound = (*KD, f"find_teachers.folders = [{str(caffe)!r}]")
    run = tiny.build(tmp_path / "run", *bound)
    before = [v.numpy() for v in run.model.student.trainable_variables]
    train(run, str(tmp_path / "run"))
    moved = [
        np.abs(v - b).max()
        for v, b in zip(run.model.student.trainable_variables, before)
    ]
    assert max(moved) > 0
    assert f"[{str(caffe)!r}]" in operative_config()
    stored = json.loads((tmp_path / "run" / "teachers.json").read_text())
    assert stored["fingerprints"] == run.fingerprints
    kept = stored["fingerprints"]["my_edges"]
    assert kept == run.fingerprints["my_edges"] and len(kept) == 64

    run = tiny.build(tmp_path / "run", *bound, "max_steps = 3")
    train(run, str(tmp_path / "run"))  # goes on with the same one
    folders.write(caffe, {**folders.CAFFE, "layers": None})
    run = tiny.build(tmp_path / "run", *bound, "max_steps = 4")
    with pytest.raises(UserError) as refused:
        train(run, str(tmp_path / "run"))
    message = str(refused.value)
    assert f"another teacher of my_edges (fingerprint {kept[:12]} ->" in message
    assert "\n" not in message


def test_run_refuses_another_file_and_keeps_what_it_comes_from(tiny, tmp_path):
    teachers = tmp_path / "teachers"
    shutil.copytree(tiny.teachers, teachers)
    folder, bound = tmp_path / "run", ("max_steps = 1", f"teachers_dir = '{teachers}'")
    bound += ("run.export = False", "schedule.joint_steps = 1")
    complete(tiny.build(folder, *bound), str(folder))
    before = (folder / "origin.json").read_bytes()
    teacher = load_teacher(str(teachers / "depth_zbuffer.safetensors"))
    kernel = teacher.decoder.weights[0]
    kernel.assign(kernel + 1.0)
    save_teacher(teacher, str(teachers / "depth_zbuffer.safetensors"))
    tiny_runs.forget_teachers()
    with pytest.raises(UserError, match="another teacher of depth_zbuffer"):
        complete(tiny.build(folder, *bound, "max_steps = 2"), str(folder))
    assert (folder / "origin.json").read_bytes() == before
    # Of earlier versions, which did not ask.
    (folder / "teachers.json").write_text('{"fingerprints": {"depth_zbuffer": null}}')
    claim_teachers(str(folder), {"depth_zbuffer": "another"})


def test_replicas_learn_from_a_folder(tiny, tmp_path, caffe):
    bound = (*KD, f"find_teachers.folders = [{str(caffe)!r}]", "max_steps = 1")
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*bound))
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    run = build_run(str(tmp_path / "run"), strategy)
    train(run, str(tmp_path / "run"))
    trained = {id(v) for v in run.model.variables}
    teacher = run.model.teachers.targets["my_edges"]
    assert not trained & {id(v) for v in teacher._function.variables}


def test_kept_outputs_are_what_the_teacher_says_and_follow_the_manifest(
    tiny, tmp_path, caffe
):
    def cache_of(manifest):
        folders.write(caffe, {**folders.CAFFE, **manifest})
        pool = TeacherPool({"my_edges": load_teacher(caffe)})
        return pool, TeacherCache(tmp_path / "kept", pool, 16, layers=("c/4",))

    pool, cache = cache_of({})
    samples = images_of.find(tiny.images)
    cache.fill(samples, progress=False)
    data = image_dataset(samples, Batches(16, 3), 0, targets=cache.reader(samples))
    batch = next(iter(data))
    kept, said = batch["targets"], pool(batch["rgb"], ("c/4",))
    np.testing.assert_allclose(kept.maps["my_edges"], said.maps["my_edges"], atol=2e-3)
    np.testing.assert_allclose(
        kept.features["c/4"][0], said.features["c/4"][0], rtol=2e-3, atol=1e-3
    )
    changed = {**folders.CAFFE["input"], "channel_order": "rgb"}
    _, other = cache_of({"input": changed})
    assert other.records["my_edges"].folder != cache.records["my_edges"].folder


def test_folders_stand_beside_files_in_teachers_dir(tiny, tmp_path, caffe):
    place = tmp_path / "teachers"
    place.mkdir()
    shutil.copy(tiny.teachers / "normal.safetensors", place)
    shutil.copytree(caffe, place / "whatever")
    found = find_teachers(["my_edges", "normal"], (), place)
    assert found.targets == {
        "my_edges": place / "whatever" / "teacher.json",
        "normal": place / "normal.safetensors",
    }
    pool = load_pool(found)
    outputs = pool(tf.zeros([1, 16, 16, 3]), ())
    assert outputs.maps["my_edges"].shape == (1, 16, 16, 1)
    # The same folder by both ways is one teacher.
    again = find_teachers(["my_edges"], (), place, [str(place / "whatever")])
    assert again.targets == {"my_edges": place / "whatever" / "teacher.json"}

    for two in ([str(caffe)], [str(caffe / "teacher.json")]):
        with pytest.raises(UserError) as refused:
            find_teachers(["normal"], (), place, two)
        message = str(refused.value)
        assert f"Received for my_edges: {caffe / 'teacher.json'} and {place}" in message
    other = {"task": "normal", "task_definition": None}
    folders.write(place / "whatever", {**folders.CAFFE, **other})
    with pytest.raises(UserError) as refused:
        find_teachers(["normal"], (), place)
    assert f"{place / 'normal.safetensors'} and {place / 'whatever'}" in str(
        refused.value
    )


def test_given_folder_comes_before_the_teacher_that_comes_with_soka_tf(caffe):
    manifest = {"task": "edge_texture", "task_definition": None}
    folders.write(caffe, {**folders.CAFFE, **manifest})
    found = find_teachers(["edge2d", "normal"], (), None, [str(caffe)])
    assert found.targets["edge_texture"] == caffe / "teacher.json"
    assert found.targets["normal"].name == "normal.safetensors"


def test_flag_names_folders_and_the_dry_run_shows_them(
    tiny, tmp_path, caffe, capsys, monkeypatch
):
    done = run_command(
        "train",
        "--gin_file=gin/rooms/soka.gin",
        *(f"--gin_param={line}" for line in tiny.params(*KD)),
        f"--teacher={caffe}",
        f"--model_dir={tmp_path / 'run'}",
        "--dry_run",
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert done.code == 0
    assert str(caffe / "teacher.json") in done.out and "MISSING" not in done.out
    done = run_command(
        "train",
        f"--teacher={tmp_path / 'nowhere'}",
        f"--model_dir={tmp_path / 'run'}",
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert done.code == 2 and "there is no such manifest of a teacher" in done.err


def test_stored_configuration_cannot_grant_trust(tmp_path):
    stored = tmp_path / "operative_config.gin"
    stored.write_text("load_pool.trust_saved_model = True\nseed = 3\n")
    parse_gin([], [], stored=str(stored))
    assert bound_values()["load_pool.trust_saved_model"] is False
    assert bound_values()["seed"] == 3
    parse_gin([], ["load_pool.trust_saved_model = True"], stored=str(stored))
    assert bound_values()["load_pool.trust_saved_model"] is True


def test_missing_teacher_of_a_task_of_ones_own_is_told_how_to_make(tmp_path):
    register_task("my_edges", folders.EDGES)
    with pytest.raises(UserError) as refused:
        find_teachers(["my_edges"], (), tmp_path / "nowhere").require()
    message = str(refused.value)
    assert (
        "`python tools/wrap_teacher.py`" in message and "convert_teacher" not in message
    )


def test_auto_compares_a_folder_with_the_layer_and_names_one_without(
    tiny, tmp_path, caffe, caplog
):
    def select(tasks, samples=None):
        parse_gin(
            ["gin/rooms/soka.gin"],
            tiny.params(f"find_teachers.folders = [{str(caffe)!r}]"),
        )
        where = (16, False, None, "auto", str(tiny.teachers))
        return select_auxiliary(tasks, samples, *where)

    with pytest.raises(UserError) as refused:
        select(["my_edges", "normal"])
    assert plain_message(refused.value) == (
        f"{caffe / 'teacher.json'}: the teacher of 'my_edges' cannot be compared with "
        "others: it has no layer 'representation' (c/4). Bind auxiliary = 'none', name "
        "auxiliary teachers, or give its manifest such a layer."
    )
    assert "my_edges" not in select(["depth_zbuffer", "normal"]).summary
    layers = {"representation": {"output": "c4", "layout": "nchw"}}
    folders.write(caffe, {**folders.CAFFE, "layers": layers})
    selection = select(["my_edges", "normal"], lambda: images_of.find(tiny.images))
    assert {"my_edges", "keypoints3d"} < {*selection.compared}
    of_folder = selection.similarity[selection.compared.index("my_edges")]
    assert sorted(of_folder)[-1] == 1.0 > sorted(of_folder)[-2]


def test_similarity_tool_takes_folders_and_names_those_it_cannot_compare(
    tiny, tmp_path, caffe, capsys, caplog
):
    place = tmp_path / "teachers"
    place.mkdir()
    shutil.copy(tiny.teachers / "normal.safetensors", place)
    shutil.copytree(caffe, place / "edges")
    flags = (f"--teachers={place}", f"--images={tiny.images}")
    out = f"--out_dir={tmp_path / 'out'}"
    done = run_tool("task_similarity", *flags, out, capsys=capsys)
    assert done.code == 2 and "Found in" in done.err.splitlines()[-1]
    assert "no layer 'representation' (c/4)" in caplog.text
    layers = {"representation": {"output": "c4", "layout": "nchw"}}
    folders.write(place / "edges", {**folders.CAFFE, "layers": layers})
    done = run_tool("task_similarity", *flags, out, capsys=capsys)
    assert done.code == 0, done.err
    assert "my_edges" in done.out and "normal" in done.out


def test_list_shows_files_folders_and_the_tasks_that_they_define(
    tiny, tmp_path, caffe, capsys, monkeypatch
):
    shown = functools.partial(run_command, capsys=capsys, monkeypatch=monkeypatch)
    done = shown("list", f"--teachers_dir={tiny.teachers}", f"--teacher={caffe}")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "my_edges edges probability probability target" in lines
    assert f"my_edges 1 {caffe / 'teacher.json'}" in lines
    assert "normal 5 normal.safetensors" in lines
    assert f"Files without a folder are in {tiny.teachers}." in lines
    assert "edge_texture 2D edges of full scale continuous target" in lines
    assert "jigsaw jigsaw auxiliary" in lines
    (demo,) = [line for line in lines if line.startswith("gin/rooms/demo.gin")]
    assert demo.endswith("in one student, in minutes on two")
    done = shown("list")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert any(
        re.fullmatch(r"depth_zbuffer 5 0\.\d\d rmse 0\.\d+ m .*\.safetensors", line)
        for line in lines
    )
    widths = [len(s) for s in done.out.splitlines() if not s.startswith("Files")]
    assert max(widths) <= 100
    assert "Skill and error: on 2,000 views of test rooms" in done.out
    done = shown("list", "--teachers_dir=nowhere")
    assert done.code == 2 and "nowhere: there is no such folder" in done.err


def test_evaluate_refuses_another_teacher_than_the_run_learnt_from(
    tiny, tmp_path, caffe, capsys, monkeypatch
):
    bound = (*KD, f"find_teachers.folders = [{str(caffe)!r}]", "max_steps = 1")
    run = tiny.build(tmp_path / "run", *bound)
    train(run, str(tmp_path / "run"))
    folders.write(caffe, {**folders.CAFFE, "layers": None})
    done = run_command(
        "evaluate",
        f"--model_dir={tmp_path / 'run'}",
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert done.code == 2 and done.out == ""
    assert "learnt from another teacher of my_edges (fingerprint " in done.err
    assert not (tmp_path / "run" / "evaluation.json").exists()
