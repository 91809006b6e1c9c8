"""The tool that draws rooms and the teachers' answers, as users run it."""

import numpy as np
import pytest
from PIL import Image

from soka_tf.tasks import TASKS
from tests.tools import load_tool, run_tool


@pytest.mark.slow
def test_pictures_show_the_rooms_and_every_teacher(tiny, tmp_path, capsys):
    out_dir = tmp_path / "deep" / "shown"
    done = run_tool(
        "show_teachers",
        f"--teachers={tiny.teachers}",
        "--gin_param=train_teachers.image_size = 16",
        f"--gin_param=train_teachers.data_dir = {str(tmp_path / 'rooms')!r}",
        f"--out_dir={out_dir}",
        capsys=capsys,
    )
    assert done.code == 0, done.err
    assert sorted(p.name for p in out_dir.iterdir()) == ["rooms.png", "teachers_1.png"]
    with Image.open(out_dir / "rooms.png") as rooms:
        assert rooms.width > 8 * 128 and rooms.height > 5 * 128
        assert rooms.width < 9 * 136 and rooms.height < 6 * 136  # 40, none left out
    with Image.open(out_dir / "teachers_1.png") as answers:
        assert answers.width > (1 + 2 * 4) * 128 and answers.height > 6 * 128


def test_classes_have_a_colour_each():
    task = TASKS["segment_semantic"]
    label = np.array([[0, 5], [16, 5]], np.uint8).reshape(1, 2, 2, 1)
    right = np.eye(task.channels, dtype=np.float32)[label[..., 0]]
    answer, truth = load_tool("show_teachers")._group(task, right, label).columns
    assert np.array_equal(answer.cells[0], truth.cells[0])
    corners = truth.cells[0][::127, ::127].reshape(4, 3).tolist()
    assert corners[1] == corners[3] and len({tuple(c) for c in corners}) == 3


def test_scores_stand_beside_those_of_the_median_image():
    entries = {
        "normal": {
            "scores": {
                "teacher": {"rmse": 0.2, "mean_angle_deg": 15.25},
                "median": {"rmse": 0.4, "mean_angle_deg": 33.0},
                "skill": 0.5,
            },
            "views": 2000,
            "processor_minutes": {"alone": 10.2, "together": 40.0},
        },
        "segment_semantic": {
            "scores": {"teacher": {"accuracy": 0.81}, "median": {"accuracy": 0.4}},
            "views": 2000,
            "processor_minutes": {"alone": 1.0, "together": 2.0},
        },
    }
    lines = load_tool("show_teachers").format_scores(entries).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == [
        *("task", "skill", "rmse", "mean angle deg", "accuracy", "views"),
        "CPU minutes",
    ]
    assert cells[2] == ["normal", "0.50", "0.2 (0.4)", "15.2 (33)", "", "2000", "50"]
    assert cells[3][4:] == ["0.81 (0.4)", "2000", "3"]
