"""The tool that trains the rooms' teachers: its data, steps, scores and files."""

import json

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.data.rooms import room_files
from soka_tf.data.rooms.base_builder import CLASSES
from soka_tf.errors import UserError
from soka_tf.tasks import TASKS
from soka_tf.teachers.taskonomy.teacher_file import load_teacher
from tests.tools import run_tool
from tools.teachers import rooms, scores, training
from tools.teachers.rooms import Rooms
from tools.teachers.settings import read_settings

GIN = "gin/rooms/teachers.gin"
TASKS_USED = ("depth_zbuffer", "normal", "segment_semantic")
SMALL = {
    "losses": dict.fromkeys((*TASKS_USED, "vanishing_point"), "l2"),
    "encoder": {"units": (1, 1, 1, 1), "width": 1 / 32, "strides": (2, 2, 1, 1)},
    "decoder": {"width": 1 / 64, "upsamplings": 2, "min_filters": 2},
    "image_size": 16,
    "train": (1, 2, 2),
    "tune": (2, 1, 2),
    "test": (4, 2, 2),
    "together_steps": 3,
    "together_rate": 0.01,
    "steps": dict.fromkeys((*TASKS_USED, "vanishing_point"), 2),
    "gradient_weights": {"depth_zbuffer": 5.0},
    "batch_size": 2,
    "average_decay": 0.9,
}


@pytest.fixture
def settings():
    params = {**SMALL, "tasks": TASKS_USED}
    return read_settings(
        [GIN], [f"train_teachers.{k} = {v}" for k, v in params.items()]
    )


@pytest.fixture
def arrays():
    """Four views, as `rooms.draw` would have them."""
    random = np.random.default_rng(0)
    return {
        "rgb": random.integers(0, 256, (4, 16, 16, 3), np.uint8),
        "depth_zbuffer": random.uniform(0.5, 0.7, (4, 16, 16, 1)).astype(np.float32),
        "normal": random.uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32),
        "segment_semantic": random.integers(0, 17, (4, 16, 16, 1), np.uint8),
    }


def test_draw_goes_on_where_it_was_stopped_and_holds_what_networks_predict(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(rooms, "_CHUNK", 1)
    some = Rooms(5, 3, 2)
    draw_chunk, drawn = rooms._draw_chunk, []

    def stopped(folder, domains, chunk, *others):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append((tuple(domains), chunk))
        draw_chunk(folder, domains, chunk, *others)

    monkeypatch.setattr(rooms, "_draw_chunk", stopped)
    with pytest.raises(KeyboardInterrupt):
        rooms.draw(str(tmp_path), some, 16, ["normal"])
    drawn.clear()
    domains = ["normal", "segment_semantic", "vanishing_point"]
    with pytest.raises(KeyboardInterrupt):
        rooms.draw(str(tmp_path), some, 16, domains)
    # The new domains catch up with the others, room by room.
    assert drawn == [
        (tuple(domains[1:]), range(0, 1)),
        (tuple(domains[1:]), range(1, 2)),
    ]
    monkeypatch.setattr(rooms, "_draw_chunk", draw_chunk)
    arrays = rooms.draw(str(tmp_path), some, 16, domains)

    view = room_files.render_room(5, 2, 1, 16, ["rgb", *domains])
    pixels = encodings.store(TASKS["normal"], view["normal"])
    wanted = encodings.encode(TASKS["normal"], pixels, 16)
    assert len(arrays["rgb"]) == 6
    np.testing.assert_array_equal(arrays["normal"][5], wanted)
    np.testing.assert_array_equal(arrays["rgb"][5], view["rgb"])
    np.testing.assert_array_equal(
        arrays["segment_semantic"][5], view["segment_semantic"]
    )
    axes = view["vanishing_point"]
    np.testing.assert_array_equal(arrays["vanishing_point"][5].reshape(3, 3), axes)
    monkeypatch.delattr(rooms, "_draw_chunk")  # all is there
    rooms.draw(str(tmp_path), some, 16, domains)


def test_batches_hold_every_row_once_an_epoch_in_an_order_of_the_seed():
    epochs = [
        np.concatenate([training.batch_rows(i, 12, 4, seed) for i in steps])
        for seed, steps in ((0, range(3)), (0, range(3, 6)), (1, range(3)))
    ]
    for rows in epochs:
        assert sorted(rows) == list(range(12))
    assert len({tuple(rows) for rows in epochs}) == 3
    again = training.batch_rows(4, 12, 4, 0)
    np.testing.assert_array_equal(again, epochs[1][4:8])


def test_augmented_labels_are_mirrored_with_their_image(arrays):
    batch = {name: tf.constant(values) for name, values in arrays.items()}
    images, labels = training.augment(batch, tf.constant([0, 0]))
    classes = labels["segment_semantic"].numpy()
    assert set(np.unique(classes)) == {-1.0, 1.0} and (classes.sum(-1) == -15).all()
    kinds = set()
    for i, depth in enumerate(labels["depth_zbuffer"].numpy()):
        turned = not np.array_equal(depth, arrays["depth_zbuffer"][i])
        kinds.add(turned)
        way = slice(None, None, -1 if turned else 1)
        np.testing.assert_array_equal(depth, arrays["depth_zbuffer"][i][:, way])
        normal = arrays["normal"][i][:, way] * (-1 if turned else 1, 1, 1)
        np.testing.assert_array_equal(labels["normal"][i], normal)
        found, wanted = classes[i].argmax(-1), arrays["segment_semantic"][i][:, way, 0]
        np.testing.assert_array_equal(found, wanted)
        # A gain for each colour: brighter stays brighter within an image.
        seen = images[i].numpy()[..., 0].ravel()
        order = np.argsort(arrays["rgb"][i][:, way, 0].ravel(), kind="stable")
        assert (np.diff(seen[order]) >= 0).all()
    assert kinds == {True, False}


def test_colours_stay_where_a_label_is_made_of_them_and_places_where_one_says_where():
    batch = {
        "rgb": tf.constant(np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)),
        "edge_texture": tf.zeros([1, 4, 4, 1]),
        "vanishing_point": tf.ones([1, 9]),
        "reshading": tf.constant(np.arange(16.0).reshape(1, 4, 4, 1)),
    }
    for seed in range(4):
        images, labels = training.augment(batch, tf.constant([seed, 0]))
        np.testing.assert_allclose(images, batch["rgb"].numpy() / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(labels["reshading"], batch["reshading"])


@pytest.mark.slow
def test_training_that_was_stopped_goes_on_to_the_same_bits(
    settings, arrays, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "_SAVE_EVERY_STEPS", 2)

    settings = settings._replace(frozen_share=0.5, together_steps=4)

    def trained(folder):
        networks = training.build_networks(settings.tasks, settings)
        minutes = training.train_together(networks, arrays, settings, tmp_path / folder)
        return networks, minutes

    whole, minutes = trained("whole")
    batch_rows = training.batch_rows

    def stop(step, *others):
        if step == 3:
            raise KeyboardInterrupt
        return batch_rows(step, *others)

    monkeypatch.setattr(training, "batch_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        trained("stopped")
    monkeypatch.setattr(training, "batch_rows", batch_rows)
    resumed, both_minutes = trained("stopped")
    start = training.build_networks(settings.tasks, settings)
    for other, equal in ((resumed, True), (start, False)):
        pairs = zip(whole.variables, other.variables)
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs) == equal
    assert 0 < minutes and 0 < both_minutes


def test_teachers_begin_with_what_was_learnt_together(settings, arrays, tmp_path):
    first = training.build_networks(["depth_zbuffer", "normal"], settings)
    for variable in first.variables:
        variable.assign_add(tf.random.stateless_normal(variable.shape, [1, 2]) ** 2)
    still = settings._replace(learning_rate=0.0, frozen_share=1.0)
    for task, known in (("depth_zbuffer", True), ("segment_semantic", False)):
        begun, _ = training.train_teacher(task, first, arrays, still, tmp_path / task)
        random = training.build_networks([task], settings)
        lent = first.heads[task] if known else random.heads[task]
        pairs = [(begun.encoder, first.encoder), (begun.heads[task], lent)]
        for ours, theirs in pairs:
            for a, b in zip(ours.variables, theirs.variables):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_gradients_are_a_part_of_the_loss_that_has_a_weight():
    flat = tf.zeros([1, 4, 4, 1])
    ramp = tf.reshape(tf.range(4.0), [1, 1, 4, 1]) * tf.ones([1, 4, 1, 1])
    losses = {"depth_zbuffer": "l1"}
    plain = training.loss_of("depth_zbuffer", losses)(flat, ramp)
    both = training.loss_of("depth_zbuffer", losses, 2.0)(flat, ramp)
    assert float(plain) == 1.5
    # Three of four columns differ from the next by 1; no row does.
    assert float(both) == 1.5 + 2.0 * 3 / 4


class Perfect:
    """A teacher that knows the labels of the rows it is shown, in their order."""

    has_prediction = True

    def __init__(self, task, labels):
        self.task, self._labels, self._asked = TASKS[task], labels, 0

    def __call__(self, images, layers=None):
        rows = slice(self._asked, self._asked + len(images))
        self._asked = (self._asked + len(images)) % len(self._labels)
        labels = self._labels[rows]
        if self.task.name == "segment_semantic":
            labels = tf.one_hot(labels[..., 0], 17)
        return {"prediction": tf.constant(labels)}


def test_classes_are_scored_by_pixels_and_by_class(arrays):
    classes = np.zeros_like(arrays["segment_semantic"])
    classes[:, :4] = 16
    known = {**arrays, "segment_semantic": classes}
    found = scores.measure(Perfect("segment_semantic", classes), None, known)
    assert found["teacher"] == {"accuracy": 1.0, "mean_iou": 1.0}
    assert found["median"] == {"accuracy": 0.75, "mean_iou": 0.375}
    half = np.where(classes == 16, 16, np.arange(16)[:, None] // 8 * 5).astype(np.uint8)
    # Of class 0, 0.75 of all, a half is taken for 5, which is nowhere.
    found = scores.measure(Perfect("segment_semantic", half), None, known)["teacher"]
    assert found["accuracy"] == pytest.approx(0.25 + 0.75 / 2)
    assert found["mean_iou"] == pytest.approx((1 + 1 / 2) / 2)


def test_gradient_correlation_sees_outlines_and_not_depth(arrays):
    depth = arrays["depth_zbuffer"]
    teacher = Perfect("depth_zbuffer", depth)
    assert scores._gradient_correlation(teacher, arrays) == pytest.approx(1.0)
    # Depth in the logarithm: a factor changes no gradient of it.
    assert scores._gradient_correlation(
        Perfect("depth_zbuffer", depth + 0.05), arrays
    ) == pytest.approx(1.0, abs=1e-3)
    random = np.random.default_rng(1).uniform(0.5, 0.7, depth.shape).astype(np.float32)
    other = Perfect("depth_zbuffer", random)
    assert abs(scores._gradient_correlation(other, arrays)) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [["normal", "segment_semantic"], ["vanishing_point"]])
def test_tool_trains_measures_and_writes_every_teacher(
    tasks, tmp_path, capsys, monkeypatch
):
    given = {**SMALL, "tasks": tasks, "data_dir": repr(str(tmp_path / "rooms"))}
    arguments = [f"--gin_param=train_teachers.{k} = {v}" for k, v in given.items()]
    done = run_tool(
        "train_teachers", *arguments, f"--out_dir={tmp_path}/out", capsys=capsys
    )
    assert done.code == 0, done.err
    entries = json.loads((tmp_path / "out/manifest.json").read_text())["teachers"]
    assert sorted(entries) == sorted(tasks)
    for task, entry in entries.items():
        teacher = load_teacher(tmp_path / "out" / entry["file"], entry["sha256"])
        assert teacher.task.name == task and teacher.image_size == 16
        assert entry["views"] == 4 and entry["measured_on"] == "test rooms"
        assert set(entry["scores"]) >= {"teacher", "median"}
        assert set(entry["processor_minutes"]) == {"alone", "together"}
    # Once more: all is done, and nobody is trained.
    monkeypatch.setattr(training, "batch_rows", lambda *_: pytest.fail("trained"))
    again = run_tool(
        "train_teachers", *arguments, f"--out_dir={tmp_path}/out", capsys=capsys
    )
    assert again.code == 0, again.err
    longer = "--gin_param=train_teachers.together_steps = 4"
    other = run_tool(
        *("train_teachers", *arguments, longer),
        f"--out_dir={tmp_path}/out",
        capsys=capsys,
    )
    assert other.code == 2 and "together_steps: 3 -> 4" in other.err


def test_parts_of_one_seed_are_refused():
    with pytest.raises(UserError, match=r"differ in their seed.*\[1, 7, 7\]"):
        read_settings([GIN], ["train_teachers.tune = (7, 1, 1)"])


def test_a_task_without_steps_or_loss_is_refused():
    with pytest.raises(UserError, match="steps has nothing for normal"):
        read_settings(
            [GIN],
            [
                "train_teachers.tasks = ['reshading', 'normal']",
                "train_teachers.steps = {'reshading': 1}",
            ],
        )


def test_every_class_has_a_channel():
    assert len(CLASSES) == TASKS["segment_semantic"].channels
