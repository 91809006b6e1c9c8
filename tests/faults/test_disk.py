"""Disks without a free byte, and read-only ones: real ones, where they may be mounted.

What else refuses to be written, as any user: tests/runs/test_callbacks.py.
"""

import contextlib
import subprocess

import pytest

from soka_tf.errors import UserError
from soka_tf.runs.finish import complete
from tests.faults.faulty_runs import After, assert_same_run, build, train


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextlib.contextmanager
def disk(folder):
    """Mounts a disk of 8 MB on a new folder."""
    folder.mkdir(parents=True)
    try:
        mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs mount: run it as root, or with `unshare -rm`")
    try:
        yield
    finally:
        # Lazily: TensorBoard's writer closes its file when it is collected.
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_full_disk_costs_what_it_refuses_and_only_the_last_checkpoint_is_an_error(
    tiny, whole, tmp_path, caplog
):
    folder = tmp_path / "run"
    ballast = folder / "ballast"

    def fill():
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    with disk(folder):
        # Movements make the events of two steps longer than what a page has left.
        params = ("run.panel_every_steps = 2", "run.movement_every_steps = 1")
        run = build(tiny, folder, *params)
        message = (
            "checkpoints: the last checkpoint, of step 6, was not saved .*No space left"
            ".*Free space .* same command: it goes on from the checkpoint of step 2"
        )
        with pytest.raises(UserError, match=message):
            full = After({3: fill, 5: ballast.unlink, 6: fill})
            complete(run, str(folder), [full])
        for warning in (
            "the checkpoint of step 4 was not saved",
            "the next try is at step 6; the checkpoint of step 2 is still there",
            "panels: the panel of step 4 was not drawn",
            "TensorBoard's events were not written at step",
        ):
            assert warning in caplog.text
        ballast.unlink()
        train(tiny, folder)
        assert_same_run(folder, whole)


@pytest.mark.slow
def test_read_only_disk_costs_a_checkpoint(tiny, whole, tmp_path, caplog):
    # Not the run's whole folder: a disk with a file that is open for writing stays so.
    folder = tmp_path / "run" / "checkpoints"
    with disk(folder):
        remount = {
            step: lambda mode=mode: mount("-o", f"remount,{mode}", folder)
            for step, mode in ((3, "ro"), (5, "rw"))
        }
        train(tiny, tmp_path / "run", after=remount)
        assert "the checkpoint of step 4 was not saved" in caplog.text
        assert "Read-only file system" in caplog.text
        assert "the checkpoint of step 2 is still there" in caplog.text
        assert_same_run(tmp_path / "run", whole)
