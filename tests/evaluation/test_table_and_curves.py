import csv
import itertools

import numpy as np
import pytest
from PIL import Image

from soka_tf.errors import UserError
from soka_tf.evaluation import curves
from soka_tf.evaluation.table import format_table
from soka_tf.tasks import register_task


def entry(rmse, angle=None, **more):
    values = {"rmse": rmse, "rel": 0.2, "delta1": 0.6, "delta2": 0.8, "delta3": 0.9}
    if angle is not None:
        values["mean_angle_deg"] = angle
    return {**values, **more}


def evaluation(**tasks):
    return {
        "step": 700,
        "split": "validation",
        "images": 400,
        "labelled_images": {name: 400 for name in tasks},
        "parameters": {"teachers": 442000, "student": 221000},
        "tasks": tasks,
    }


def depth():
    return {
        "teacher": entry(0.7163, skill=0.365),
        "student": entry(0.7521, skill=0.333),
        "student_vs_teacher": entry(0.275),
        "baseline_median": entry(1.128),
    }


def unlabelled():
    return {
        "teacher": None,
        "student": None,
        "student_vs_teacher": entry(0.0123),
        "baseline_median": None,
    }


def line_of(table, *words):
    return next(ln for ln in table.splitlines() if all(w in ln for w in words))


def test_table_shows_every_row_with_units_and_the_share_of_the_teacher():
    table = format_table(evaluation(depth_zbuffer=depth()))
    assert "400 images, step 700" in table and "221,000 (50%)" in table
    assert line_of(table, "(m)", "student").split()[-2:] == ["0.33", "105.0%"]
    result = evaluation(depth_zbuffer=depth())
    result["parameters"]["smallest_teacher"] = 221000
    assert "(50%; 100% of the smallest teacher)" in format_table(result)
    assert line_of(table, "depth", " teacher").split()[2:4] == ["0.716", "0.200"]
    assert "105.0%" in line_of(table, "(m)", "student")
    assert "157.5%" in line_of(table, "median image")
    assert "%" not in line_of(table, "student vs teacher")
    assert "angle" not in line_of(table, "rmse", "skill")


def test_table_without_labels_says_so_once_and_shows_what_there_is():
    edges = {**unlabelled(), "baseline_median_of_teacher": entry(0.0492)}
    result = evaluation(edge_texture=edges, normal=unlabelled())
    result["labelled_images"] = {"edge_texture": 0, "normal": 0}
    table = format_table(result)
    heading = line_of(table, "task", "rmse").split()
    assert heading[-2:] == ["<1.25³", "skill"]  # no share of the teacher's error
    rows = [row for row in table.splitlines() if "0.8" in row]
    assert [row.split("  ")[0] for row in rows[:2]] == ["2D edges", "(of full scale)"]
    assert ["student vs teacher" in row for row in rows] == [True, False, True]
    assert rows[2].startswith("surface normal ") and "\n(unit vector)" in table
    assert " - " not in table and "median image" not in table
    assert table.count("o labels") == 1
    assert "\nNo labels: the student is compared with its teachers only." in table


def test_table_with_labels_of_one_task_names_the_one_without():
    result = evaluation(edge_texture=unlabelled(), depth_zbuffer=depth())
    result["labelled_images"]["edge_texture"] = 0
    table = format_table(result)
    assert "2D edges: no labels, so only student vs teacher." in table
    assert line_of(table, "task", "rmse").endswith("vs teacher")
    assert len([row for row in table.splitlines() if "0.800" in row]) == 5


def test_table_without_labels_shows_the_students_skill_against_its_teacher():
    entries = {**unlabelled(), "baseline_median_of_teacher": entry(0.0492)}
    table = format_table(evaluation(edge_texture=entries))
    assert line_of(table, "student vs teacher").split()[-1] == "0.75"
    assert "0.0492" in line_of(table, "teacher's median")


def test_table_with_some_labels_counts_them():
    result = evaluation(depth_zbuffer=depth())
    result["labelled_images"]["depth_zbuffer"] = 300
    assert "depth: 300 of 400 images have a label." in format_table(result)


def test_table_names_values_that_are_not_finite():
    entries = depth()
    entries["student"] = entry(None, nonfinite_pixels=12)
    table = format_table(evaluation(depth_zbuffer=entries))
    assert "depth, student: 12 pixels are NaN or infinite" in table


def test_table_of_normals_has_an_angle_and_fits_100_columns():
    entries = {name: entry(0.5, angle=21.53) for name in depth()}
    table = format_table(
        evaluation(normal=entries, depth_zbuffer=depth(), edge_texture=unlabelled())
    )
    assert "21.5°" in line_of(table, "surface normal", "teacher")
    assert max(len(line) for line in table.splitlines()) <= 100


def test_table_works_without_a_baseline():
    entries = depth()
    del entries["baseline_median"]
    table = format_table(evaluation(depth_zbuffer=entries))
    assert "median image" not in table and "0: that of the best constant" in table


def test_table_names_the_row_that_skill_compares_with():
    unlabelled_edges = {**unlabelled(), "baseline_median_of_teacher": entry(0.0492)}
    for entries, row in (
        (depth(), "median image"),
        (unlabelled_edges, "teacher's median"),
    ):
        table = format_table(evaluation(edge_texture=entries))
        assert f"0: that of the {row})" in " ".join(table.split())


def test_table_names_the_tasks_that_are_barely_trained():
    poor = depth()
    poor["student"]["skill"] = 0.0
    copied = {**unlabelled(), "baseline_median_of_teacher": entry(0.0123)}
    remark = (
        "Barely trained: no better at {} than one answer for all images (the median"
    )
    for tasks, titles in (
        ({"depth_zbuffer": poor}, "depth"),
        ({"depth_zbuffer": depth(), "edge_texture": copied}, "2D edges"),
        ({"depth_zbuffer": poor, "edge_texture": copied}, "depth, 2D edges"),
    ):
        table = " ".join(format_table(evaluation(**tasks)).split())
        assert remark.format(titles) in table
    assert "trained:" not in format_table(evaluation(depth_zbuffer=depth()))


@pytest.fixture
def metrics_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        tasks = ("depth_zbuffer", "edge_texture")
        header = ["step", "stage", *(f"loss/soft/{t}" for t in tasks)]
        header += ["loss/transfer", *(f"task_weight/{t}" for t in tasks)]
        writer.writerow(header)
        for step in range(1, 301):
            stage = "joint" if step <= 100 else "cycle"
            weight = 0.5 if stage == "joint" else 0.8
            weights = ["", ""] if step < 5 else [weight, 1 - weight]
            loss = float("nan") if step == 7 else 1 / step
            writer.writerow([step, stage, loss, 2 / step, 3 / step, *weights])
    return path


def near(pixels, colour, tolerance=12):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.all(np.abs(pixels.astype(int) - rgb) <= tolerance, axis=-1)


def test_curves_show_every_loss_every_weight_and_the_stage(metrics_csv, tmp_path):
    out = tmp_path / "curves.png"
    curves.draw_curves(str(metrics_csv), str(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]
    pixels = np.asarray(Image.open(out).convert("RGB"))
    height, width = pixels.shape[:2]
    assert width >= 1000
    for colour in curves.COLOURS[:2]:
        mine = near(pixels, colour)
        losses, weights = mine[: height * 11 // 20], mine[height * 7 // 12 :]
        # A curve spans the panel: its colour is in nearly every column of pixels.
        assert losses.any(axis=0).mean() > 0.8
        # (Equal weights of the joint stage hide one another.)
        assert weights.any(axis=0).mean() > 0.55
    # Falling losses: the first curve is lower (a larger row) at the right end.
    rows, columns = np.nonzero(near(pixels, curves.COLOURS[0])[: height * 11 // 20])
    left, right = columns < width * 0.2, columns > width * 0.9
    assert rows[right].mean() > rows[left].mean() + 50


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is drawn."""
    figures = []

    class Recorded(curves.Figure):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            figures.append(self)

    monkeypatch.setattr(curves, "Figure", Recorded)
    return figures


def lines_of(axis):
    """Label -> (steps, values, line style) of the curves."""
    return {
        line.get_label(): (*map(list, line.get_data()), line.get_linestyle())
        for line in axis.lines
        if not line.get_label().startswith("_")
    }


def test_curves_of_a_single_report_are_lines_over_its_steps(tmp_path, drawn):
    path, picture = tmp_path / "metrics.csv", tmp_path / "curves.png"
    path.write_text("step,stage,loss/soft/normal\n5,joint,0.5\n")
    curves.draw_curves(str(path), str(picture))
    (axis,) = drawn[0].axes
    assert lines_of(axis) == {"soft targets: surface normal": ([0, 5], [0.5, 0.5], "-")}
    assert drawn[0].get_suptitle() == "5 steps of training"
    drawn[0].draw_without_rendering()
    ticks = [label.get_text() for label in axis.get_xticklabels()]
    shown = [text for text in ticks if text]
    assert "5" in shown and len(shown) == len(set(shown)) <= 7


def test_curves_have_validation_styles_and_the_step_at_which_cycles_begin(
    tmp_path, drawn
):
    path, picture = tmp_path / "metrics.csv", tmp_path / "curves.png"
    names = ["loss/soft/{}", "task_weight/{}", "validation/soft/{}"]
    columns = [n.format(t) for n in names for t in ("normal", "edge_texture")]
    path.write_text(
        ",".join(["step", "stage", *columns])
        + "\n10,joint,1,2,0.5,0.5,0.9,0.8\n20,cycle,1,2,0.7,0.3,0.4,0.2\n"
    )
    curves.draw_curves(str(path), str(picture))
    losses, validation, weights = drawn[0].axes
    assert lines_of(validation) == {
        "validation: surface normal": ([10, 20], [0.9, 0.4], "-"),
        "validation: 2D edges": ([10, 20], [0.8, 0.2], "-"),
    }
    assert [style for _, _, style in lines_of(weights).values()] == ["-", "--"]
    for axis in drawn[0].axes:
        marks = [line.get_xdata()[0] for line in axis.lines if line.get_ls() == ":"]
        assert marks == [0, 10]
        assert [t.get_text() for t in axis.texts] == ["joint start", "cycles begin"]


def test_labels_of_marks_never_stand_on_one_another(tmp_path, drawn):
    path, picture = tmp_path / "metrics.csv", str(tmp_path / "curves.png")
    rows = [(1, "joint"), (2, "joint"), (3, "cycle"), (90, "cycle_gan"), (100, "tail")]
    path.write_text(
        "step,stage,loss/soft/normal\n" + "".join(f"{s},{of},0.5\n" for s, of in rows)
    )
    curves.draw_curves(str(path), picture, settle_step=4)
    curves.draw_curves(str(path), picture, settle_step=100)
    labels = drawn[0].axes[0].texts
    assert [label.get_text() for label in labels][:3] == [
        "joint start",
        "cycles begin",
        "cycles with GAN begin",
    ]
    assert "BatchNorm settles" in [label.get_text() for label in labels]
    boxes = [label.get_window_extent() for label in labels]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    # Not reached: no mark.
    assert len(drawn[1].axes[0].texts) == len(labels) - 1


def test_curves_of_a_title_with_dollars_show_it_as_it_is(tmp_path, drawn):
    register_task("price", {"kind": "continuous", "range": [0, 1], "title": "$x^$"})
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss/soft/price\n1,0.5\n2,0.4\n")
    curves.draw_curves(str(path), str(tmp_path / "curves.png"))
    assert list(lines_of(drawn[0].axes[0])) == [r"soft targets: \$x^\$"]


def test_curves_of_an_untrained_run_are_refused_by_name(tmp_path):
    path = tmp_path / "metrics.csv"
    with pytest.raises(UserError, match="metrics.csv: the metrics cannot be read"):
        curves.draw_curves(str(path), str(tmp_path / "c.png"))
    for content in (b"\x89PNG\r\n", b"1,joint,0.5\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="metrics.csv: the metrics cannot be read"):
            curves.draw_curves(str(path), str(tmp_path / "c.png"))
    path.write_text("step,stage\n")
    with pytest.raises(UserError, match="nothing to draw"):
        curves.draw_curves(str(path), str(tmp_path / "c.png"))
    assert not (tmp_path / "c.png").exists()


def test_smooth_is_a_running_mean_that_keeps_constants():
    values = np.arange(250.0)
    np.testing.assert_allclose(curves._smooth(values)[2:-2], values[2:-2])
    np.testing.assert_allclose(curves._smooth(np.ones(500)), 1)
    short = np.arange(50.0)
    assert curves._smooth(short) is short


def test_table_of_own_tasks_has_their_metrics_and_no_others():
    register_task("road", {"kind": "classes", "channels": 2, "title": "the road"})
    register_task("height", {"kind": "continuous", "range": [0, 2], "unit": "m"})
    road = {
        "teacher": {"accuracy": 0.9, "mean_iou": 0.7, "skill": 0.75},
        "student": {"accuracy": 0.8, "mean_iou": 0.6, "skill": 0.5},
        "student_vs_teacher": {"accuracy": 0.85, "mean_iou": 0.65},
        "baseline_commonest_class": {"accuracy": 0.6, "mean_iou": 0.3},
    }
    height = {
        name: {"rmse": 0.5, "mean_absolute_error": 0.25}
        for name in ("teacher", "student", "student_vs_teacher", "baseline_median")
    }
    table = format_table(evaluation(road=road, height=height))
    columns = line_of(table, "task", "vs teacher").split()
    assert columns == ["task", "rmse", "mae", "acc.", "mIoU", "skill", "vs", "teacher"]
    assert line_of(table, "the road").split()[-3:] == ["0.900", "0.700", "0.75"]
    # Wrong pixels: 0.2 for 0.1 of the teacher.
    assert line_of(table, "student ", "0.800").split()[-1] == "200.0%"
    assert "commonest class" in table and "(probability)" not in table
    assert line_of(table, "(m)").split()[-3:] == ["0.500", "0.250", "100.0%"]
    assert "mae: mean absolute error" in table and "mIoU: mean inter" in table
    plain = format_table(evaluation(depth_zbuffer=depth()))
    assert not {"mae", "acc.", "mIoU", "angle"} & set(line_of(plain, "task").split())
