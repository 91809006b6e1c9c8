"""One process trains in a run's folder; a kill leaves nothing that hinders the next."""

import json
import os
import subprocess
import sys

import pytest

from soka_tf.errors import UserError
from soka_tf.runs.folder import training_in
from tests.lock_holder import held
from tests.tiny_runs import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.csv").write_text("step\n1\n")
    return folder


def state(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def test_folder_in_which_another_process_trains_is_refused_and_not_touched(run):
    with held(run / "lock"):
        before = state(run)
        message = "Another process trains in .*run. Wait until .* another --model_dir"
        with pytest.raises(UserError, match=message):
            with training_in(str(run)):
                pass
        assert state(run) == before
    with training_in(str(run)):  # it was killed
        pass


def test_two_commands_in_one_folder_one_is_refused_in_a_sentence(run):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own
    with held(run / "lock"):
        before = state(run)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "soka_tf.train"),
                *("--gin_file=gin/rooms/demo.gin", f"--model_dir={run}"),
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert state(run) == before
    assert done.returncode == 2 and not done.stdout
    (said,) = done.stderr.splitlines()
    assert said.startswith(
        f"soka_tf.train: error: Another process trains in {run}. Wait until "
    )


def test_what_kills_left_of_pictures_and_tables_is_removed_at_the_start(run):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (run / "panels").mkdir()
    left = [f"curves.png.{process.pid}.tmp", f"panels/step_1.png.{process.pid}.tmp"]
    for name in left:
        (run / name).write_bytes(b"half")
    with training_in(str(run)):
        assert not any((run / name).exists() for name in left)


def test_folder_is_held_until_the_outermost_has_ended(run):
    def enter():
        with training_in(str(run)):
            pass

    with training_in(str(run)):
        with training_in(os.path.join(str(run), ".")):
            pass
        other = subprocess.run(
            [
                *(sys.executable, "-c"),
                "import sys; from soka_tf.atomic import locked\n"
                "with locked(sys.argv[1], 'x', 'y'): pass",
                str(run / "lock"),
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "UserError: Another process x. y" in other.stderr
    enter()


def test_of_several_workers_the_chief_alone_holds_the_folder(run, monkeypatch):
    cluster = {"worker": ["a:1", "b:1"]}
    with held(run / "lock"):
        for index in (0, 1):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": cluster, "task": task})
            monkeypatch.setenv("TF_CONFIG", config)
            if index == 1:
                with training_in(str(run)):
                    pass
            else:
                with pytest.raises(UserError, match="Another process"):
                    with training_in(str(run)):
                        pass


def test_run_refused_before_it_began_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    (tmp_path / "own").mkdir()
    for name in ("new", "own"):
        with pytest.raises(UserError, match="a mistake"):
            with training_in(str(tmp_path / name)):
                raise UserError("a mistake")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
