"""A run from its first step to its last, killed, resumed, spoilt and refused."""

import collections
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import gin
import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data import image_files, pipeline
from soka_tf.data.pipeline import Batches, labelled_dataset
from soka_tf.errors import UserError, plain_message
from soka_tf.evaluation.evaluator import to_units
from soka_tf.evaluation.table import format_table
from soka_tf.runs import checkpoints as saved
from soka_tf.runs import training_loop
from soka_tf.runs.build_run import reseed, teacher_cache
from soka_tf.runs.dry_run import describe
from soka_tf.runs.folder import CONFIG_FILE, FREE_BINDINGS, claim, config_of
from soka_tf.runs.gin_text import differing_bindings
from soka_tf.runs.run_evaluation import evaluate_run
from soka_tf.runs.settings import Settings
from soka_tf.runs.training_loop import train
from soka_tf.serving.saved_model import export_student
from soka_tf.soka import phases
from soka_tf.teachers.pool import TeacherPool
from tests import tiny_runs
from tests.stacks import DECOUPLED_DECAY

pytestmark = pytest.mark.usefixtures("fresh_gin")

STEPS = 6
# Joint start, cycle; with the CGAN from step 4 on.
PLAIN = (
    f"max_steps = {STEPS}",
    "schedule.joint_steps = 2",
    "schedule.initial_losses_step = 1",
    "run.checkpoint_every_steps = 3",
    # Smooth and slow: what differs by rounding stays near.
    "objective.soft_loss = 'l2'",
    "schedule.joint_amalgamation = False",
    "build_optimizers.learning_rate = 0.003",
    "build_optimizers.amalgamation_rate = 0.001",
    "build_optimizers.task_weights_rate = 0.005",
)
WITH_GAN = (
    "max_steps = 4",
    "schedule.joint_steps = 1",
    "schedule.initial_losses_step = 0",
    "run.checkpoint_every_steps = 2",
    f"weight_decay_kind = {DECOUPLED_DECAY!r}",
    "build_adversary.enabled = True",
    "Adversary.start_step = 1",
)


class Stop(Exception):
    pass


class StopAfter(tf.keras.callbacks.Callback):
    """Interrupts a run after some steps."""

    def __init__(self, steps):
        super().__init__()
        self._steps = steps

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self._steps:
            raise Stop


def state(model):
    """Every value that a run goes on from."""
    values = {}
    for player, variables in model.players.variables.items():
        for i, variable in enumerate(variables):
            values[f"{player}/{i}/{variable.name}"] = variable.numpy()
    for name, optimizer in model.optimizers.items():
        slots = optimizer.variables
        for i, variable in enumerate(slots() if callable(slots) else slots):
            values[f"{name}/slot/{i}"] = variable.numpy()
    initial = [v for v in model.balancing.variables]
    for i, variable in enumerate(initial):
        values[f"gradnorm/{i}"] = variable.numpy()
    values["step"] = model.step.numpy()
    return values


def assert_same_state(one, other):
    expected = state(other)
    assert set(state(one)) == set(expected)
    for name, value in state(one).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def rows_of(model_dir):
    path = model_dir / "metrics.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def checkpoints(model_dir):
    folder = model_dir / "checkpoints"
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("*.index"))


def interrupted(tiny, model_dir, params, steps):
    run = tiny.build(model_dir, *params)
    with pytest.raises(Stop):
        train(run, str(model_dir), [StopAfter(steps)])


def resumed(tiny, model_dir, params):
    gin.clear_config()
    run = tiny.build(model_dir, *params)
    train(run, str(model_dir))
    return run


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """A whole run, never interrupted: (run, model_dir). Not to be changed."""
    model_dir = tmp_path_factory.mktemp("plain")
    gin.clear_config()
    run = tiny.build(model_dir, *PLAIN)
    train(run, str(model_dir))
    gin.clear_config()
    return run, model_dir


@pytest.fixture
def finished(plain, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(plain[1], tmp_path / "finished")


# What a run leaves


def test_run_leaves_configuration_checkpoints_events_and_metrics(plain):
    run, model_dir = plain
    assert (model_dir / CONFIG_FILE).read_text() == run.config
    assert "max_steps = 6" in run.config
    assert checkpoints(model_dir) == [3, 6]
    assert [int(row["step"]) for row in rows_of(model_dir)] == [1, 2, 3, 4, 5, 6]
    tags = collections.Counter()
    for path in (model_dir / "tensorboard").glob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags.update(value.tag for value in event.summary.value)
    assert tags["gin/operative_config"] == 1
    for kind in ("1_loss/soft", "3_task_weight"):
        assert tags[f"{kind}/depth_zbuffer"] == STEPS
    assert tags["5_gradient_norm/edge_texture"] == STEPS - 2
    assert tags["6_learning_rate"] == STEPS
    assert not [path for path in model_dir.rglob("*.tmp")]


def test_run_row_holds_the_rate_of_the_next_step_down_to_zero(plain):
    rates = [float(row["learning_rate"]) for row in rows_of(plain[1])]
    assert rates[-1] == 0.0 and rates == sorted(rates, reverse=True)


def test_run_all_steps_done_says_so_and_trains_nothing(tiny, finished, caplog):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("checkpoints/*")}
    rows = rows_of(finished)
    with caplog.at_level("INFO", logger="absl"):
        run = resumed(tiny, finished, PLAIN)
    assert "All 6 steps are done." in caplog.text
    assert int(run.model.step) == STEPS
    after = {path: path.stat().st_mtime_ns for path in finished.glob("checkpoints/*")}
    assert (after, rows_of(finished)) == (before, rows)


# Going on


@pytest.mark.slow  # a run that is killed: tests/faults/test_kill.py
@pytest.mark.parametrize(
    "further", [(), ("schedule.new_batch_in_collaboration = True",)]
)
def test_run_with_cgan_and_decay_resumed_ends_bit_identical(tiny, tmp_path, further):
    params = (*WITH_GAN, *further)
    whole = tiny.build(tmp_path / "whole", *params)
    train(whole, str(tmp_path / "whole"))
    gin.clear_config()
    # One step after its checkpoint of step 2.
    interrupted(tiny, tmp_path / "killed", params, 3)
    again = resumed(tiny, tmp_path / "killed", params)
    assert_same_state(again.model, whole.model)
    steps = [int(row["step"]) for row in rows_of(tmp_path / "killed")]
    assert steps == [1, 2, 3, 4]


@pytest.mark.slow
def test_reseeded_run_is_that_of_its_seed_from_the_first_weight_to_the_last(
    tiny, tmp_path
):
    expected = tiny.build(tmp_path / "expected", *WITH_GAN, "seed = 5")
    gin.clear_config()
    used = tiny.build(tmp_path / "used", *WITH_GAN)
    train(used, str(tmp_path / "used"))
    other = state(used.model)
    run = reseed(used, str(tmp_path / "reseeded"), 5)
    assert_same_state(run.model, expected.model)
    train(expected, str(tmp_path / "expected"))
    train(run, str(tmp_path / "reseeded"))
    assert_same_state(run.model, expected.model)
    assert any(np.any(other[n] != v) for n, v in state(run.model).items())
    # The stored configuration is that of the seed, so that commands can go on.
    stored = (tmp_path / "reseeded" / CONFIG_FILE).read_text()
    assert "\nseed = 5\n" in stored
    assert stored.replace("seed = 5", "seed = 0") == used.config
    logs = [rows_of(tmp_path / name) for name in ("reseeded", "expected")]
    for row in (*logs[0], *logs[1]):
        del row["seconds"]
    assert logs[0] == logs[1]


def test_run_with_a_batch_for_each_phase_takes_both_from_the_chain(
    tiny, tmp_path, monkeypatch
):
    params = ("max_steps = 1", "schedule.joint_steps = 0")
    choice = "schedule.new_batch_in_collaboration = True"
    run = tiny.build(tmp_path, *params, choice)
    seen = []

    def cycle(game, step, *taught):
        seen.extend(images for images, _ in taught)
        raise Stop

    monkeypatch.setattr(phases, "cycle", cycle)
    with pytest.raises(Stop):
        train(run, str(tmp_path))
    size, settings = 2, run.settings
    chain = pipeline.image_dataset(
        run.data.train,
        pipeline.Batches(settings.image_size, 2 * size),
        settings.seed,
        steps=1,
    )
    expected = next(iter(chain))["rgb"].numpy()
    assert [len(images) for images in seen] == [size, size]
    np.testing.assert_allclose(seen[0], expected[::2], atol=1e-6)
    np.testing.assert_allclose(seen[1], expected[1::2], atol=1e-6)


@pytest.mark.parametrize("cycles", [pytest.param(False, marks=pytest.mark.slow), True])
def test_run_of_one_task_is_trained_measured_and_exported(tiny, tmp_path, cycles):
    files = ["gin/rooms/soka.gin", "gin/methods/n_to_n.gin"]
    params = ["max_steps = 2", "run.validate_every_steps = 2"]
    if cycles:  # a weight that may move has nowhere to go
        params += ["schedule.joint_steps = 0", "GradNorm.adaptive = True"]
    run = tiny.build(tmp_path / "run", *params, files=files)
    train(run, str(tmp_path / "run"))
    assert run.model.balancing.task_weights.numpy() == pytest.approx([1.0], abs=1e-6)

    settings = run.settings
    student = saved.restore_student(str(tmp_path / "run"), settings, which="best")
    assert student.tasks == ("depth_zbuffer",)
    result = evaluate_run(run, str(tmp_path / "run"))
    assert "depth" in format_table(result)
    path = str(tmp_path / "export")
    export_student(student, settings.targets, settings.image_size, path)
    assert tf.saved_model.contains_saved_model(path)


_PROGRAM = """
    import glob, sys, time
    import tensorflow as tf
    from soka_tf import cli
    from soka_tf.runs.config import parse_gin
    from soka_tf.runs.build_run import build_run
    from soka_tf.runs.training_loop import train

    class Linger(tf.keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if glob.glob(model_dir + "/checkpoints/*.index"):
                time.sleep(float(lingers))  # to be killed in the middle

    lingers, model_dir, *params = sys.argv[1:]
    cli._log_plainly()
    parse_gin(["gin/rooms/soka.gin"], params)
    train(build_run(model_dir), model_dir, [Linger()])
"""
KILLED = (
    "max_steps = 7",
    "schedule.joint_steps = 0",
    "run.checkpoint_every_steps = 3",
)


def start(model_dir, params, lingers=0.0):
    return subprocess.Popen(
        [
            *(sys.executable, "-c", textwrap.dedent(_PROGRAM)),
            *(str(lingers), str(model_dir), *params),
        ],
        env={**os.environ, "PYTHONPATH": str(tiny_runs.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow  # eagerly: tests/faults/test_kill.py
def test_run_killed_and_started_again_ends_like_an_uninterrupted_one(tiny, tmp_path):
    """Real processes, compiled graphs, SIGKILL."""
    folder, params = tmp_path / "killed", tiny.params(*KILLED)
    killed = start(folder, params, lingers=1.0)
    whole = tiny.build(tmp_path / "whole", *KILLED)
    whole.model.run_eagerly = False
    with killed.stderr:
        deadline = time.monotonic() + 120
        while len(rows_of(folder)) < 4:  # one step more than the checkpoint
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert checkpoints(folder) == [3]

    again = start(folder, params)
    train(whole, str(tmp_path / "whole"))
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "Continuing from step 3 of" in errors
    restored = resumed(tiny, folder, KILLED)  # all is done: it only reads
    assert_same_state(restored.model, whole.model)
    assert [int(row["step"]) for row in rows_of(folder)] == [1, 2, 3, 4, 5, 6, 7]


# Teachers' outputs from disk


def caching(folder, *further):
    return (
        *PLAIN,
        "run.teacher_cache = True",
        f"run.teacher_cache_dir = {str(folder)!r}",
        *further,
    )


def losses_of(model_dir):
    return [
        {name: float(v) for name, v in row.items() if name.startswith("loss/") and v}
        for row in rows_of(model_dir)
    ]


@pytest.mark.slow
def test_run_with_cached_teachers_never_runs_them_and_loses_only_rounding(
    tiny, plain, tmp_path, monkeypatch
):
    params = caching(tmp_path / "cache")
    run = tiny.build(tmp_path / "run", *params)

    def never(*_):
        raise AssertionError("a teacher was run")

    monkeypatch.setattr(TeacherPool, "__call__", never)
    train(run, str(tmp_path / "run"))
    # float16 rounds targets by 2^-11 at most; six steps of Adam, whose first ones have
    # the size of the rate whatever the gradient, make that a percent of a loss. The
    # loss of the task weights is a difference of nearly equal norms: not compared.
    rows = list(zip(losses_of(tmp_path / "run"), losses_of(plain[1])))
    for step, (cached, exact) in enumerate(rows, 1):
        assert set(cached) == set(exact)
        for name in set(exact) - {"loss/gradnorm"}:
            tolerance = 1e-3 if step == 1 else 2e-2
            assert cached[name] == pytest.approx(exact[name], rel=tolerance), name
    assert losses_of(tmp_path / "run") != losses_of(plain[1])

    # Stopped, and gone on elsewhere on the disk: to the same bits.
    gin.clear_config()
    interrupted(tiny, tmp_path / "killed", params, 4)
    (tmp_path / "cache").rename(tmp_path / "moved")
    again = resumed(tiny, tmp_path / "killed", caching(tmp_path / "moved"))
    assert_same_state(again.model, run.model)
    gin.clear_config()
    with pytest.raises(UserError, match="run.teacher_cache: True -> False"):
        tiny.build(tmp_path / "run", *params, "run.teacher_cache = False")


@pytest.mark.parametrize(
    "further, layers",
    [
        ([], {"block3", "representation"}),
        pytest.param(
            ["build_amalgamation.layers = ('block3',)"],
            {"block3"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["build_amalgamation.variant = None"], set(), marks=pytest.mark.slow
        ),
        (["schedule.joint_steps = 100"], set()),
        pytest.param(
            ["schedule.tail_share = 0.5"],
            {"block3", "representation"},
            marks=pytest.mark.slow,
        ),
        pytest.param(["schedule.tail_share = 1.0"], set(), marks=pytest.mark.slow),
        (
            ["schedule.joint_steps = 100", "schedule.joint_amalgamation = True"],
            {"block3", "representation"},
        ),
    ],
)
def test_run_caches_only_what_it_needs(tiny, tmp_path, further, layers):
    run = tiny.build(tmp_path / "run", *caching(tmp_path / "cache", *further))
    cache = teacher_cache(run.settings, run.model)
    assert set(cache.records["edge_texture"].shapes) == {*layers, "prediction"}
    assert ("keypoints3d" in cache.records) == bool(layers)


def test_run_with_flips_trains_and_refuses_cached_teachers(tiny, tmp_path):
    flip = "run.augmentation = 'flip'"
    run = tiny.build(tmp_path / "flip", *PLAIN, "max_steps = 1", flip)
    train(run, str(tmp_path / "flip"))
    gin.clear_config()
    with pytest.raises(UserError, match="run.augmentation = 'flip' and run.teacher_ca"):
        tiny.build(tmp_path / "both", *caching(tmp_path / "cache", flip))
    assert not (tmp_path / "cache").exists()


# What is refused


def test_run_other_bindings_are_refused_with_both_values(tiny, finished):
    other = (*PLAIN, "batch_size = 3", "objective.soft_weight = 0.1")
    with pytest.raises(UserError) as refused:
        tiny.build(finished, *other)
    message = plain_message(refused.value)
    assert "batch_size: 2 -> 3" in message
    assert "objective.soft_weight: 0.05 -> 0.1" in message
    assert message.count("->") == 2 and "\n" not in message


def test_run_with_a_later_last_step_is_trained_longer(tiny, finished, caplog):
    caplog.set_level("INFO", logger="absl")
    longer = [name for name in PLAIN if not name.startswith("max_steps")]
    run = tiny.build(finished, *longer, f"max_steps = {STEPS + 2}")
    assert "max_steps = 6" in (finished / CONFIG_FILE).read_text()  # nothing done yet
    train(run, str(finished))
    assert "trained longer: max_steps 6 -> 8" in caplog.text
    assert "max_steps = 8" in (finished / CONFIG_FILE).read_text()
    assert [int(row["step"]) for row in rows_of(finished)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert int(run.model.step.numpy()) == 8
    assert checkpoints(finished)[-1] == 8


def test_run_with_an_earlier_last_step_is_refused_and_by_a_dry_run_too(tiny, finished):
    earlier = [name for name in PLAIN if not name.startswith("max_steps")]
    with pytest.raises(UserError, match="configuration: max_steps: 6 -> 4"):
        tiny.build(finished, *earlier, "max_steps = 4")
    with pytest.raises(UserError, match="configuration: max_steps: 6 -> 4"):
        describe(str(finished))


def test_run_goes_on_with_images_that_came_since(tiny, finished, tmp_path, caplog):
    images = shutil.copytree(tiny.images, tmp_path / "images")
    bound = (*PLAIN, f"images_dir = {str(images)!r}")
    model_dir = tmp_path / "run"
    run = tiny.build(model_dir, *bound)
    split = (model_dir / "split.json").read_text()
    claim(str(model_dir), run.config)
    shutil.copy(images / "0.png", images / "new.png")
    gin.clear_config()
    again = tiny.build(model_dir, *bound)
    assert again.data.validation == run.data.validation
    assert {s.key for s in again.data.train} - {s.key for s in run.data.train} == {
        "new"
    }
    assert "1 samples are not in" in caplog.text
    assert (model_dir / "split.json").read_text() == split


def test_run_other_images_are_refused_before_their_split(tiny, finished, tmp_path):
    tiny_runs.write_images(tmp_path / "others", 4)
    split = (finished / "split.json").read_text()
    with pytest.raises(UserError, match="images_dir: .*images' -> .*others'"):
        tiny.build(finished, *PLAIN, f"images_dir = {str(tmp_path / 'others')!r}")
    assert (finished / "split.json").read_text() == split


def test_run_bindings_that_change_no_result_may_differ(plain, finished):
    config = plain[0].config
    changed = config.replace("log_every_steps = 1", "log_every_steps = 50")
    changed = changed.replace("run.export = True", "run.export = False")
    assert changed.count("\n") == config.count("\n") and changed != config
    assert differing_bindings(config, changed, free=FREE_BINDINGS) == []
    claim(str(finished), changed)
    fewer = re.sub(r"(run.validation_images = )\d+", r"\g<1>1", config)
    with pytest.raises(UserError, match="run.validation_images"):
        claim(str(finished), fewer)


def test_settings_of_an_unknown_export_precision_are_refused():
    with pytest.raises(UserError, match="run.export_precision must be one of float32"):
        Settings(("normal",), 8, 2, 5, export_precision="float16")


@pytest.mark.parametrize("name", ["batch_size", "max_steps", "image_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_settings_not_a_whole_number_name_the_binding(name, value):
    values = {"image_size": 8, "batch_size": 2, "max_steps": 5, name: value}
    with pytest.raises(UserError, match=rf"run\.{name} must be a whole number"):
        Settings(tasks=["normal"], **values)


def test_settings_take_whole_floats_as_gin_reads_them():
    settings = Settings(["edge2d"], 8, 2, 6e5)
    assert settings.max_steps == 600000 and isinstance(settings.max_steps, int)
    assert settings.task_names == ["edge_texture"]


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        config_of(str(tmp_path))
    with pytest.raises(UserError, match="there is no checkpoint"):
        saved.latest_checkpoint(str(tmp_path))


# What is spoilt


def truncated(data):
    return data[:1000]


def flipped(data):
    return bytes(255 - byte for byte in data)


@pytest.mark.parametrize("part", ["index", "data*"])
@pytest.mark.parametrize("damage", [truncated, flipped, lambda data: b""])
def test_damaged_checkpoint_is_named_in_one_line(plain, finished, damage, part):
    (path,) = (finished / "checkpoints").glob(f"ckpt-6.{part}")
    path.write_bytes(damage(path.read_bytes()))
    model = plain[0].model
    before = state(model)
    with pytest.raises(UserError, match="ckpt-6: the checkpoint does not fit") as error:
        saved.restore(model, str(finished))
    assert "\n" not in plain_message(error.value)
    for name, value in state(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_run_without_its_last_checkpoint_goes_on_from_the_one_before(
    tiny, finished, plain
):
    for path in (finished / "checkpoints").glob("ckpt-6.*"):
        path.unlink()
    assert saved.restored_step(str(finished)) == 3
    assert len(rows_of(finished)) == STEPS
    run = resumed(tiny, finished, PLAIN)
    assert checkpoints(finished) == [3, 6]
    assert_same_state(run.model, plain[0].model)
    assert len(rows_of(finished)) == STEPS


class Spoil(tf.keras.callbacks.Callback):
    """Makes a weight NaN after a step."""

    def __init__(self, student, step):
        super().__init__()
        self._variable = student.encoder.last_shared_kernel
        self._step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self._step:
            self._variable.assign(self._variable * np.nan)


def test_run_nan_between_two_logs_keeps_the_last_good_checkpoint(tiny, tmp_path):
    run = tiny.build(tmp_path, *PLAIN, "run.log_every_steps = 100")
    message = (
        r"in step 5 \(noticed after step 6\), phase competition, term "
        "loss/competition of task depth_zbuffer was NaN or infinite. The last good "
        "checkpoint is that of step 3.* No teacher's output is broken"
    )
    with pytest.raises(UserError, match=message):
        train(run, str(tmp_path), [Spoil(run.model.student, 4)])
    assert checkpoints(tmp_path) == [3]
    student = saved.restore_student(str(tmp_path), run.settings)
    assert all(np.isfinite(v.numpy()).all() for v in student.variables)


def test_teachers_are_not_blamed_for_images_that_a_service_chose(tiny, tmp_path):
    run = tiny.build(tmp_path, *PLAIN, "run.data_service = 'grpc://localhost:1'")
    assert training_loop._broken_teachers(run, 0) is None


def test_run_is_measured_against_what_its_teachers_are_shown(tiny, tmp_path):
    run = tiny.build(tmp_path, *PLAIN, "load_pool.inputs = 'released'")
    result, tasks = evaluate_run(run, str(tmp_path))["tasks"], run.settings.targets
    (batch,) = labelled_dataset(run.data.validation, tasks, Batches(16, 8))
    student = run.model.student(batch["rgb"], training=False)
    pool = run.model.teachers
    for shown, equal in ((pool, True), (TeacherPool(pool.targets, {}), False)):
        said = shown(batch["rgb"], ()).maps
        for task in tasks:
            error = to_units(task, student[task.name]) - to_units(task, said[task.name])
            rmse = float(np.sqrt(np.mean(np.square(error))))
            measured = result[task.name]["student_vs_teacher"]["rmse"]
            assert (measured == pytest.approx(rmse, rel=1e-5)) == equal


def test_run_teacher_that_answers_nan_is_named_with_an_image(tiny, tmp_path):
    run = tiny.build(tmp_path / "run", *PLAIN)
    variable = run.model.teachers.targets["edge_texture"].decoder.variables[-1]
    before = variable.numpy()
    variable.assign(np.full_like(before, np.nan))
    try:
        message = (
            "in step 1, phase joint, term loss/soft of task edge_texture was NaN.* "
            r"The teacher of edge_texture \(.*edge_texture.safetensors\) predicts "
            "NaN or infinite values on 2 of the step's 2 images, such as "
            r".*/\d.png. There is no checkpoint yet.* Replace that teacher's file "
            "first."
        )
        with pytest.raises(UserError, match=message):
            train(run, str(tmp_path / "run"))
    finally:  # teachers are shared by the tests of a process
        variable.assign(before)


def test_run_validated_keeps_the_best_student_and_logs_its_agreement(tiny, tmp_path):
    params = (*PLAIN, "run.validate_every_steps = 4", "run.validation_images = 1")
    run = tiny.build(tmp_path, *params)
    train(run, str(tmp_path))
    rows = [r for r in rows_of(tmp_path) if r["validation/mean"]]
    assert [row["step"] for row in rows] == ["4", "6"]
    of_tasks = [float(rows[0][f"validation/soft/{t}"]) for t in run.model.tasks]
    assert float(rows[0]["validation/mean"]) == pytest.approx(np.mean(of_tasks), 1e-4)
    best = min(rows, key=lambda row: float(row["validation/mean"]))
    assert saved.restored_step(str(tmp_path), "best") == int(best["step"])
    saved.restore_student(str(tmp_path), run.settings, which="best")


def test_run_never_validated_has_no_best_student(plain):
    with pytest.raises(UserError, match="never validated.*--checkpoint=last"):
        saved.restore_student(str(plain[1]), plain[0].settings, which="best")


def test_run_images_that_vanish_midway_are_an_error_in_words(tiny, tmp_path):
    images = shutil.copytree(tiny.images, tmp_path / "images")
    params = (*PLAIN, "max_steps = 500", f"images_dir = {str(images)!r}")
    run = tiny.build(tmp_path / "run", *params)

    class Vanish(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                shutil.rmtree(images)

    with pytest.raises(UserError, match=r"^No image of \d samples can be read.*"):
        train(run, str(tmp_path / "run"), [Vanish()])


def test_run_never_opens_a_label(tiny, tmp_path, monkeypatch):
    """Labels are there, and garbage; elsewhere here they are absent."""
    root = tmp_path / "taskonomy"
    for domain in ("rgb", "depth_zbuffer", "edge_texture"):
        folder = root / "home" / domain
        tiny_runs.write_images(folder, 6)
        for path in folder.iterdir():
            name = f"point_{path.stem}_view_0_domain_{domain}.png"
            path.rename(folder / name)
            if domain != "rgb":
                (folder / name).write_bytes(b"garbage")
    opened = set()

    def read_pixels(path, domain, real=image_files.read_pixels):
        opened.add(domain)
        return real(path, domain)

    monkeypatch.setattr(image_files, "read_pixels", read_pixels)
    params = (
        "max_steps = 2",
        "schedule.joint_steps = 1",
        "images_dir = None",
        f"taskonomy_dir = {str(root)!r}",
        "build_data.check_files = True",
    )
    run = tiny.build(tmp_path / "with", *params)
    assert {"depth_zbuffer", "edge_texture"} <= set(run.data.train[0].files)
    train(run, str(tmp_path / "with"))
    assert opened == {"rgb"}


def test_run_in_a_file_is_refused_by_name(tiny, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="--model_dir must be a folder.*is a file"):
        tiny.build(tmp_path / "run", *PLAIN)


def test_run_has_a_lower_rate_while_batch_norm_settles(tiny, tmp_path):
    params = ("schedule.settle_share = 0.5", "build_optimizers.settle_rate = 0.0")
    params += ("max_steps = 4", "schedule.joint_steps = 2")
    params += ("schedule.initial_losses_step = 1",)
    run = tiny.build(tmp_path, *params)
    seen = []

    def remember(*_):
        seen.append([weight.numpy() for weight in run.model.student.trainable_weights])

    callback = tf.keras.callbacks.LambdaCallback(on_train_batch_end=remember)
    train(run, str(tmp_path), [callback])
    moved = [
        any((old != new).any() for old, new in zip(before, after))
        for before, after in zip(seen, seen[1:])
    ]
    assert moved == [True, False, False]
