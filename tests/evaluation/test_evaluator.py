import json
import math

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data import encodings
from soka_tf.errors import UserError
from soka_tf.evaluation import constant_answers, evaluator, metrics
from soka_tf.evaluation.table import format_table
from soka_tf.tasks import get_task

DEPTH, EDGES = get_task("depth_zbuffer"), get_task("edge_texture")
TASKS = (DEPTH, EDGES)
PARAMETERS = {"teachers": 20, "student": 15}


def constant(value):
    """A stand-in network: the mean of the image's channels plus a constant."""
    return lambda images: tf.reduce_mean(images, axis=-1, keepdims=True) + value


def stand_ins(student_shift=0.1):
    teachers = {
        task.name: lambda images: {"prediction": constant(0.0)(images)}
        for task in TASKS
    }

    def student(images, training):
        assert training is False
        return {task.name: constant(student_shift)(images) for task in TASKS}

    return student, teachers


def examples(count=5, size=4, labelled=True, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, size, size)
    return {
        "rgb": rng.uniform(0, 0.5, (*shape, 3)).astype(np.float32),
        "mask": (rng.random((*shape, 1)) < 0.6).astype(np.float32),
        "depth_zbuffer": rng.uniform(0.5, 0.8, (*shape, 1)).astype(np.float32),
        "edge_texture": rng.uniform(-1, 1, (*shape, 1)).astype(np.float32),
        "valid/depth_zbuffer": np.full(count, labelled),
        "valid/edge_texture": np.full(count, labelled),
    }


def evaluate(data, student_shift=0.1, batch_size=2, **kwargs):
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
    student, teachers = stand_ins(student_shift)
    return evaluator.evaluate(
        student, teachers, dataset, TASKS, "validation", 7, PARAMETERS, **kwargs
    )


def test_evaluation_has_exactly_the_documented_form():
    result = evaluate(examples())
    entry_names = {"teacher", "student", "student_vs_teacher", "baseline_median"}
    numbers = {"rmse", "rel", "delta1", "delta2", "delta3"}
    assert {k: v for k, v in result.items() if k != "tasks"} == {
        "step": 7,
        "split": "validation",
        "images": 5,
        "labelled_images": {"depth_zbuffer": 5, "edge_texture": 5},
        "parameters": PARAMETERS,
    }
    assert set(result["tasks"]) == {"depth_zbuffer", "edge_texture"}
    for task, entries in result["tasks"].items():
        assert set(entries) == entry_names
        of_task = {"log_rmse"} if task == "depth_zbuffer" else set()
        for name, entry in entries.items():
            skill = {"skill"} if name in ("teacher", "student") else set()
            assert set(entry) == numbers | of_task | skill
            assert all(type(value) is float for value in entry.values())


def test_entries_equal_the_metrics_of_decoded_masked_values():
    data = examples()
    result = evaluate(data)["tasks"]
    raw = data["rgb"].mean(-1, keepdims=True)
    for task in TASKS:
        valid = data["mask"] > 0 if task.masked else None
        truth = encodings.decode(task, data[task.name])
        teacher = encodings.decode(task, raw)
        student = encodings.decode(task, raw + np.float32(0.1))
        for name, prediction, reference, chosen in (
            ("teacher", teacher, truth, valid),
            ("student", student, truth, valid),
            ("student_vs_teacher", student, teacher, None),
        ):
            expected = metrics.MetricAccumulator(task)
            expected.update(prediction, reference, chosen)
            measured = dict(result[task.name][name])
            measured.pop("skill", None)
            wanted = pytest.approx(expected.result(), rel=1e-4)
            assert measured == wanted, (task.name, name)


def test_skill_is_the_share_of_the_median_images_rmse_that_is_gone():
    result = evaluate(examples())["tasks"]["depth_zbuffer"]
    trivial = result["baseline_median"]["rmse"]
    for name in ("teacher", "student"):
        assert result[name]["skill"] == 1 - result[name]["rmse"] / trivial
    no_baseline = evaluate(examples(), baseline=False)["tasks"]["depth_zbuffer"]
    assert "skill" not in no_baseline["student"]
    broken = {"baseline_median": {"rmse": 1.0}, "student": {"rmse": None}}
    broken["teacher"] = None
    evaluator._add_skill(broken)
    assert broken["student"]["skill"] is None and broken["teacher"] is None


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_evaluation_does_not_depend_on_the_batch_size(batch_size):
    expected = evaluate(examples(), batch_size=2)
    result = evaluate(examples(), batch_size=batch_size)
    for task in TASKS:
        for name, entry in expected["tasks"][task.name].items():
            assert result["tasks"][task.name][name] == pytest.approx(entry, rel=1e-4)


def test_images_without_a_label_are_left_out_of_the_truth_metrics_only():
    data = examples()
    data["valid/edge_texture"][[0, 3]] = False
    data["edge_texture"][[0, 3]] = 0.0
    result = evaluate(data)
    labelled = {k: v[[1, 2, 4]] for k, v in data.items()}
    expected = evaluate(labelled)
    assert result["labelled_images"]["edge_texture"] == 3
    edges, wanted = (r["tasks"]["edge_texture"] for r in (result, expected))
    for name in ("teacher", "student", "baseline_median"):
        assert edges[name] == pytest.approx(wanted[name], rel=1e-4)
    everything = evaluate(examples())["tasks"]["edge_texture"]
    assert edges["student_vs_teacher"] == everything["student_vs_teacher"]


def test_without_labels_only_student_against_teacher_remains(tmp_path):
    result = evaluate(examples(labelled=False))
    for entries in result["tasks"].values():
        assert entries["teacher"] is None
        assert entries["student"] is None
        assert entries["baseline_median"] is None
        assert entries["student_vs_teacher"]["rmse"] > 0
    evaluator.write_evaluation(str(tmp_path / "new" / "evaluation.json"), result)
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text()) == result


def test_without_labels_the_median_of_the_teachers_maps_is_measured_against_these():
    data = examples(labelled=False)
    raw = data["rgb"].mean(-1, keepdims=True)
    result = evaluate(data, batch_size=2)["tasks"]
    for task in TASKS:
        maps = encodings.decode(task, raw)
        expected = metrics.MetricAccumulator(task)
        expected.update(np.broadcast_to(np.median(maps, 0), maps.shape), maps)
        measured = result[task.name]["baseline_median_of_teacher"]
        assert measured == pytest.approx(expected.result(), rel=1e-4)


def test_student_vs_teacher_is_the_same_with_and_without_labels():
    with_labels, without = evaluate(examples()), evaluate(examples(labelled=False))
    for task in TASKS:
        assert (
            with_labels["tasks"][task.name]["student_vs_teacher"]
            == without["tasks"][task.name]["student_vs_teacher"]
        )


def test_a_student_equal_to_its_teacher_scores_perfectly_against_it():
    entry = evaluate(examples(), student_shift=0.0)["tasks"]["edge_texture"]
    perfect = {"rmse": 0, "rel": 0, "delta1": 1, "delta2": 1, "delta3": 1}
    assert entry["student_vs_teacher"] == perfect
    assert entry["student"] == entry["teacher"]


def test_baseline_is_the_median_image_measured_on_valid_pixels():
    data = examples(count=4)
    truth = encodings.decode(DEPTH, data["depth_zbuffer"])
    truth = np.where(data["mask"] > 0, truth, np.nan)
    seen = ~np.isnan(truth).all(axis=0)
    with np.errstate(invalid="ignore"):
        median = np.where(seen, np.nanmedian(np.where(seen, truth, 0), axis=0), 0)
    expected = math.sqrt(np.nanmean((truth - median) ** 2))
    entry = evaluate(data)["tasks"]["depth_zbuffer"]["baseline_median"]
    assert entry["rmse"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labelled", [True, False])
def test_single_image_has_no_median_image_and_no_skill(labelled):
    result = evaluate(examples(count=1, labelled=labelled))
    entries = result["tasks"]["edge_texture"]
    assert entries["baseline_median"] is None
    if labelled:
        assert entries["student"]["skill"] is None
    else:
        assert entries["baseline_median_of_teacher"] is None
    table = format_table(result)
    assert "2D edges: a single image was compared" in table
    medians = [line for line in table.splitlines() if "median  " in line]
    assert all("0.00" not in line for line in medians) and len(medians) % 2 == 0


def test_baseline_can_be_left_out():
    entries = evaluate(examples(), baseline=False)["tasks"]["edge_texture"]
    assert "baseline_median" not in entries


def test_median_image_equals_nanmedian_in_chunks_of_any_size(monkeypatch):
    rng = np.random.default_rng(0)
    truths = rng.normal(size=(7, 5, 6, 3)).astype(np.float32)
    truths[rng.random(truths.shape) < 0.3] = np.nan
    truths[0] = 1.0
    expected = np.nanmedian(truths, axis=0)
    np.testing.assert_allclose(constant_answers.median_image(list(truths)), expected)
    monkeypatch.setattr(constant_answers, "_MEDIAN_CHUNK_BYTES", 1)
    np.testing.assert_allclose(constant_answers.median_image(list(truths)), expected)
    unseen = np.full((2, 1, 1, 1), np.nan, np.float32)
    assert constant_answers.median_image(list(unseen)) == 0.0


def test_median_of_a_large_split_keeps_evenly_spaced_images(monkeypatch):
    one_image = 4 * 4 * 4
    monkeypatch.setattr(constant_answers, "_KEPT_BYTES", 4 * one_image)
    median = constant_answers.MedianImage(EDGES)
    truths = np.arange(20, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones(
        (1, 4, 4, 1)
    )
    median.update(truths, np.ones((20, 4, 4, 1), bool))
    assert [t[0, 0, 0] for t in median._truths] == [0, 8, 16]


def test_predictions_that_are_not_finite_are_reported_and_json_stays_valid(tmp_path):
    data = examples(count=2)
    data["rgb"][0, 0, 0] = np.nan
    result = evaluate(data)
    entry = result["tasks"]["edge_texture"]["student"]
    assert entry["nonfinite_pixels"] == 1
    assert entry["rmse"] is None
    path = str(tmp_path / "evaluation.json")
    evaluator.write_evaluation(path, result)
    with open(path) as file:
        assert "NaN" not in file.read()


def test_writing_refuses_nan_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "evaluation.json"
    evaluator.write_evaluation(str(path), {"step": 1})
    with pytest.raises(ValueError):
        evaluator.write_evaluation(str(path), {"step": float("nan")})
    assert json.loads(path.read_text()) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]


def test_an_empty_split_is_refused():
    with pytest.raises(UserError, match="split 'validation' holds no image"):
        evaluate({k: v[:0] for k, v in examples().items()})


def test_a_missing_teacher_is_named():
    dataset = tf.data.Dataset.from_tensor_slices(examples()).batch(2)
    student, teachers = stand_ins()
    del teachers["edge_texture"]
    with pytest.raises(UserError, match="No teacher was given for edge_texture"):
        evaluator.evaluate(student, teachers, dataset, TASKS, "x", 0, PARAMETERS)
