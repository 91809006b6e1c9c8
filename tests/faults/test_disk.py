"""Disks without a free byte, and read-only ones.

What else refuses to be written, imitated: tests/runs/test_callbacks.py.
"""

import pytest

from soka_tf.errors import UserError
from soka_tf.runs.finish import complete
from tests.faults import disks
from tests.faults.faulty_runs import After, assert_same_run, build, train


@pytest.fixture(params=["mounted", "limited"])
def disk(request, monkeypatch, capsys):
    """Where nothing may be mounted, both are limits.

    With capsys what is printed is kept in memory; pytest's file might not grow, too.
    """
    if request.param == "limited":
        monkeypatch.setattr(disks, "MountedDisk", _not_allowed)
    return disks.disk


def _not_allowed(folder):
    raise PermissionError


@pytest.mark.slow
def test_full_disk_costs_what_it_refuses_and_only_the_last_checkpoint_is_an_error(
    disk, tiny, whole, tmp_path, caplog
):
    folder = tmp_path / "run"
    with disk(folder) as own:
        # Movements make the events of two steps longer than what a page has left.
        params = ("run.panel_every_steps = 2", "run.movement_every_steps = 1")
        run = build(tiny, folder, *params)
        message = (
            f"checkpoints: the last checkpoint, of step 6, was not saved .*{own.full}"
            ".*Free space .* same command: it goes on from the checkpoint of step 2"
        )
        with pytest.raises(UserError, match=message):
            full = After({3: own.fill, 5: own.free, 6: own.fill})
            complete(run, str(folder), [full])
        own.free()
        for warning in (
            "the checkpoint of step 4 was not saved",
            "the next try is at step 6; the checkpoint of step 2 is still there",
            "panels: the panel of step 4 was not drawn",
            "TensorBoard's events were not written at step",
        ):
            assert warning in caplog.text
        train(tiny, folder)
        assert_same_run(folder, whole)


@pytest.mark.slow
def test_read_only_disk_costs_a_checkpoint(disk, tiny, whole, tmp_path, caplog):
    # Not the run's whole folder: a disk with a file that is open for writing stays so.
    folder = tmp_path / "run" / "checkpoints"
    with disk(folder) as own:
        train(tiny, tmp_path / "run", after={3: own.lock, 5: own.unlock})
        assert "the checkpoint of step 4 was not saved" in caplog.text
        assert own.read_only in caplog.text
        assert "the checkpoint of step 2 is still there" in caplog.text
        assert_same_run(tmp_path / "run", whole)
