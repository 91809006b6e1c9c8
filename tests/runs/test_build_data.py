"""From bindings to images; what does not fit is told by the binding's name."""

import os
import pathlib

import gin
import pytest

from soka_tf.data.rooms import room_files as room_drawing
from soka_tf.data.samples import Data, Sample
from soka_tf.errors import UserError
from soka_tf.runs import build_data as runs_data
from tests import tiny_runs

pytestmark = pytest.mark.usefixtures("fresh_gin")

TASKS = ["depth_zbuffer", "edge_texture"]


def build_data(bindings=None, tasks=TASKS, **arguments):
    for name, value in (bindings or {}).items():
        gin.bind_parameter(name, value)
    return runs_data.build_data(tasks, 16, **arguments)


@pytest.fixture
def taskonomy(tmp_path):
    root = tmp_path / "taskonomy"
    for domain in ("rgb", "edge_texture"):
        folder = root / "home" / domain
        tiny_runs.write_images(folder, 4)
        for path in folder.iterdir():
            path.rename(folder / f"point_{path.stem}_view_0_domain_{domain}.png")
    return root


@pytest.fixture
def rooms(tmp_path):
    return {
        "rooms.dir": str(tmp_path / "rooms"),
        "rooms.count": 2,
        "rooms.train_views": 2,
        "rooms.validation_count": 3,
        "rooms.validation_views": 1,
    }


def images_of(folder):
    return {"folders.images_dir": str(folder)}


def test_data_comes_from_the_folder_of_images_before_all_others(tiny, taskonomy, rooms):
    places = {"folders.taskonomy_dir": str(taskonomy), **rooms}
    data = build_data({**images_of(tiny.images), **places})
    assert data.source == f"the folder {tiny.images}"
    assert sorted(s.key for s in data.train + data.validation) == list("012345")
    assert data.train and data.validation
    assert not os.path.exists(rooms["rooms.dir"])


def test_data_to_measure_are_the_splits_or_all_images_where_none_is_in_it(
    tiny, tmp_path
):
    path = str(tmp_path / "split.json")
    of_run = build_data(images_of(tiny.images), split_file=path)
    before = pathlib.Path(path).read_text()
    assert build_data(split_file=path, measure_only=True) == of_run
    tiny_runs.write_images(tmp_path / "others", 3)
    for image in (tmp_path / "others").iterdir():
        image.rename(image.with_name(f"other_{image.name}"))
    others = images_of(tmp_path / "others")
    for place in (path, str(tmp_path / "none.json")):
        data = build_data(others, split_file=place, measure_only=True)
        assert data.train == [] and len(data.validation) == 3
    assert pathlib.Path(path).read_text() == before
    assert not (tmp_path / "none.json").exists()


def test_data_comes_from_taskonomy_before_rooms(taskonomy, rooms):
    data = build_data({"folders.taskonomy_dir": str(taskonomy), **rooms})
    assert data.source == f"Taskonomy folder {taskonomy}"
    assert len(data.train) == 3 and len(data.validation) == 1
    assert "edge_texture" in data.validation[0].files
    assert not os.path.exists(rooms["rooms.dir"])


def test_data_split_is_kept_in_the_file_and_read_back(tiny, tmp_path):
    path = str(tmp_path / "split.json")
    first = build_data(images_of(tiny.images), split_file=path)
    again = build_data(split_file=path)
    assert (again.train, again.validation) == (first.train, first.validation)
    with pytest.raises(UserError, match="split.json was made with seed=0"):
        build_data({"split.seed": 5}, split_file=path)


def test_data_rooms_carry_labels_for_validation_only(rooms):
    data = build_data(rooms)
    assert len(data.train) == 4 and len(data.validation) == 3
    for sample in data.train:
        assert set(sample.files) == {"rgb"}
        assert all(os.path.isfile(path) for path in sample.files.values())
    for sample in data.validation:
        assert set(sample.files) == {"rgb", *TASKS}
    drawn = {
        folder: len(files)
        for folder, _, files in os.walk(rooms["rooms.dir"])
        if os.path.basename(folder) in ("rgb", *TASKS)
    }
    assert sorted(drawn.values()) == [3, 3, 3, 4]  # no label of a training view

    # Fewer rooms of the same folders: the others are left out.
    fewer = {"rooms.count": 1, "rooms.validation_count": 2}
    found = build_data(fewer, draw=False)
    assert found.train == data.train[:2]
    assert found.validation == data.validation[:2]


def test_data_of_no_views_is_none(rooms):
    data = build_data({**rooms, "rooms.validation_views": 0})
    assert len(data.train) == 4 and data.validation == []
    assert [os.path.basename(f) for f in os.listdir(rooms["rooms.dir"])] == [
        "rooms-v2-seed2-16px"
    ]


def test_data_validates_on_rooms_of_another_seed_unless_asked_for_the_same(rooms):
    data = build_data(rooms)
    assert data.source == "procedural rooms of seed 2"
    assert data.measured_on == "other procedural rooms, of seed 6"
    assert {"seed2" in s.files["rgb"] for s in data.train} == {True}
    assert {"seed6" in s.files["rgb"] for s in data.validation} == {True}
    same = build_data({"rooms.validation_seed": None, "rooms.validation_views": 1})
    assert same.measured_on == "further views of the same rooms"
    assert [s.key for s in same.validation] == [
        f"rooms/point_{room}_view_2" for room in range(2)
    ]
    assert not {s.key for s in same.validation} & {s.key for s in same.train}


def test_data_rooms_asked_for_labels_to_train_on_draw_and_carry_them(rooms):
    data = build_data({**rooms, "rooms.count": 1}, train_labels=True)
    assert len(data.train) == 2
    for sample in data.train:
        assert set(sample.files) == {"rgb", *TASKS}
        assert all(os.path.isfile(path) for path in sample.files.values())


def test_data_without_drawing_writes_nothing(rooms, monkeypatch):
    monkeypatch.delattr(room_drawing, "generate_rooms")
    data = build_data(rooms, draw=False)
    assert not data.train and not data.validation
    assert not os.path.exists(rooms["rooms.dir"])


def test_data_of_a_task_that_rooms_lack_is_refused(rooms):
    with pytest.raises(UserError, match="no ground truth for 'principal_curvature'"):
        build_data(rooms, ["principal_curvature"])


def test_data_comes_from_a_source_before_all_others(tiny, rooms):
    asked, given = [], [Sample(k, k, {"rgb": "x"}) for k in "abcd"]

    def mine(domains):
        asked.append(domains)
        return given

    places = {**images_of(tiny.images), **rooms}
    data = build_data(places, source=mine, check_files=False)
    assert sorted(s.key for s in data.train + data.validation) == list("abcd")
    assert asked == [TASKS] and data.source == "source @mine"
    whole = Data(given[:3], given[3:], "mine")
    assert build_data(source=lambda _: whole) == whole
    with pytest.raises(UserError, match="needs labels of depth.*to train on, of mine"):
        build_data(train_labels=True, source=lambda _: whole)


@pytest.mark.parametrize(
    "source",
    ["mine", lambda _: ["a.png"], lambda _: [Sample("a", "a", {"normal": ""})]],
)
def test_data_of_what_is_no_source_is_refused(source):
    with pytest.raises(UserError, match="build_data.source must be .*Received: "):
        build_data(source=source)


def test_data_of_one_image_is_refused(tmp_path):
    tiny_runs.write_images(tmp_path, 1)
    with pytest.raises(UserError, match="1 readable image; at least 2"):
        build_data(images_of(tmp_path))


def test_data_damaged_images_do_not_count(tmp_path, caplog):
    tiny_runs.write_images(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"garbage")
    data = build_data(images_of(tmp_path))
    assert sorted(s.key for s in data.train + data.validation) == ["0", "2"]
    assert "1.png" in caplog.text


def test_cache_folder_is_the_environments_or_the_users(monkeypatch):
    monkeypatch.setenv("SOKA_TF_CACHE", "/somewhere")
    assert runs_data.default_cache_dir() == "/somewhere"
    monkeypatch.delenv("SOKA_TF_CACHE")
    monkeypatch.setenv("HOME", "/home/me")
    assert runs_data.default_cache_dir() == "/home/me/.cache/soka_tf"
