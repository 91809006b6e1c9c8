"""Poor surroundings: a run does without what it can, or says in one line what lacks."""

import os
import resource
import subprocess
import sys

import pytest

from soka_tf import cli
from soka_tf.runs.folder import CONFIG_FILE
from soka_tf.runs.training_loop import train as train_run
from tests import tiny_runs
from tests.faults.faulty_runs import assert_same_run, build, train_in_a_child

# No home, nowhere for temporary files, a terminal that knows ASCII only.
POOR = {
    "HOME": None,
    "TMPDIR": "/nowhere",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
}
GIB = 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    "limits, environment",
    [
        ((), POOR),
        (((resource.RLIMIT_NOFILE, 32), (resource.RLIMIT_AS, 6 * GIB)), {}),
        ((), {"HOME": "/proc"}),
    ],
    ids=["nothing at hand", "few files and little memory", "a home that is none"],
)
def test_run_in_poor_surroundings_ends_at_the_same_bits(
    limits, environment, tiny, whole, tmp_path
):
    done = train_in_a_child(tiny, tmp_path / "run", "none", limits, **environment)
    assert done.returncode == 0, done.stderr
    assert "Everything is in" in done.stdout
    assert_same_run(tmp_path / "run", whole)


def assert_one_line(done, text):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert text in done.stderr.splitlines()[-1]


def test_memory_too_little_for_tensorflow_is_one_line(tmp_path):
    # Not by way of child.py, which needs TensorFlow itself.
    done = subprocess.run(
        [sys.executable, "-m", "soka_tf.train", f"--model_dir={tmp_path / 'run'}"],
        cwd=tiny_runs.ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (GIB // 2,) * 2),
        capture_output=True,
        text=True,
    )
    assert_one_line(done, "TensorFlow cannot be imported")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_files_that_may_not_grow_are_one_line_at_the_end(tiny, tmp_path):
    limits = [(resource.RLIMIT_FSIZE, 20_000)]
    done = train_in_a_child(tiny, tmp_path / "run", "none", limits)
    assert_one_line(done, "the last checkpoint, of step 6, was not saved")
    assert "File too large" in done.stderr
    assert not list(tmp_path.rglob("*_temp"))


def _at(tmp_path, name):
    """A model_dir that cannot be one."""
    if name == "too long":
        return tmp_path / ("x" * 300)
    if name == "below a file":
        (tmp_path / "file").write_text("a thesis")
        return tmp_path / "file" / "run"
    if name == "of the system":
        return type(tmp_path)("/proc/run")
    (tmp_path / "link").symlink_to("link" if name == "a loop" else "nowhere/run")
    return tmp_path / "link"


@pytest.mark.parametrize(
    "name, text",
    [
        ("too long", "operative_config.gin: File name too long"),
        ("below a file", "Not a directory"),
        ("of the system", "/proc/run: No such file or directory"),
        ("a loop", "link, which is a link to no folder"),
        ("dangling", "link, which is a link to no folder"),
    ],
)
def test_folder_that_cannot_be_one_is_one_line_before_training(
    name, text, tiny, tmp_path, capsys
):
    model_dir = _at(tmp_path, name)
    before = sorted(os.listdir(tmp_path))

    def main():
        train_run(build(tiny, model_dir), str(model_dir))

    with pytest.raises(SystemExit) as ended:
        cli.run(main, cli.flags.FlagValues(), ["train"])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert sorted(os.listdir(tmp_path)) == before


def test_files_of_the_future_are_files(tiny, whole, cut, tmp_path):
    """A clock that was set back: what is there is newer than now."""
    for path in cut.rglob("*"):
        os.utime(path, (4e9, 4e9))
    train_run(build(tiny, cut), str(cut))
    assert_same_run(cut, whole)
    assert (cut / CONFIG_FILE).stat().st_mtime == 4e9
