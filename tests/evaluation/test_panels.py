import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

from soka_tf.data import encodings
from soka_tf.evaluation import map_pictures, panels
from soka_tf.runs.callbacks.draw_panels import PanelCallback
from soka_tf.task_definitions import task_of
from soka_tf.tasks import get_task

DEPTH, EDGES = get_task("depth_zbuffer"), get_task("edge_texture")
NORMAL = get_task("normal")
TASKS = (DEPTH, EDGES)


def make_batch(rows=2, size=16, labelled=(True, True)):
    rng = np.random.default_rng(0)
    shape = (rows, size, size)
    mask = np.ones((*shape, 1), np.float32)
    mask[:, :4] = 0
    batch = {
        "rgb": rng.uniform(-1, 1, (*shape, 3)),
        "mask": mask,
        "depth_zbuffer": rng.uniform(0.5, 0.75, (*shape, 1)),
        "edge_texture": rng.uniform(-1, 1, (*shape, 1)),
    }
    batch = {name: tf.constant(v, tf.float32) for name, v in batch.items()}
    for task in TASKS:
        batch[f"valid/{task.name}"] = tf.constant(labelled)
    return batch


def student(images, training):
    assert training is False
    red = images[..., :1]
    return {"depth_zbuffer": 0.6 + 0.1 * red, "edge_texture": red}


TEACHERS = {
    "depth_zbuffer": lambda images: {"prediction": 0.6 + 0.1 * images[..., 1:2]},
    "edge_texture": lambda images: {"prediction": images[..., 1:2]},
}


def contains(page, cell):
    """Whether an image occurs somewhere in another, pixel by pixel."""
    height, width = cell.shape[:2]
    rows, columns = np.nonzero(np.all(page == cell[0, 0], axis=-1))
    return any(
        np.array_equal(page[r : r + height, c : c + width], cell)
        for r, c in zip(rows, columns)
    )


def enlarged(image, factor=12):
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def test_panel_holds_physical_maps_and_the_masked_truth():
    batch = make_batch()
    panel = panels.compute_panel(student, TEACHERS, batch, TASKS)
    depth = panel.maps["depth_zbuffer"]
    expected = encodings.decode(DEPTH, batch["depth_zbuffer"].numpy())
    assert np.isnan(depth.truth[:, :4]).all()
    np.testing.assert_allclose(depth.truth[:, 4:], expected[:, 4:], rtol=1e-5)
    red = batch["rgb"].numpy()[..., :1]
    np.testing.assert_allclose(
        depth.student, encodings.decode(DEPTH, 0.6 + 0.1 * red), rtol=1e-4
    )
    np.testing.assert_allclose(panel.images, (batch["rgb"] + 1) * 127.5, atol=0.51)
    # edge_texture has no mask.
    assert np.isfinite(panel.maps["edge_texture"].truth).all()


def test_drawn_panel_shows_rgb_teacher_student_truth_on_one_scale(tmp_path):
    panel = panels.compute_panel(student, TEACHERS, make_batch(), TASKS)
    path = tmp_path / "panels" / "step_0000007.png"
    drawn = panels.draw_panel(panel, TASKS, str(path), heading="step 7")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), drawn)
    assert drawn.dtype == np.uint8
    for row in range(2):
        assert contains(drawn, enlarged(panel.images[row]))
        for task in TASKS:
            maps = panel.maps[task.name]
            low, high = map_pictures.display_range(task, maps.truth)
            for values in (maps.teacher, maps.student, maps.truth):
                colours = map_pictures.colorize(task, values[row], low, high)
                assert contains(drawn, enlarged(colours)), (row, task.name)


def test_drawn_error_is_white_where_right_and_dark_red_where_far_off():
    truth = np.full((1, 16, 16, 1), 0.02, np.float32)
    wrong = truth.copy()
    wrong[:, 8:] = 0.08
    panel = panels.Panel(
        np.zeros((1, 16, 16, 3), np.uint8),
        {"edge_texture": panels.TaskMaps(truth, wrong, truth)},
    )
    drawn = panels.draw_panel(panel, [EDGES])
    reds = panels.image_grid.apply_colormap(np.array([0.0, 1.0]), "Reds")
    expected = np.empty((16, 16, 3), np.uint8)
    expected[:8], expected[8:] = reds
    assert contains(drawn, enlarged(expected))


def test_error_of_normals_is_an_angle():
    up, right = np.zeros((2, 1, 4, 4, 3), np.float32)
    up[..., 1], right[..., 0] = 1, 1
    np.testing.assert_allclose(panels._errors(NORMAL, up, right), 90)
    assert panels._error_range(NORMAL, -1, 1) == (60.0, "degrees")


def test_truth_column_is_left_out_without_labels():
    with_truth = panels.compute_panel(student, TEACHERS, make_batch(), TASKS)
    without = panels.compute_panel(
        student, TEACHERS, make_batch(labelled=(False, False)), TASKS
    )
    assert without.maps["edge_texture"].truth is None
    wide, narrow = (panels.draw_panel(p, TASKS) for p in (with_truth, without))
    assert wide.shape[1] - narrow.shape[1] == 2 * (192 + 4)


def test_row_without_a_label_has_empty_cells():
    panel = panels.compute_panel(
        student, TEACHERS, make_batch(labelled=(True, False)), TASKS
    )
    drawn = panels.draw_panel(panel, [EDGES])
    grey = np.all(drawn == panels.image_grid._EMPTY_CELL, axis=-1)
    assert 2 * 192 * 192 * 0.9 < grey.sum() <= 2 * 192 * 192


class Counting(tf.keras.Model):
    """The smallest trained model with a step."""

    def __init__(self, step=0):
        super().__init__()
        self.step = tf.Variable(step, dtype=tf.int64, trainable=False)
        self.weight = tf.Variable(1.0)

    def train_step(self, data):
        self.step.assign_add(1)
        return {"loss": self.weight}


def run(tmp_path, every, steps=7, first=0, epochs=1, writer=None):
    model = Counting(first)
    model.compile()
    callback = PanelCallback(
        student, TEACHERS, make_batch(), TASKS, str(tmp_path), every, writer
    )
    data = tf.data.Dataset.from_tensors(tf.zeros([1])).repeat()
    model.fit(
        data,
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=[callback],
        verbose=0,
    )
    return sorted(p.name for p in tmp_path.glob("*.png"))


def test_callback_draws_every_n_steps_and_at_the_end(tmp_path):
    names = run(tmp_path, every=3)
    assert names == [f"step_000000{k}.png" for k in (3, 6, 7)]


def test_callback_counts_on_over_epochs_and_after_a_resume(tmp_path):
    names = run(tmp_path, every=10, first=15, steps=3, epochs=3)
    assert names == ["step_0000020.png", "step_0000024.png"]


def test_callback_without_a_period_draws_only_at_the_end(tmp_path):
    assert run(tmp_path, every=0) == ["step_0000007.png"]


def test_callback_writes_one_tensorboard_image_a_task(tmp_path):
    logs = tmp_path / "logs"
    writer = tf.summary.create_file_writer(str(logs))
    run(tmp_path, every=0, writer=writer)
    writer.close()
    (events,) = logs.iterdir()
    images = {}
    for record in tf.data.TFRecordDataset(str(events)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            width, height, png = tf.make_ndarray(value.tensor)
            images[value.tag] = (event.step, tf.io.decode_png(png).numpy())
    assert set(images) == {"2_panels/depth_zbuffer", "2_panels/edge_texture"}
    step, pixels = images["2_panels/edge_texture"]
    panel = panels.compute_panel(student, TEACHERS, make_batch(), TASKS)
    assert step == 7
    np.testing.assert_array_equal(pixels, panels.draw_panel(panel, [EDGES]))


COLOURS = [[10, 200, 30], [250, 0, 120], [0, 0, 255]]
GROUND = task_of(
    "ground", {"kind": "classes", "classes": ["a", "b", "c"], "colours": COLOURS}
)


def test_classes_have_their_colours_and_errors_where_they_differ():
    teacher = np.eye(3)[np.array([[[0, 1], [2, 0]]])] * 0.8 + 0.1
    student = np.eye(3)[np.array([[[0, 2], [2, 0]]])] * 0.6 + 0.2
    truth = np.eye(3)[np.array([[[0, 1], [1, 0]]])]
    truth[0, 1, 1] = np.nan
    shown = [map_pictures.colorize(GROUND, maps[0], 0, 1) for maps in (teacher, truth)]
    assert shown[0].tolist() == [COLOURS[:2], [COLOURS[2], COLOURS[0]]]
    missing = list(map_pictures.MISSING_COLOUR)
    assert shown[1].tolist() == [COLOURS[:2], [COLOURS[1], missing]]

    maps = panels.TaskMaps(teacher, student, truth)
    columns = {c.title: c for c in panels._task_group(GROUND, maps).columns}
    assert list(columns) == ["teacher", "student", "truth", "error to truth"]
    names = (("a", (10, 200, 30)), ("b", (250, 0, 120)), ("c", (0, 0, 255)))
    assert columns["truth"].scale.names == names
    errors = columns["error to truth"].cells[0][::96, ::96]
    right, wrong = (matplotlib.colormaps["Reds"](end)[:3] for end in (0.0, 1.0))
    np.testing.assert_allclose(errors[0, 0], np.multiply(right, 255), atol=0.5)
    np.testing.assert_allclose(errors[0, 1], np.multiply(wrong, 255), atol=0.5)
    np.testing.assert_allclose(errors[1, 0], np.multiply(wrong, 255), atol=0.5)
    assert errors[1, 1].tolist() == missing


def test_error_says_to_what_and_marks_that_its_scale_ends():
    for labelled, reference in (((True, False), "truth"), ((False, False), "teacher")):
        panel = panels.compute_panel(
            student, TEACHERS, make_batch(2, 16, labelled), TASKS
        )
        last = panels._task_group(EDGES, panel.maps["edge_texture"]).columns[-1]
        assert last.title == f"error to {reference}"
        assert last.scale.ends == ("0", "≥ 0.03") and last.scale.label == EDGES.unit
    # Pictures of every row have one scale: a tenth of the error has a tenth of it.
    truth = np.full((2, 8, 8, 1), 0.02, np.float32)
    maps = panels.TaskMaps(truth, truth + np.float32([[[[0.03]]], [[[0.003]]]]), truth)
    views = panels.task_views(EDGES, maps)
    reds = panels.image_grid.apply_colormap(np.array([1.0, 0.1]), "Reds")
    assert [picture[0, 0].tolist() for picture in views.errors] == reds.tolist()


def test_heading_judges_nobody_by_a_few_images(monkeypatch):
    headings = []
    monkeypatch.setattr(
        panels.image_grid, "compose", lambda groups, heading: headings.append(heading)
    )
    panel = panels.compute_panel(student, TEACHERS, make_batch(), TASKS)
    panels.draw_panel(panel, [EDGES], heading="step 2")
    assert headings == ["step 2"]
