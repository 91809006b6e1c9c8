"""From bindings to parts; what does not fit is told by the binding's name."""

import os
import re

import gin
import pytest
import tensorflow as tf

from soka_tf.data.rooms import draw as room_drawing
from soka_tf.data.samples import Data, Sample
from soka_tf.errors import UserError, plain_message
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.runs import build
from soka_tf.runs.config import parse_gin
from soka_tf.runs.dry_run import describe
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from tests import tiny_runs
from tests.stacks import needs_tfa

pytestmark = pytest.mark.usefixtures("fresh_gin")

TASKS = ["depth_zbuffer", "edge_texture"]
SMALL = dict(units=(1, 1, 1, 1), width=1 / 32)


# Images


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
    return dict(rooms_dir=str(tmp_path / "rooms"), rooms=2, train_views=2)


def test_data_comes_from_the_folder_of_images_before_all_others(tiny, taskonomy, rooms):
    data = build.build_data(
        TASKS,
        16,
        images_dir=str(tiny.images),
        taskonomy_dir=str(taskonomy),
        **rooms,
    )
    assert data.source == f"images of {tiny.images}"
    assert sorted(s.key for s in data.train + data.validation) == list("012345")
    assert data.train and data.validation
    assert not os.path.exists(rooms["rooms_dir"])


def test_data_comes_from_taskonomy_before_rooms(taskonomy, rooms):
    data = build.build_data(TASKS, 16, taskonomy_dir=str(taskonomy), **rooms)
    assert data.source == f"Taskonomy folder {taskonomy}"
    assert len(data.train) == 3 and len(data.validation) == 1
    assert "edge_texture" in data.validation[0].files
    assert not os.path.exists(rooms["rooms_dir"])


def test_data_split_is_kept_in_the_file_and_read_back(tiny, tmp_path):
    path = str(tmp_path / "split.json")
    first = build.build_data(TASKS, 16, path, images_dir=str(tiny.images))
    again = build.build_data(TASKS, 16, path, images_dir=str(tiny.images))
    assert (again.train, again.validation) == (first.train, first.validation)
    with pytest.raises(UserError, match="split.json was made with seed=0"):
        build.build_data(TASKS, 16, path, images_dir=str(tiny.images), split_seed=5)


def test_data_rooms_carry_labels_for_validation_only(rooms):
    data = build.build_data(TASKS, 16, validation_views=1, **rooms)
    assert len(data.train) == 4 and len(data.validation) == 2
    for sample in data.train:
        assert set(sample.files) == {"rgb"}
        assert all(os.path.isfile(path) for path in sample.files.values())
    for sample in data.validation:
        assert set(sample.files) == {"rgb", *TASKS}
    drawn = {
        folder: len(files)
        for folder, _, files in os.walk(rooms["rooms_dir"])
        if os.path.basename(folder) in ("rgb", *TASKS)
    }
    assert sorted(drawn.values()) == [2, 2, 6]  # no label of a training view

    # Fewer rooms of the same folder: the others are left out.
    fewer = build.build_data(
        TASKS, 16, validation_views=1, draw=False, **{**rooms, "rooms": 1}
    )
    assert fewer.train == data.train[:2] and fewer.validation == data.validation[:1]


def test_data_rooms_asked_for_labels_to_train_on_draw_and_carry_them(rooms):
    data = build.build_data(TASKS, 16, train_labels=True, **{**rooms, "rooms": 1})
    assert len(data.train) == 2
    for sample in data.train:
        assert set(sample.files) == {"rgb", *TASKS}
        assert all(os.path.isfile(path) for path in sample.files.values())


def test_data_without_drawing_writes_nothing(rooms, monkeypatch):
    monkeypatch.delattr(room_drawing, "generate_rooms")
    data = build.build_data(TASKS, 16, draw=False, **rooms)
    assert not data.train and not data.validation
    assert not os.path.exists(rooms["rooms_dir"])


def test_data_of_a_task_that_rooms_lack_is_refused(rooms):
    with pytest.raises(UserError, match="no ground truth for 'principal_curvature'"):
        build.build_data(["principal_curvature"], 16, **rooms)


def test_data_comes_from_a_source_before_all_others(tiny, rooms):
    asked, given = [], [Sample(k, k, {"rgb": "x"}) for k in "abcd"]

    def mine(domains):
        asked.append(domains)
        return given

    places = dict(images_dir=str(tiny.images), check_files=False, **rooms)
    data = build.build_data(TASKS, 16, source=mine, **places)
    assert sorted(s.key for s in data.train + data.validation) == list("abcd")
    assert asked == [TASKS] and data.source == "source @mine"
    whole = Data(given[:3], given[3:], "mine")
    assert build.build_data(TASKS, 16, source=lambda _: whole) == whole
    with pytest.raises(UserError, match="needs labels of depth.*mine, to train on"):
        build.build_data(TASKS, 16, train_labels=True, source=lambda _: whole)


@pytest.mark.parametrize(
    "source",
    ["mine", lambda _: ["a.png"], lambda _: [Sample("a", "a", {"normal": ""})]],
)
def test_data_of_what_is_no_source_is_refused(source):
    with pytest.raises(UserError, match="build_data.source must be .*Received: "):
        build.build_data(TASKS, 16, source=source)


def test_data_of_one_image_is_refused(tmp_path):
    tiny_runs.write_images(tmp_path, 1)
    with pytest.raises(UserError, match="1 readable image; at least 2"):
        build.build_data(TASKS, 16, images_dir=str(tmp_path))


def test_data_damaged_images_do_not_count(tmp_path, caplog):
    tiny_runs.write_images(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"garbage")
    data = build.build_data(TASKS, 16, images_dir=str(tmp_path))
    assert sorted(s.key for s in data.train + data.validation) == ["0", "2"]
    assert "1.png" in caplog.text


def test_cache_folder_is_the_environments_or_the_users(monkeypatch):
    monkeypatch.setenv("SOKA_TF_CACHE", "/somewhere")
    assert build.default_cache_dir() == "/somewhere"
    monkeypatch.delenv("SOKA_TF_CACHE")
    monkeypatch.setenv("HOME", "/home/me")
    assert build.default_cache_dir() == "/home/me/.cache/soka_tf"


# Networks and losses


class Student:
    """All that the amalgamation asks of a student."""

    def __init__(self, encoder):
        self.encoder = encoder


@pytest.fixture(scope="module")
def student():
    return Student(Encoder(strides=(2, 2, 1, 1), **SMALL))


@pytest.fixture(scope="module")
def pools():
    """A pool of teachers of output stride 4, and one of 8."""
    return [
        TeacherPool(
            {
                "depth_zbuffer": TaskonomyTeacher(
                    "depth_zbuffer",
                    Encoder(strides=strides, **SMALL),
                    Decoder(1, 1 / 64, 0, 2),
                )
            }
        )
        for strides in ((2, 2, 1, 1), (2, 2, 2, 1))
    ]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"layers": ["block9"]}, r"build_amalgamation\.layers .*\['block9'\]"),
        ({"layers": []}, r"build_amalgamation\.layers must be some of"),
        ({"layers": [3]}, r"build_amalgamation\.layers must be .*pairs.*\[3\]"),
        ({"layers": [("block3", "c4")]}, r"build_amalgamation\.layers must be .*'c4'"),
        (
            {"layers": [("c4", "block3")]},
            "'depth_zbuffer' has no layer c4 for the student's block3. It has block1",
        ),
        ({"variant": "magic"}, "build_amalgamation: .*'magic'"),
        ({"mixing": "magic"}, "build_amalgamation: .*mixing .*'magic'"),
    ],
)
def test_amalgamation_unknown_choice_names_the_binding(student, pools, wrong, message):
    with pytest.raises(UserError, match=message):
        build.build_amalgamation(student, pools[0], **wrong)


def test_amalgamation_takes_teachers_of_other_strides(student, pools):
    one, other = (build.build_amalgamation(student, pool) for pool in pools)
    assert other.get_config() == one.get_config()


def test_amalgamation_takes_pairs_of_layers(student, pools):
    pairs = (("block4", "block3"), "representation")
    amalgamation = build.build_amalgamation(student, pools[0], layers=pairs)
    layers = dict(amalgamation.teacher_layers)
    assert layers == {"block3": ("block4",), "representation": ("representation",)}
    (mixing,) = amalgamation.amalgamations["block3"].mixing_weights
    assert mixing.shape == (64, 32)
    again = Amalgamation.from_config(amalgamation.get_config())
    assert again.teacher_layers == amalgamation.teacher_layers


def test_amalgamation_none_is_none(student, pools):
    assert build.build_amalgamation(student, pools[1], variant=None) is None


@pytest.mark.parametrize("wrong", [{"norm": "l7"}, {"floor": 0.6}])
def test_gradnorm_wrong_value_names_the_binding(wrong):
    with pytest.raises(UserError, match="build_gradnorm: .*Received"):
        build.build_gradnorm(2, **wrong)


def test_adversary_is_none_unless_enabled_and_calmer_for_depth():
    assert build.build_adversary(TASKS) is None
    adversary = build.build_adversary(TASKS, enabled=True, width=1 / 32)
    assert adversary.noise == {"depth_zbuffer": 0.03, "edge_texture": 0.1}
    assert list(adversary.discriminators) == TASKS


@pytest.mark.parametrize(
    "wrong", [{"optimizer": "lion"}, {"weight_decay_kind": "magic"}]
)
def test_optimizers_unknown_name_is_refused(wrong):
    with pytest.raises(UserError, match="lion|magic"):
        build.build_optimizers(10, **wrong)


def test_optimizers_follow_the_poly_policy_each_from_its_own_rate():
    players = build.build_optimizers(
        100, learning_rate=0.1, amalgamation_rate=0.2, task_weights_rate=0.3
    )
    for name, rate in (
        ("encoder", 0.1),
        ("decoders", 0.1),
        ("amalgamation", 0.2),
        ("task_weights", 0.3),
    ):
        schedule = players.optimizers[name]._hyper["learning_rate"]
        assert float(schedule(0)) == pytest.approx(rate)
        assert float(schedule(50)) == pytest.approx(rate * 0.5**0.9)
        assert float(schedule(100)) == 0.0
    assert players.optimizers["encoder"] is not players.optimizers["decoders"]


@pytest.mark.parametrize(
    "kind, expected",
    [
        pytest.param("tfa", 0.25 * 0.5**0.9, marks=needs_tfa),
        ("l2_loss", None),
    ],
)
def test_optimizers_decay_of_tfa_fades_with_the_rate(kind, expected):
    players = build.build_optimizers(100, weight_decay=0.25, weight_decay_kind=kind)
    optimizer = players.optimizers["encoder"]
    assert ("weight_decay" in optimizer.get_config()) == (expected is not None)
    if expected is not None:
        assert float(optimizer._hyper["weight_decay"](50)) == pytest.approx(expected)
    assert "weight_decay" not in players.optimizers["task_weights"].get_config()


# Dry run


def test_dry_run_of_the_paper_needs_no_file_and_leaves_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOKA_TF_CACHE", str(tmp_path / "cache"))
    parse_gin(["gin/paper/depth_edge2d.gin"], [])
    text = describe()
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "encoder 23655504" in lines
    assert "decoder depth_zbuffer 16453009" in lines
    assert "decoder edge_texture 16453009" in lines
    assert f"student {23655504 + 2 * 16453009}" in lines
    assert any("discriminator depth_zbuffer" in line for line in lines)
    for file in ("depth_zbuffer", "edge_texture", "keypoints3d"):
        path = f"data/taskonomy_teachers/{file}.safetensors"
        assert any(path in line and "MISSING" in line for line in lines)
    assert "data/taskonomy" in text and "MISSING, a real run needs them" in text
    assert "tasks = ['depth_zbuffer', 'edge_texture']" in lines
    assert any(line.startswith("CPU") for line in lines)
    assert not list(tmp_path.iterdir())


def test_dry_run_of_rooms_counts_what_is_there(tiny, tmp_path):
    params = ("images_dir = None", f"build_data.rooms_dir = {str(tmp_path)!r}")
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*params))
    text = describe()
    assert "0 to train on, 0 to validate on are there" in text
    assert "draws what is missing" in text and "MISSING" not in text
    assert not list(tmp_path.iterdir())


def test_dry_run_tells_what_cached_teachers_will_take(tiny, tmp_path):
    folder = tmp_path / "cache"
    params = ("run.teacher_cache = True", f"run.teacher_cache_dir = {str(folder)!r}")
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*params))
    text = describe()
    (images,) = re.findall(r"(\d+) to train on", text)
    told = rf"outputs of {images} images need [\d.]+ KiB in .*cache \([\d.]+ KiB an im"
    assert re.search(told, text) and not folder.exists()
    gin.clear_config()
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*params, "teachers_dir = '/no'"))
    assert "Its size is known once the teachers are there." in describe()


def test_dry_run_of_a_misspelt_task_is_refused(tiny):
    parse_gin(["gin/rooms/soka.gin"], tiny.params("tasks = ['depht_zbuffer']"))
    with pytest.raises(UserError, match="depth_zbuffer") as error:
        describe()
    assert "\n" not in plain_message(error.value)


def test_student_is_the_same_for_the_same_seed():
    def kernel(seed):
        student = build.build_student(["edge_texture"], **SMALL, seed=seed)
        return student.encoder.last_shared_kernel

    one, same, other = kernel(1), kernel(1), kernel(2)
    tf.debugging.assert_equal(one, same)
    assert not gin.config_is_locked()
    assert tf.reduce_any(one != other)
