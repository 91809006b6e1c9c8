"""Steps exported as XLA programs, run by JAX, against TensorFlow."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.runs import checkpoints
from soka_tf.runs.config import parse_gin
from tests import smooth, tiny_runs
from tools.xla import export

pytestmark = pytest.mark.slow

TOOL = tiny_runs.ROOT / "tools" / "xla_step.py"


def call(*arguments, code=0):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    return done


@pytest.fixture
def smooth_model(tiny, fresh_gin):
    """A tiny run's model, by TensorFlow."""
    parse_gin(["gin/rooms/soka.gin"], params_of(tiny))
    with smooth.activations():
        return export.build_model(random_teachers=True)


def params_of(tiny):
    return tiny.params(
        "schedule.joint_steps = 0",
        "seed = 3",
        "build_optimizers.learning_rate = 0.001",
    )


def write_images(folder):
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    np.save(folder / "images.npy", images)
    return images


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """A folder with the cycle of a tiny run and its initial values."""
    folder = tmp_path_factory.mktemp("xla")
    call(
        *("export", f"--out={folder}", "--step=cycle", "--batch=2", "--values"),
        f"--gin_file={tiny_runs.ROOT / 'gin/rooms/soka.gin'}",
        *(f"--gin_param={param}" for param in params_of(tiny)),
    )
    return folder


def test_description_names_every_input_and_its_range(exported):
    description = json.loads((exported / "cycle_alternating_2.json").read_text())
    names = [of["name"] for of in description["inputs"]]
    assert len(set(names)) == len(names)
    assert names[0] == "rgb" and {"step", "balancing/task_weights"} <= set(names)
    assert any(name.startswith("teacher/depth_zbuffer/") for name in names)
    values = np.load(exported / "cycle_alternating_2.npz")
    for of in description["inputs"][1:]:
        assert list(values[of["name"]].shape) == of["shape"]
        assert of["min"] <= of["mean"] <= of["max"]


def test_ten_steps_by_jax_are_those_of_tensorflow(smooth_model, tmp_path):
    pytest.importorskip("jax", reason="needs jax: pip install jax")
    model, settings = smooth_model
    program = export.export_step(model, settings, "cycle", 2, str(tmp_path), True)
    images, saved = write_images(tmp_path), tmp_path / "end.npz"
    arguments = ("run", program, f"--images={tmp_path / 'images.npy'}")
    rows = [call(*arguments, "--steps=10", f"--save={saved}").stdout for _ in range(2)]
    assert rows[0] == rows[1]

    batch = {"rgb": images.astype(np.float32) / 127.5 - 1.0}
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    step = model.make_step("cycle")
    start = {n: v.numpy() for n, v in export.variables_by_name(model).items()}
    for line in rows[0].splitlines():
        row = json.loads(line)
        for metric in model.metrics:
            metric.reset_state()
        logs = {name: float(v) for name, v in step(batches).items()}
        assert logs.keys() == row.keys() - {"step"}
        norms = sum(v for name, v in logs.items() if name.startswith("gradient_norm/"))
        for name, value in logs.items():
            # Another convolution rounds otherwise. BatchNorm over two images amplifies
            # that step by step, most in gradients after an update of the decoders.
            of_gradients = name.startswith("gradient_norm/") or name == "loss/gradnorm"
            near = dict(abs=0.1 * norms) if of_gradients else dict(rel=0.01)
            assert row[name] == pytest.approx(value, **near), (row["step"], name)
    end = dict(np.load(saved))
    for name, variable in export.variables_by_name(model).items():
        if name in ("step", "balancing/task_weights"):
            np.testing.assert_allclose(end[name], variable.numpy(), rtol=1e-3)
    moved = [n for n, v in start.items() if n in end and not np.array_equal(v, end[n])]
    assert {n.split("/")[0] for n in moved} >= {"encoder", "decoder", "optimizer"}
    assert not any(name.startswith("teacher/") for name in moved)


def test_what_jax_trained_goes_on_in_tensorflow(exported, tiny, fresh_gin, tmp_path):
    params = params_of(tiny)
    values = dict(np.load(exported / "cycle_alternating_2.npz"))
    values["step"] = np.int64(7)
    name = next(n for n in values if n.startswith("encoder/") and "kernel" in n)
    values[name] = np.full_like(values[name], 0.25)
    np.savez(tmp_path / "end.npz", **values)
    model_dir = tmp_path / "run"
    call(
        *("checkpoint", f"--values={tmp_path / 'end.npz'}", f"--model_dir={model_dir}"),
        f"--gin_file={tiny_runs.ROOT / 'gin/rooms/soka.gin'}",
        *(f"--gin_param={param}" for param in params),
    )
    assert checkpoints.restored_step(str(model_dir)) == 7
    run = tiny.build(tmp_path / "other", *params)
    student = checkpoints.restore_student(str(model_dir), run.settings)
    kernels = [v for v in student.encoder.variables if "kernel" in v.name]
    assert any(np.all(v.numpy() == 0.25) for v in kernels)


def test_survey_ends_with_a_row_for_every_program_one_broken(exported, tmp_path):
    pytest.importorskip("jax", reason="needs jax: pip install jax")
    for suffix in (".json", ".hlo.gz"):
        shutil.copy(exported / f"cycle_alternating_2{suffix}", tmp_path)
    (tmp_path / "joint_2.json").write_text("{}")
    *_, good, bad = call("survey", tmp_path, "--repeats=1").stdout.splitlines()
    assert "cycle_alternating_2 |" in good and good.endswith("| True |")
    assert "joint_2 | nan" in bad and "inputs" in bad


def test_unknown_step_is_refused(tmp_path):
    done = call("export", f"--out={tmp_path}", "--step=dance", "--batch=2", code=2)
    assert "--step must be one of joint" in done.stderr and "dance" in done.stderr
