"""One worker of two dies; the other ends, and both go on."""

import signal

import pytest

from tests.faults.faulty_runs import CHILD, assert_same_run
from tests.runs.test_workers import finish, start_workers


@pytest.mark.distributed
def test_worker_killed_ends_the_others_and_all_go_on_to_the_same_bits(tiny, tmp_path):
    def start(model_dir, fault="none"):
        programs = [(str(CHILD), each) for each in ("none", fault)]
        # Of the stages the joint start's graph is traced in the least time. That all
        # players go on from a checkpoint is shown by test_kill.py.
        params = ("schedule.joint_steps = 6", "run.validate_every_steps = 3")
        return start_workers(tiny, model_dir, *params, programs=programs)

    finish(*start(tmp_path / "whole"))
    chief, killed = start(tmp_path / "run", "send:SIGKILL:5")
    said, _ = (process.communicate(timeout=500)[0] for process in (chief, killed))
    assert killed.returncode == -signal.SIGKILL
    assert chief.returncode == 75, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("soka_tf.train: error: ")
    assert "another worker was lost" in last
    assert "Start the command on all workers again" in last
    for text in finish(*start(tmp_path / "run")):
        assert "Continuing from step 3 of" in text
    assert_same_run(tmp_path / "run", tmp_path / "whole")
