"""The benchmarks of inference, at a tiny size."""

import pytest

from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from tools.benchmarks import inference, teachers

UNITS = (1, 1, 1, 1)


@pytest.mark.slow
def test_inference_of_tiny_networks_compares_students_with_teachers():
    sizes = inference.Scale(UNITS, 1 / 32, 32, (1,), 1)
    measured = inference.measure_inference(sizes)
    assert all(seconds > 0 for seconds in measured.seconds.values())
    assert set(measured.ratio) == {
        f"{name}_{count}_tasks_batch_1"
        for name in (
            "student_over_teachers",
            "folded_over_unfolded_student",
            "unfolded_student_over_teachers",
            "single_students_over_teachers",
            "exported_over_teachers",
        )
        for count in (2, 3)
    }
    errors, accuracy = measured.tables.values()
    assert accuracy == ()
    for row in errors:
        assert row["folded, float32"] < 1e-4
        assert row["exported"] < 0.3


@pytest.mark.slow
def test_teachers_without_the_package_leave_its_case_out_and_say_how_to_get_it():
    teacher = TaskonomyTeacher(
        "depth_zbuffer", Encoder(UNITS, 1 / 32), Decoder(1, 1 / 32)
    )
    inference.draw_weights(teacher, 0)
    measured = teachers.measure_teacher(teachers.Scale(32, (1, 2), 1), teacher)
    assert set(measured.ratio) == {
        f"{name}_batch_{batch}"
        for name in ("bfloat16_over_float32", "folded_over_unfolded")
        for batch in (1, 2)
    }
    assert "pip install torch" in measured.notes[1]
    agreement, _ = measured.tables.values()
    by_case = {row["case"]: row["rmse"] for row in agreement}
    assert by_case["ours"] == 0
    assert by_case["ours_folded"] < 1e-4 < by_case["ours_bfloat16"] < 0.3


def test_accuracy_in_rooms_of_the_same_teacher_finds_no_change():
    rows = inference.accuracy_in_rooms(
        {"same": lambda teacher: teacher}, ["depth_zbuffer"], rooms=1
    )
    (row,) = rows
    assert row["task"] == "depth_zbuffer" and row["variant"] == "same"
    assert row["change %"] == pytest.approx(0.0, abs=1e-3)
