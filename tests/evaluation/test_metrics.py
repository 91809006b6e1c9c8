import dataclasses
import math

import numpy as np
import pytest

from soka_tf.evaluation import metrics
from soka_tf.task_definitions import task_of
from soka_tf.tasks import get_task

DEPTH = get_task("depth_zbuffer")
NORMAL = get_task("normal")


def measure(task, prediction, reference, valid=None):
    accumulator = metrics.MetricAccumulator(task)
    accumulator.update(np.asarray(prediction), np.asarray(reference), valid)
    return accumulator.result()


def column(*values):
    return np.reshape(np.asarray(values, np.float32), (1, 1, -1, 1))


def test_metrics_of_four_depths_equal_the_values_taken_by_hand():
    result = measure(DEPTH, column(1, 2.4, 3, 8), column(1, 2, 2, 4))
    expected = ["rmse", "rel", "delta1", "delta2", "delta3", "log_rmse"]
    assert list(result) == expected
    logs = [math.log(ratio) for ratio in (1, 1.2, 1.5, 2)]
    squares = sum(log**2 for log in logs)
    assert result["log_rmse"] == pytest.approx(math.sqrt(squares / 4))
    assert result["rmse"] == pytest.approx(math.sqrt((0 + 0.16 + 1 + 16) / 4))
    assert result["rel"] == pytest.approx((0 + 0.2 + 0.5 + 1) / 4)
    # ratios 1, 1.2, 1.5, 2 against 1.25, 1.5625, 1.953
    assert [result[f"delta{k}"] for k in (1, 2, 3)] == [0.5, 0.75, 0.75]


def test_delta_of_a_ratio_exactly_at_the_threshold_is_outside():
    result = measure(DEPTH, column(1.25, 1), column(1, 1.25))
    assert result["delta1"] == 0.0
    assert result["delta2"] == 1.0


def test_ratios_below_the_floor_are_taken_at_the_floor():
    task = dataclasses.replace(DEPTH, ratio_floor=0.1)
    result = measure(task, column(-3.0, 0.2, 0.0), column(0.0, 0.0, 0.4))
    assert result["rel"] == pytest.approx((0 + (0.2 - 0.1) / 0.1 + 0.3 / 0.4) / 3)
    assert result["delta1"] == pytest.approx(1 / 3)
    # The error itself knows no floor.
    assert result["rmse"] == pytest.approx(math.sqrt((9 + 0.04 + 0.16) / 3))


def test_normals_are_shifted_to_positive_values_before_ratios():
    result = measure(NORMAL, [[[[0.0, 0.0, -1.0]]]], [[[[0.6, 0.0, -0.8]]]])
    floor = NORMAL.ratio_floor
    assert result["rel"] == pytest.approx((0.6 / 1.6 + 0 + (0.2 - floor) / 0.2) / 3)
    assert result["mean_angle_deg"] == pytest.approx(math.degrees(math.asin(0.6)))


def test_angle_of_known_pairs_is_right_at_any_length():
    first = [[1, 0, 0], [0, 2, 0], [0, 0, 3], [1, 1, 0], [0, 0, 0]]
    second = [[5, 0, 0], [2, 0, 0], [0, 0, -1], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(
        metrics.angle_deg(first, second), [0, 90, 180, 45, 90], atol=1e-12
    )


def test_angle_of_nearly_equal_vectors_keeps_its_precision():
    tiny = 1e-7
    angle = metrics.angle_deg([1.0, 0.0, 0.0], [math.cos(tiny), math.sin(tiny), 0.0])
    assert angle == pytest.approx(math.degrees(tiny), rel=1e-6)


def test_masked_pixels_do_not_count_even_when_they_are_not_finite():
    prediction = column(1, 100, np.nan)
    valid = np.array([True, False, False]).reshape(1, 1, 3, 1)
    result = measure(DEPTH, prediction, column(2, 1, np.inf), valid)
    assert result["rmse"] == 1.0
    assert "nonfinite_pixels" not in result


def test_no_valid_pixel_gives_no_entry():
    assert measure(DEPTH, column(1), column(1), np.zeros((1, 1, 1), bool)) is None
    assert metrics.MetricAccumulator(DEPTH).result() is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_not_finite_is_counted_and_spoils_the_errors(bad):
    result = measure(DEPTH, column(bad, 1, 1, 1), column(1, 1, 1, 1))
    assert [result[name] for name in ("rmse", "rel", "log_rmse")] == [None] * 3
    assert result["delta3"] == 0.75
    assert result["nonfinite_pixels"] == 1


def test_pooling_over_batches_equals_brute_force_over_all_valid_pixels():
    rng = np.random.default_rng(0)
    prediction = rng.normal(size=(5, 4, 6, 3))
    reference = rng.normal(size=(5, 4, 6, 3))
    valid = rng.random((5, 4, 6, 1)) < 0.3
    accumulator = metrics.MetricAccumulator(NORMAL)
    for part in (slice(0, 1), slice(1, 4), slice(4, 5)):
        accumulator.update(prediction[part], reference[part], valid[part])
    result = accumulator.result()

    squares, relative, inside, angles = [], [], [], []
    for index in np.ndindex(5, 4, 6):
        if not valid[index][0]:
            continue
        p, r = prediction[index], reference[index]
        cosine = p @ r / math.sqrt(p @ p) / math.sqrt(r @ r)
        angles.append(math.degrees(math.acos(cosine)))
        for a, b in zip(p, r):
            squares.append((a - b) ** 2)
            a, b = max(a + 1, 2 / 255), max(b + 1, 2 / 255)
            relative.append(abs(a - b) / b)
            inside.append([max(a / b, b / a) < 1.25**k for k in (1, 2, 3)])
    deltas = np.mean(inside, axis=0)
    expected = [math.sqrt(np.mean(squares)), np.mean(relative), *deltas]
    expected.append(np.mean(angles))
    assert list(result) == list(NORMAL.metrics)
    np.testing.assert_allclose(list(result.values()), expected, rtol=1e-9)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"depth_zbuffer.*\(1, 1, 2, 1\)"):
        measure(DEPTH, column(1, 2), column(1))


def one_hot(indices, classes):
    return np.eye(classes)[np.reshape(indices, (1, 1, -1))]


def test_classes_are_measured_by_the_share_of_right_pixels_and_the_mean_iou():
    task = task_of("own", {"kind": "classes", "channels": 3})
    accumulator = metrics.accumulator_of(task)
    wanted = one_hot([0, 0, 0, 1, 1, 0], 3)
    for rows in (slice(0, 4), slice(4, 6)):  # in two batches
        accumulator.update(
            one_hot([0, 0, 1, 1, 2, 1], 3)[:, :, rows] * 0.9 + 0.03,
            wanted[:, :, rows],
            np.array([[[True] * 5 + [False]]])[:, :, rows],
        )
    result = accumulator.result()
    assert list(result) == ["accuracy", "mean_iou"]
    assert result["accuracy"] == pytest.approx(3 / 5)
    # Class 0: 2 of 3, class 1: 1 of 3; class 2 is nowhere in the truth.
    assert result["mean_iou"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    commonest = accumulator.commonest()
    assert commonest == {"accuracy": pytest.approx(3 / 5), "mean_iou": 0.3}
    assert metrics.main_error(result) == pytest.approx(2 / 5)


def test_classes_without_a_truth_do_not_count_and_nan_is_wrong():
    task = task_of("own", {"kind": "classes", "channels": 2, "metrics": ["mean_iou"]})
    accumulator = metrics.accumulator_of(task)
    assert accumulator.result() is None and accumulator.commonest() is None
    wanted, predicted = one_hot([0, 1, 1], 2), one_hot([0, 1, 1], 2)
    wanted[0, 0, 2] = np.nan
    predicted[0, 0, 1] = np.nan
    accumulator.update(predicted, wanted)
    assert accumulator.result() == {"mean_iou": 0.5, "nonfinite_pixels": 1}
    assert metrics.main_error(accumulator.result()) == 0.5
    with pytest.raises(ValueError, match="must both be"):
        accumulator.update(predicted, wanted[..., :1])


def test_mean_absolute_error_is_of_values_and_the_error_where_there_is_no_rmse():
    definition = {"kind": "continuous", "range": [-5, 5]}
    definition["metrics"] = ["mean_absolute_error"]
    task = task_of("own", definition)
    with np.errstate(all="raise"):  # ratios of values around 0 are not taken
        result = measure(task, column(1, -2, 3), column(2, 0, 3))
    assert result == {"mean_absolute_error": pytest.approx(1.0)}
    assert metrics.main_error(result) == pytest.approx(1.0)
    assert metrics.main_error({"rmse": None, "mean_absolute_error": 1.0}) is None
    assert metrics.main_error({"rel": 1.0}) is None and metrics.main_error(None) is None
