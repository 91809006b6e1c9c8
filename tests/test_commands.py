"""The commands as users start them: one chain of tiny runs, and mistakes."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests import tiny_runs
from tests.lock_holder import held
from tests.tools import run_command

RATIOS = {"rmse", "rel", "delta1", "delta2", "delta3"}
TASKS = ("depth_zbuffer", "normal")
STEPS = 2


def command(name, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(tiny_runs.ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own
    return subprocess.run(
        [sys.executable, "-m", f"soka_tf.{name}", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def params(tiny, folder):
    bindings = tiny.params(
        f"tasks = {list(TASKS)}",
        f"max_steps = {STEPS}",
        "schedule.joint_steps = 0",
        "schedule.settle_share = 0.0",
        "run.export = False",
        "images_dir = None",
        f"rooms.dir = {str(folder / 'rooms')!r}",
        "rooms.count = 2",
        "rooms.train_views = 2",
        "rooms.validation_count = 2",
        "rooms.validation_views = 1",
    )
    # A run without discriminators would warn of their width.
    own = [b for b in bindings if not b.startswith("Discriminator.")]
    return [f"--gin_param={binding}" for binding in own]


@pytest.fixture(scope="session")
def chain(tiny, tmp_path_factory):
    """What train, evaluate, export and predict said: name -> process, and the folder.

    One test holds all that is asked of it: every parallel worker that gets such a test
    has to run the chain.
    """
    folder = tmp_path_factory.mktemp("commands")
    done = {}
    done["train"] = command(
        "train",
        "--gin_file=gin/rooms/soka.gin",
        *params(tiny, folder),
        "--model_dir=run",
        cwd=folder,
    )
    assert done["train"].returncode == 0, done["train"].stderr
    with held(folder / "run" / "lock"):  # what reads a run may do so while it trains
        done["evaluate"] = command(
            "evaluate", "--model_dir=run", "--out_dir=measured", cwd=folder
        )
        done["export"] = command(
            "export", "--model_dir=run", "--export_dir=export", cwd=folder
        )
    done["predict"] = command(
        "predict",
        "--saved_model=export",
        f"--images={tiny.images}",
        "--out_dir=predictions",
        cwd=folder,
    )
    # Without its gin file: the folder knows.
    done["refused"] = command(
        "train", "--model_dir=run", "--gin_param=batch_size = 3", cwd=folder
    )
    return done, folder


def test_train_evaluate_export_and_predict_work_one_after_another(chain, tiny):
    done, folder = chain
    refused = done.pop("refused")
    assert refused.returncode == 2 and refused.stdout == ""
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("soka_tf.train: error: run holds a run with another config")
    assert "batch_size: 2 -> 3" in last and "Traceback" not in refused.stderr

    for name, process in done.items():
        assert process.returncode == 0, f"{name}: {process.stderr}"
        noise = r"Traceback|cuda|CUDA|TensorRT|oneDNN|WARNING|[Ww]arning|^\d{4}-\d\d"
        told = process.stderr
        if name == "train":  # four images are few, and it says so
            told, times = re.subn("(?m)^warning: Images to train on: 4.+", "", told)
            assert times == 1, process.stderr
        assert not re.search(noise, told, re.M), f"{name}: {process.stderr}"
    check_folder(folder / "run")
    check_train_output(done["train"].stdout)

    measured, again_measured = (
        folder / where / "evaluation.json" for where in ("run", "measured")
    )
    assert measured.stat().st_mtime_ns < again_measured.stat().st_mtime_ns
    by_train = json.loads(measured.read_text())
    check_evaluation(by_train)
    again = json.loads(again_measured.read_text())
    assert set(again) == set(by_train) and again["step"] == STEPS
    for task, rows in by_train["tasks"].items():
        for who, values in rows.items():
            assert again["tasks"][task][who] == pytest.approx(values, rel=1e-5), who
    exporting = "python -m soka_tf.export --model_dir=run --export_dir=run_export"
    table, following = done["train"].stdout.strip().split("\n\nNext:\n  ")
    assert following.startswith(f"{exporting}\n\nEverything is in run")
    page = os.path.join("measured", "report.html")
    last = f"The page of the run: {page}"
    found = done["evaluate"].stdout.strip()
    assert found == f"{table}\n\nNext:\n  {exporting}\n\n{last}"
    assert "python -m soka_tf.export --model_dir=run " in (folder / page).read_text()
    predicting = shlex.split(done["export"].stdout.splitlines()[-1])
    assert predicting[:4] == ["python", "-m", "soka_tf.predict", "--saved_model=export"]

    for signature in ("serving_default", "representation", *TASKS):
        assert signature in done["export"].stdout
    assert f"step {STEPS} is in export" in done["export"].stdout
    predicted = {path.name for path in (folder / "predictions").iterdir()}
    names = [path.stem for path in tiny.images.iterdir()]
    assert predicted == {f"{name}.png" for name in names} | {
        f"{name}_domain_{task}.png" for name in names for task in TASKS
    }


def check_folder(model_dir):
    names = ("operative_config.gin", "metrics.csv", "curves.png", "report.html")
    for name in names:
        assert (model_dir / name).stat().st_size, name
    assert list((model_dir / "checkpoints").glob(f"ckpt-{STEPS}.index"))
    assert list((model_dir / "tensorboard").glob("events.*"))
    panels = [path.name for path in (model_dir / "panels").iterdir()]
    assert panels == [f"step_{STEPS:07d}.png"]
    with open(model_dir / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["stage"]) for row in rows] == [
        ("1", "cycle"),
        ("2", "cycle"),
    ]


def check_train_output(text):
    lines = text.rstrip().splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("Everything is in")]
    table, paths = "\n".join(lines[:at]), "\n".join(lines[at:])
    for word in ("teacher", "student", "rmse"):
        assert word in table
    for path in ("run/panels", "run/curves.png", "tensorboard --logdir=run"):
        assert os.path.join(*path.split("/")) in paths
    assert "SavedModel" not in paths  # run.export is False


def check_evaluation(content):
    # Beyond the contract: how many images had labels, and the baseline's row.
    wanted = {"step", "split", "images", "parameters", "tasks"}
    assert set(content) - {"labelled_images"} == wanted
    assert (content["step"], content["images"]) == (STEPS, 2)
    assert content["split"] == "validation"
    counted = {"teachers", "smallest_teacher", "student"}
    assert set(content["parameters"]) == counted
    assert all(isinstance(n, int) for n in content["parameters"].values())
    assert 0 < content["parameters"]["student"] < content["parameters"]["teachers"]
    assert list(content["tasks"]) == list(TASKS)
    for task, rows in content["tasks"].items():
        assert set(rows) - {"baseline_median"} == {
            "teacher",
            "student",
            "student_vs_teacher",
        }
        wanted = RATIOS | {"mean_angle_deg" if task == "normal" else "log_rmse"}
        for who, values in rows.items():
            skill = {"skill"} if who in ("teacher", "student") else set()
            assert set(values) == wanted | skill, (task, who)
            assert all(isinstance(value, float) for value in values.values())


# Mistakes


def assert_one_line(code, out, err, *parts):
    assert code == 2, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch, fresh_gin):
    """Returns a function that runs a command here and expects one line of error."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments, parts):
        done = run_command(name, *arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert_one_line(*done, *parts)

    return run


def test_train_help_shows_only_our_flags(tmp_path):
    done = command("train", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m soka_tf.train --gin_file=gin/rooms/demo.gin" in done.stdout
    flags = re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.M)
    assert sorted(flags) == [
        *("debug", "dry_run", "gin_file", "gin_param", "model_dir"),
        *("teacher", "teachers_dir", "trust_saved_model", "version"),
    ]


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "predict", "serve"])
def test_command_is_imported_without_tensorflow(name):
    """So `--help` and the workers that draw rooms start at once."""
    program = (
        f"import sys, soka_tf.{name}; assert 'tensorflow' not in sys.modules, 'heavy'"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tiny_runs.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["train", "evaluate", "export"])
def test_command_without_model_dir_says_so(name, tmp_path):
    done = command(name, cwd=tmp_path)
    said = (f"soka_tf.{name}: error: --", "is required")
    assert_one_line(done.returncode, done.stdout, done.stderr, *said)


def test_train_misspelt_flag_names_the_nearest(refused):
    said = "unknown flag --gin_fil; did you mean --gin_file"
    refused("train", "--gin_fil=x", "--model_dir=y", parts=[said])


def test_train_misspelt_binding_names_the_nearest(refused, tmp_path):
    said = ("--gin_param 'max_step = 100'", "did you mean max_steps")
    refused("train", "--model_dir=run", "--gin_param=max_step = 100", parts=said)
    assert not list(tmp_path.iterdir())


def test_train_without_a_gin_file_names_one_to_begin_with(refused, tmp_path):
    said = ("paper's full size (256 pixels, 600,000 steps)", "gin/rooms/soka.gin")
    refused("train", "--model_dir=run", "--gin_param=seed = 1", parts=said)
    assert not list(tmp_path.iterdir())


def test_evaluate_into_a_file_is_refused_before_anything_is_read(refused, tmp_path):
    (tmp_path / "file").write_text("")
    said = "--out_dir must be a folder. Received: file"
    refused("evaluate", "--model_dir=run", "--out_dir=file", parts=[said])


@pytest.mark.parametrize("name", ["evaluate", "export"])
def test_command_on_a_folder_without_a_run_says_so(name, refused, tmp_path):
    flags = ["--model_dir=nowhere"]
    if name == "export":
        flags.append("--export_dir=export")
    refused(name, *flags, parts=["nowhere: not the folder of a run"])
    assert not list(tmp_path.iterdir())


STORED = {
    "train": ("--gin_file=gin/rooms/soka.gin", "--dry_run"),
    "evaluate": (),
    "export": ("--export_dir=export",),
}


@pytest.fixture
def stored(tmp_path, monkeypatch, fresh_gin):
    """Writes a run's stored configuration, beside a module that leaves a file."""
    name = f"of_somebody_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(
        "import gin, pathlib\n"
        "pathlib.Path('ran').write_text('')\n"
        f"gin.register('Own{name}')(dict)\n"
    )
    (tmp_path / "own.gin").write_text(f"import {name}\n")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(line):
        (tmp_path / "run" / "operative_config.gin").write_text(
            f"seed = 0\n{line.format(name=name)}\n"
            "run.tasks = ['normal']\nrun.image_size = 16\n"
            "run.batch_size = 1\nrun.max_steps = 1\n"
        )

    return write


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize(
    "line", ["import {name}", "include 'own.gin'", "x = @Own{name}"]
)
def test_stored_configuration_is_never_run(
    stored, tmp_path, capsys, monkeypatch, name, line
):
    stored(line)
    flags = ["--model_dir=run", *STORED[name]]
    done = run_command(name, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1
    assert "operative_config.gin, line 2: " in done.err and "--gin_file" in done.err
    assert sorted(os.listdir(tmp_path / "run")) == ["operative_config.gin"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", STORED)
def test_what_the_users_gin_file_imports_may_stand_in_the_stored_configuration(
    stored, tmp_path, capsys, monkeypatch, name
):
    stored("build_amalgamation.variant = @Own{name}")
    flags = ["--model_dir=run", "--gin_file=own.gin", *STORED[name]]
    done = run_command(name, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert (tmp_path / "ran").exists()
    assert "operative_config.gin" not in done.err and "Own" not in done.err
