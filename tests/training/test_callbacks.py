"""Logs, checkpoints and the stop at NaN, with a stand-in for the model."""

import csv
import types

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.training import callbacks


class Model:
    """What the callbacks ask of a `SokaModel`."""

    tasks = ("depth",)

    def __init__(self, step=0):
        self.step = tf.Variable(step, dtype=tf.int64)
        self.weights = tf.Variable([1.0, 2.0])
        self.players = {"encoder": [self.weights]}
        self.resets = 0

    def stage_at(self, step):
        return "joint" if step < 4 else "cycle"

    def reset_metrics(self):
        self.resets += 1


def run(callback, model, steps, logs=None):
    """Does what `fit` does around `steps` steps."""
    callback.set_model(model)
    callback.on_train_begin()
    for batch in range(steps):
        model.step.assign_add(1)
        given = logs(int(model.step)) if callable(logs) else logs
        callback.on_train_batch_end(batch, given or {"loss": 0.5})
    callback.on_train_end()


def rate(step):
    return 0.1 * step


@pytest.fixture
def writer():
    return tf.summary.create_noop_writer()


@pytest.fixture
def log(tmp_path, writer):
    def make(every_steps=2, **arguments):
        path = str(tmp_path / "metrics.csv")
        return callbacks.MetricLog(
            path, ["loss"], every_steps, rate, writer, **arguments
        )

    return make


def rows_of(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_metric_log_writes_a_row_every_n_steps_and_resets_the_means(log, tmp_path):
    model = Model()
    run(log(2), model, 5, lambda step: {"loss": step / 10})
    rows = rows_of(tmp_path)
    assert [(r["step"], r["stage"], r["loss"]) for r in rows] == [
        ("2", "joint", "0.2"),
        ("4", "joint", "0.4"),
    ]
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx([0.2, 0.4])
    assert model.resets == 2


def test_metric_log_reports_the_last_step_of_a_short_run(log, tmp_path):
    run(log(every_steps=100, last_step=3), Model(), 3)
    assert [row["step"] for row in rows_of(tmp_path)] == ["3"]


def test_metric_log_resumed_drops_rows_it_makes_again_and_keeps_time(log, tmp_path):
    run(log(2), Model(), 8)
    before = rows_of(tmp_path)
    before[1]["seconds"] = "100.0"
    with open(tmp_path / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(before[0]))
        table.writeheader()
        table.writerows(before)
    run(log(2), Model(step=5), 3)  # killed after 8, checkpoint of 5
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    assert float(rows[2]["seconds"]) >= 100.0


def test_metric_log_resumed_drops_a_line_cut_off(log, tmp_path):
    run(log(2), Model(), 4)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("1")  # of 120,cycle,...
    run(log(2), Model(step=4), 2)
    assert [row["step"] for row in rows_of(tmp_path)] == ["2", "4", "6"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_metric_log_loss_not_finite_names_loss_step_and_stage(log, bad):
    def logs(step):
        return {"loss": 1.0, "other": bad if step == 6 else 0.0}

    with pytest.raises(UserError, match="step 6, stage cycle: other is not a finite"):
        run(log(2), Model(), 10, logs)


def test_metric_log_writes_scalars_and_movement_for_tensorboard(log, tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    path = str(tmp_path / "metrics.csv")
    log = callbacks.MetricLog(path, ["loss"], 2, rate, writer)

    def logs(step):
        moved = {"movement/joint/encoder": 0.25} if step == 1 else {}
        return {"loss": 0.5, **moved}

    run(log, Model(), 2, logs)
    writer.close()
    assert summaries(tmp_path) == {
        (1, "movement/joint/encoder"): 0.25,
        (2, "loss"): 0.5,
        (2, "learning_rate"): pytest.approx(0.2),
    }


def summaries(folder):
    """(step, tag) -> value of all TensorBoard events in a folder."""
    values = {}
    for path in folder.glob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                values[event.step, value.tag] = array.item() if array.size == 1 else 0
    return values


def manager_of(model, folder, keep=2):
    checkpoint = tf.train.Checkpoint(step=model.step, weights=model.weights)
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=keep)


def saved(folder):
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("*.index"))


@pytest.mark.parametrize("steps, expected", [(7, [6, 7]), (6, [3, 6]), (1, [1])])
def test_checkpoints_are_saved_every_n_steps_and_at_the_end(tmp_path, steps, expected):
    model = Model()
    run(callbacks.Checkpoints(manager_of(model, tmp_path), 3), model, steps)
    assert saved(tmp_path) == expected


def test_checkpoints_flush_the_logs_first(tmp_path):
    model, order = Model(), []
    manager = types.SimpleNamespace(save=lambda checkpoint_number: order.append("save"))
    flushed = types.SimpleNamespace(flush=lambda: order.append("flush"))
    run(callbacks.Checkpoints(manager, 1, [flushed]), model, 2)
    assert order == ["flush", "save"] * 2


@pytest.mark.parametrize("every_steps", [1, 100])
def test_checkpoints_of_a_loss_not_finite_are_not_saved(tmp_path, every_steps):
    model = Model()
    callback = callbacks.Checkpoints(manager_of(model, tmp_path), every_steps)
    with pytest.raises(UserError, match="stage joint: loss is not a finite number"):
        run(callback, model, 2, lambda step: {"loss": np.nan if step == 2 else 0.0})
    assert saved(tmp_path) == ([1] if every_steps == 1 else [])


@pytest.mark.parametrize("every_steps", [2, 100])
def test_checkpoints_of_weights_not_finite_are_not_saved(tmp_path, every_steps):
    """The losses of a step are those from before its update."""
    model = Model()

    def logs(step):
        if step == 4:
            model.weights.assign([1.0, np.nan])
        return {"loss": 0.5}

    callback = callbacks.Checkpoints(manager_of(model, tmp_path), every_steps)
    with pytest.raises(UserError, match="step 4, .*weights of encoder is not a finite"):
        run(callback, model, 4, logs)
    assert saved(tmp_path) == ([2] if every_steps == 2 else [])


def test_progress_without_a_terminal_prints_plain_lines(capsys):
    logs = {"loss/soft/depth": 0.25, "task_weight/depth": 1.0}
    run(callbacks.Progress(10, every_seconds=0.0), Model(step=6), 4, logs)
    shown = capsys.readouterr().err
    assert "10/10" in shown and "depth 0.25 (w 1.00)" in shown
    assert "cycle" in shown and shown.isascii() and shown.endswith("\n")


def test_progress_closed_before_it_began_and_twice_is_quiet(capsys):
    bar = callbacks.Progress(10)
    bar.close()
    run(bar, Model(), 0)
    bar.close()
    assert "0/10" in capsys.readouterr().err


def test_text_summaries_are_code_blocks(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    callbacks.text_summaries(writer, {"gin/config": "a = 1\nb = 2"}, 7)
    writer.close()
    (path,) = tmp_path.glob("events.*")
    events = [
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]
    value = events[-1].summary.value[0]
    assert (events[-1].step, value.tag) == (7, "gin/config")
    assert tf.make_ndarray(value.tensor).item() == b"    a = 1\n    b = 2"
