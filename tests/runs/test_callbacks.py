"""Logs, checkpoints and the stop at NaN, with a stand-in for the model."""

import contextlib
import csv
import errno
import io
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.runs.callbacks import metric_log
from soka_tf.runs.callbacks.events import code_block, tag, write_texts
from soka_tf.runs.callbacks.metric_log import MetricLog
from soka_tf.runs.callbacks.not_finite import NotFinite
from soka_tf.runs.callbacks.progress import Progress
from soka_tf.runs.callbacks.save_checkpoints import Checkpoints
from soka_tf.runs.callbacks.step import Every
from soka_tf.runs.checkpoint_folder import CheckpointFolder
from soka_tf.runs.movement import StageMovement, read_movement
from soka_tf.soka.ledger import PHASES
from soka_tf.soka.schedule import Schedule


class Model:
    """What the callbacks ask of a `SokaModel`."""

    tasks = ("depth",)
    schedule = Schedule(joint_steps=4, settle_share=0.25, max_steps=12)

    def __init__(self, step=0):
        self.step = tf.Variable(step, dtype=tf.int64)
        self.weights = tf.Variable([1.0, 2.0])
        self.players = types.SimpleNamespace(variables={"encoder": [self.weights]})
        self.ledger = types.SimpleNamespace(first_not_finite=lambda: self.not_finite)
        self.resets = 0
        self.not_finite = {}

    def stage_at(self, step):
        return "joint" if step < 4 else "cycle"

    def phase_of(self, term, step):
        known = {"loss/soft/depth": "collaboration", "encoder": "collaboration"}
        return "joint" if term == "encoder" and step < 4 else known[term]

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
    def make(model, every_steps=2, last_step=None, **arguments):
        return MetricLog(
            str(tmp_path / "metrics.csv"),
            ["loss"],
            Every(every_steps, last_step),
            rate,
            writer,
            NotFinite(model),
            **arguments,
        )

    return make


def rows_of(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_metric_log_writes_a_row_every_n_steps_and_resets_the_means(log, tmp_path):
    model = Model()
    run(log(model), model, 5, lambda step: {"loss": step / 10})
    rows = rows_of(tmp_path)
    assert [(r["step"], r["stage"], r["loss"]) for r in rows] == [
        ("2", "joint", "0.2"),
        ("4", "joint", "0.4"),
    ]
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx([0.2, 0.4])
    assert model.resets == 2


def test_metric_log_reports_the_last_step_of_a_short_run(log, tmp_path):
    model = Model()
    run(log(model, every_steps=100, last_step=3), model, 3)
    assert [row["step"] for row in rows_of(tmp_path)] == ["3"]


def test_metric_log_reports_a_step_at_which_more_was_measured(log, tmp_path):
    model = Model()

    def further(step):
        return {"loss": 7.0} if step == 3 else {}

    run(log(model, further=further), model, 4)
    assert [(r["step"], r["loss"]) for r in rows_of(tmp_path)] == [
        ("2", "0.5"),
        ("3", "7"),
        ("4", "0.5"),
    ]


def test_metric_log_resumed_drops_rows_it_makes_again_and_keeps_time(log, tmp_path):
    model = Model()
    run(log(model), model, 8)
    before = rows_of(tmp_path)
    before[1]["seconds"] = "100.0"
    with open(tmp_path / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(before[0]))
        table.writeheader()
        table.writerows(before)
    model = Model(step=5)
    run(log(model), model, 3)  # killed after 8, checkpoint of 5
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    assert float(rows[2]["seconds"]) >= 100.0


def test_metric_log_resumed_keeps_columns_that_are_not_measured_any_more(log, tmp_path):
    text = "step,stage,seconds,loss,validation/mean\n2,joint,1.0,0.5,0.25\n"
    (tmp_path / "metrics.csv").write_text(text)
    model = Model(step=2)
    run(log(model), model, 2)
    rows = [(row["step"], row["validation/mean"]) for row in rows_of(tmp_path)]
    assert rows == [("2", "0.25"), ("4", "")]


def test_metric_log_resumed_drops_a_line_cut_off(log, tmp_path):
    model = Model()
    run(log(model), model, 4)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("1")  # of 120,cycle,...
    run(log(model), model, 2)
    assert [row["step"] for row in rows_of(tmp_path)] == ["2", "4", "6"]


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n", b"1,joint,2.5\n", b"step\n1\n", b"a\0b\n"]
)
def test_metric_log_resumed_refuses_what_is_no_log_and_leaves_it(
    log, tmp_path, content
):
    (tmp_path / "metrics.csv").write_bytes(content)
    model = Model()
    with pytest.raises(UserError, match=r"metrics\.csv: not the metrics of a run"):
        run(log(model), model, 2)
    assert (tmp_path / "metrics.csv").read_bytes() == content


@pytest.mark.parametrize("step, seconds", [("\u00b2", "1"), ("nan", "1"), ("2", "inf")])
def test_metric_log_resumed_takes_no_cell_for_a_number_that_is_none(
    log, tmp_path, step, seconds
):
    text = f"step,seconds,loss\n{step},{seconds},0.5\n"
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    model = Model(step=2)
    run(log(model), model, 2)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == (["2", "4"] if step == "2" else ["4"])
    assert float(rows[-1]["seconds"]) < 60


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_metric_log_loss_not_finite_names_loss_step_and_stage(log, bad):
    model = Model()

    def logs(step):
        return {"loss": 1.0, "other": bad if step == 6 else 0.0}

    with pytest.raises(UserError, match="in step 6, phase cycle, term other was NaN"):
        run(log(model), model, 10, logs)


class FullDisk(io.FileIO):
    """A file that takes five bytes more."""

    def write(self, content):
        super().write(content[:5])
        raise OSError(errno.ENOSPC, "No space left on device", self.name)


def test_metric_log_full_disk_keeps_rows_and_writes_them_later(
    log, tmp_path, monkeypatch, caplog
):
    model = Model()

    def logs(step):
        if step == 3:
            monkeypatch.setattr(
                metric_log,
                "open",
                lambda path, mode: FullDisk(path, "r+"),
                raising=False,
            )
        if step == 7:
            monkeypatch.undo()
        return {"loss": step / 10}

    run(log(model), model, 8, logs)
    assert [r["loss"] for r in rows_of(tmp_path)] == ["0.2", "0.4", "0.6", "0.8"]
    assert "metrics.csv: 2 rows up to step 6 were not written" in caplog.text
    assert "No space left on device" in caplog.text
    assert "Training goes on" in caplog.text


def test_metric_log_folder_not_writable_is_refused_at_the_start(log, tmp_path):
    (tmp_path / f"metrics.csv.{os.getpid()}.tmp").mkdir()
    model = Model(step=3)
    with pytest.raises(UserError, match="metrics.csv cannot be written.*from step 3"):
        run(log(model), model, 1)


def test_metric_log_writes_scalars_and_a_table_of_movement_for_tensorboard(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    path, model = str(tmp_path / "metrics.csv"), Model()
    not_finite = NotFinite(model)
    every = Every(2)
    log = MetricLog(path, ["loss"], every, rate, writer, not_finite)

    def logs(step):
        moved = {"movement/joint/encoder": 0.25} if step == 1 else {}
        return {"loss/soft/depth": 0.5, **moved}

    run(log, model, 2, logs)
    writer.close()
    assert summaries(tmp_path) == {
        (1, "movement"): (
            b"step 1, joint: relative change of each player a phase\n\n"
            b"player | joint\n--- | ---\nencoder | 2.5e-01"
        ),
        (2, "1_loss/soft/depth"): 0.5,
        (2, "6_learning_rate"): pytest.approx(0.2),
    }
    assert read_movement(tmp_path / "movement.json") == [
        StageMovement("joint", 1, ("joint",), {"encoder": (0.25,)})
    ]


def test_tensorboard_opens_on_losses_validation_and_panels(tmp_path):
    names = ["gradient_norm/normal", "learning_rate", "loss/soft/normal"]
    names += ["task_weight/normal", "validation/mean", "panels/normal"]
    names += ["encoder_share/normal", "loss/transfer"]
    assert sorted(map(tag, names)) == [
        *("1_loss/soft/normal", "1_loss/validation/mean", "2_panels/normal"),
        *("3_task_weight/normal", "4_further_loss/transfer"),
        *("5_encoder_share/normal", "5_gradient_norm/normal", "6_learning_rate"),
    ]
    # Every kind that the model logs has its place; movement is a text.
    kinds = {name for name in PHASES if name != "loss/competition"}
    assert all(tag(f"{kind}/normal")[0].isdigit() for kind in kinds)


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


# Not a number


def test_not_finite_names_the_first_term_its_task_phase_and_step():
    model = Model()
    model.not_finite = {"loss/soft/depth": 4, "task_weight/depth": 5}
    not_finite = NotFinite(
        model, lambda: 3, lambda step: [f"The teacher is broken at {step}."]
    )
    with pytest.raises(UserError) as error:
        not_finite.check(7, {})
    assert str(error.value) == (
        "Training stopped: in step 5 (noticed after step 7), phase collaboration, term "
        "loss/soft of task depth was NaN or infinite. The teacher is broken at 4. The "
        "last good checkpoint is that of step 3: the same command goes on from there. "
        "Replace that teacher's file first."
    )


def test_not_finite_cosine_of_a_step_left_out_stops_nothing():
    check = NotFinite(Model(step=3)).check
    check(3, {"loss": 1.0, "cosine/normal/depth_zbuffer": np.nan})
    with pytest.raises(UserError, match="term loss was NaN"):
        check(3, {"loss": np.nan, "cosine/normal/depth_zbuffer": np.nan})


def test_not_finite_without_cause_or_checkpoint_says_what_to_change():
    model = Model()
    model.not_finite = {"loss/soft/depth": 0}
    words = (
        "no checkpoint yet.* anew. {}hould it happen again.*build_optimizers.learning"
    )
    for causes, start in (None, "S"), ([], "No teacher's output is broken; s"):
        with pytest.raises(UserError, match=words.format(start)):
            NotFinite(model, find_causes=lambda step, c=causes: c).check(1, {})


def folder_of(model, folder, keep=2):
    checkpoint = tf.train.Checkpoint(step=model.step, weights=model.weights)
    return CheckpointFolder(str(folder), checkpoint, keep)


def checkpoints_of(model, folder, every_steps, **arguments):
    return Checkpoints(
        folder_of(model, folder),
        every_steps,
        NotFinite(model),
        **arguments,
    )


def saved(folder):
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("*.index"))


@pytest.mark.parametrize("steps, expected", [(7, [6, 7]), (6, [3, 6]), (1, [1])])
def test_checkpoints_are_saved_every_n_steps_and_at_the_end(tmp_path, steps, expected):
    model = Model()
    run(checkpoints_of(model, tmp_path, 3), model, steps)
    assert saved(tmp_path) == expected


def test_checkpoints_flush_the_logs_first(tmp_path):
    model, order = Model(), []
    folder = types.SimpleNamespace(save=lambda step: order.append("save"))
    flushed = types.SimpleNamespace(flush=lambda: order.append("flush"))
    not_finite = NotFinite(model)
    run(Checkpoints(folder, 1, not_finite, [flushed]), model, 2)
    assert order == ["flush", "save"] * 2


@pytest.mark.parametrize("every_steps", [1, 100])
def test_checkpoints_of_a_loss_not_finite_are_not_saved(tmp_path, every_steps):
    model = Model()
    callback = checkpoints_of(model, tmp_path, every_steps)
    with pytest.raises(UserError, match="in step 2, phase joint, term loss was NaN"):
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

    callback = checkpoints_of(model, tmp_path, every_steps)
    with pytest.raises(UserError, match="in step 4, .*the weights of encoder was NaN"):
        run(callback, model, 4, logs)
    assert saved(tmp_path) == ([2] if every_steps == 2 else [])


# A disk that is full


@pytest.fixture
def full_disk(monkeypatch):
    """Call it with the steps at which TensorFlow writes half a checkpoint."""

    def fill(folder, steps):
        def write(checkpoint, prefix, real=tf.train.Checkpoint.write):
            step = int(prefix.rsplit("-", 1)[1])
            if step not in steps:
                return real(checkpoint, prefix)
            pathlib.Path(f"{prefix}.data-00000-of-00001").write_bytes(b"1")
            (folder / f"ckpt-{step}.data-00000-of-00001").write_bytes(b"1")
            raise tf.errors.ResourceExhaustedError(
                None, None, f"{folder}; No space left on device"
            )

        monkeypatch.setattr(tf.train.Checkpoint, "write", write)

    return fill


def test_checkpoints_full_disk_warns_leaves_nothing_and_tries_again(
    tmp_path, full_disk, caplog
):
    model = Model()
    full_disk(tmp_path, [4])
    run(checkpoints_of(model, tmp_path, 2), model, 6)
    assert saved(tmp_path) == [2, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"ckpt-{n}.{part}" for n in (2, 6) for part in ("data-00000-of-00001", "index")
    ]
    assert "the checkpoint of step 4 was not saved" in caplog.text
    assert "No space left on device" in caplog.text
    assert "next try is at step 6; the checkpoint of step 2 is still" in caplog.text


def test_checkpoints_full_disk_at_the_end_is_an_error_that_says_how_to_go_on(
    tmp_path, full_disk
):
    model = Model()
    full_disk(tmp_path, [3])
    message = (
        "step 3, was not saved .*No space.*it goes on from the checkpoint of step 2"
    )
    with pytest.raises(UserError, match=message):
        run(checkpoints_of(model, tmp_path, 2), model, 3)
    assert CheckpointFolder(str(tmp_path)).last() == str(tmp_path / "ckpt-2")
    assert saved(tmp_path) == [2]


def test_progress_without_a_terminal_prints_plain_lines(capsys):
    logs = {"loss/soft/depth": 0.25, "task_weight/depth": 1.0}
    run(Progress(10, every_seconds=0.0), Model(step=6), 4, logs)
    shown = capsys.readouterr().err
    assert "10/10" in shown and "depth 0.25 (w 1.00)" in shown
    assert "cycle" in shown and shown.isascii() and shown.endswith("\n")


def test_progress_says_once_that_batch_norm_settles(caplog):
    logs = {"loss/soft/depth": 0.25, "task_weight/depth": 1.0}
    caplog.set_level("INFO")
    run(Progress(12), Model(step=8), 4, logs)  # settles after 9 of 12 steps
    assert [r.message for r in caplog.records if "ettling" in r.message] == [
        "Settling from step 10 on: BatchNorm uses its moving statistics, which the "
        "student uses after training. The losses may jump here."
    ]
    caplog.clear()
    run(Progress(12), Model(step=10), 2, logs)
    assert not caplog.text


def test_progress_into_a_file_on_a_full_disk_is_not_shown(monkeypatch):
    logs = {"loss/soft/depth": 0.25, "task_weight/depth": 1.0}
    full = open("/dev/full", "w", buffering=1)
    with pytest.raises(OSError, match="No space left"):
        full.write("a line\n")
    monkeypatch.setattr(sys, "stderr", full)
    run(Progress(10, every_seconds=0.0), Model(step=6), 4, logs)
    monkeypatch.undo()
    with contextlib.suppress(OSError):  # of what is still in its buffer
        full.close()


def test_progress_closed_before_it_began_and_twice_is_quiet(capsys):
    bar = Progress(10)
    bar.close()
    run(bar, Model(), 0)
    bar.close()
    assert "0/10" in capsys.readouterr().err


def test_text_summaries_are_code_blocks(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    write_texts(writer, {"gin/config": code_block("a = 1\nb = 2")}, 7)
    writer.close()
    (path,) = tmp_path.glob("events.*")
    events = [
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]
    value = events[-1].summary.value[0]
    assert (events[-1].step, value.tag) == (7, "gin/config")
    assert tf.make_ndarray(value.tensor).item() == b"    a = 1\n    b = 2"
