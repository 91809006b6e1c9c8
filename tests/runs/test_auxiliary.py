"""The auxiliary teachers of a run: named, none, or chosen and kept."""

import json
import types

import gin
import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.rooms import room_files
from soka_tf.data.sources import taskonomy
from soka_tf.errors import UserError
from soka_tf.runs import auxiliary
from soka_tf.runs.auxiliary import CHOICE_FILE, log_selection, select_auxiliary
from soka_tf.teachers.finding import SHIPPED_DIR

pytestmark = pytest.mark.usefixtures("fresh_gin")

DEPTH_EDGES = ("depth_zbuffer", "edge_texture")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Sixty rooms, enough for the shipped teachers to differ."""
    folder = tmp_path_factory.mktemp("rooms")
    room_files.generate_rooms(folder, 2, 30, 2, 64, ["rgb"], workers=1, progress=False)
    return taskonomy.find(str(folder), ["rgb"])


@pytest.fixture(scope="module", autouse=True)
def compared_once():
    """The same teachers on the same images are compared once for all tests."""
    compare, known = auxiliary.compare_teachers, {}

    def remember(names, folder, samples, size, layer, inputs, **settings):
        key = (*names, len(samples), layer, inputs)
        if key not in known:
            known[key] = compare(
                names, folder, samples, size, layer, inputs, **settings
            )
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auxiliary, "compare_teachers", remember)
        yield


def select(samples, model_dir, tasks=DEPTH_EDGES, auxiliary="auto", **bindings):
    for name, value in {"images": 60, **bindings}.items():
        gin.bind_parameter(f"similarity.{name}", value)
    return select_auxiliary(tasks, lambda: samples, 64, False, model_dir, auxiliary)


def never():
    raise AssertionError("images are looked for though there is nothing to choose")


@pytest.mark.parametrize(
    "bound, names",
    [
        ("none", ()),
        (None, ()),
        ([], ()),
        (["keypoint3d"], ("keypoints3d",)),
        (("normal", "keypoints3d"), ("normal", "keypoints3d")),
    ],
)
def test_named_teachers_are_taken_without_a_look_at_images(bound, names, tmp_path):
    selection = select_auxiliary(
        DEPTH_EDGES, never, 64, False, str(tmp_path), auxiliary=bound
    )
    assert selection.names == names and selection.choice is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_auto_takes_a_strong_teacher_and_not_the_weak_one(samples, tmp_path):
    selection = select(samples, str(tmp_path))
    (chosen,) = selection.names
    strong = {"depth_euclidean", "edge_occlusion", "keypoints3d", "normal"}
    assert chosen in {*strong, "segment_semantic"}
    ranking = [candidate.name for candidate in selection.choice.ranking]
    assert ranking[0] == chosen and ranking[-1] == "vanishing_point"
    assert selection.summary.startswith(f"auxiliary teacher {chosen}: S(depth_zbuffer")
    kept = json.loads((tmp_path / CHOICE_FILE).read_text())
    assert kept["auxiliary"] == [chosen] and kept["images"] == 60


def test_auto_takes_none_for_teachers_similar_enough(samples, tmp_path):
    selection = select(samples, str(tmp_path), tasks=("normal", "keypoint3d"))
    assert selection.names == ()
    assert selection.summary.startswith("no auxiliary teacher: S(normal, keypoints3d)")


def test_decision_of_a_run_is_kept_though_nothing_can_be_compared(
    samples, tmp_path, monkeypatch
):
    first = select(samples, str(tmp_path))
    monkeypatch.setattr(auxiliary, "compare_teachers", never)
    second = select_auxiliary(
        DEPTH_EDGES, never, 64, False, str(tmp_path), auxiliary="auto"
    )
    assert second.names == first.names and second.summary == first.summary
    assert (first.cached, second.cached) == (False, True)
    np.testing.assert_array_equal(first.similarity, second.similarity)


def test_open_choice_tells_the_candidates():
    selection = select_auxiliary(DEPTH_EDGES, None, 64, False, None, auxiliary="auto")
    assert selection.names == ()
    among = selection.summary.split("among: ")[1].split(", ")
    assert set(among) == {path.stem for path in SHIPPED_DIR.glob("*.safetensors")} - {
        "depth_zbuffer",
        "edge_texture",
    }


@pytest.mark.parametrize(
    "bindings, words",
    [
        ({"auxiliary": "keypoints3d"}, "'none', 'auto' or a list .*'keypoints3d'"),
        ({"auxiliary": ["deepth"]}, "no task named 'deepth'"),
        ({"threshold": 2.0}, r"similarity.threshold must be a number in \[-1, 1\]"),
        ({"layer": "block9"}, "layer must be one of"),
        ({"inputs": "demo"}, "inputs must be one of"),
        ({"tasks": ("depth_zbuffer", "denoising")}, "no teacher of the target denoi"),
        ({"tasks": ("depth_zbuffer",)}, "two or more different targets"),
        ({"images": 2}, "at least 3|fewer than 3|3 images"),
    ],
)
def test_choice_that_cannot_be_made_is_refused(samples, tmp_path, bindings, words):
    bindings = dict(bindings)
    tasks = bindings.pop("tasks", DEPTH_EDGES)
    with pytest.raises(UserError, match=words):
        select(samples, str(tmp_path), tasks, **bindings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"teachers": ["normal"], "similarity": [[1.0]]}',
        '{"teachers": ["normal", "x"], "similarity": [[1, 0], [0, 1]]}',
        '{"teachers": ["depth_zbuffer", "edge_texture"], "similarity": [[1], [1]]}',
        '{"teachers": ["depth_zbuffer", "edge_texture"], "similarity": '
        "[[1, NaN], [NaN, 1]]}",
    ],
)
def test_kept_decision_that_is_damaged_is_refused(tmp_path, content):
    (tmp_path / CHOICE_FILE).write_text(content)
    with pytest.raises(UserError, match="auxiliary.json: not a choice"):
        select(None, str(tmp_path))


def test_choice_is_shown_in_the_folder_and_once_in_tensorboard(samples, tmp_path):
    logs = tmp_path / "logs"
    for _ in range(2):  # the second is kept from the first
        selection = select(samples, str(tmp_path / "run"))
        writer = tf.summary.create_file_writer(str(logs))
        log_selection(selection, str(tmp_path / "run"), writer)
        writer.close()
    assert (tmp_path / "run" / "auxiliary.png").stat().st_size > 10000
    tags = [
        value.tag
        for path in sorted(logs.iterdir())
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    assert sorted(tags) == ["auxiliary/choice", "auxiliary/similarity"]
    nothing = types.SimpleNamespace(choice=None)
    log_selection(nothing, str(tmp_path / "none"), writer)
    assert not (tmp_path / "none").exists()
