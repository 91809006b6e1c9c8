"""A process dies at any moment; the same command goes on to the same bits."""

import signal

import pytest

from soka_tf.runs.checkpoint_folder import CheckpointFolder
from tests.faults.faulty_runs import assert_same_run, train, train_in_a_child

# One run, killed again and again: (fault, exit status, last checkpoint then).
CHAINS = [
    [
        ("kill_in_phase:collaboration:3", -signal.SIGKILL, 2),
        ("kill_while_saving:4:100000", -signal.SIGXFSZ, 2),
    ],
    [
        ("kill_in_phase:joint:1", -signal.SIGKILL, None),
        ("kill_while_saving:2:1000", -signal.SIGXFSZ, None),  # the best student
        ("kill_in_phase:weighting:3", -signal.SIGKILL, 2),
        ("send:SIGTERM:3", 143, 3),  # saved, although none was due
        ("kill_in_phase:competition:5", -signal.SIGKILL, 4),
        ("send:SIGINT:5", 130, 5),
    ],
]


def last_checkpoint(model_dir):
    path = CheckpointFolder(str(model_dir / "checkpoints")).last()
    return path and int(path.rsplit("-", 1)[1])


@pytest.mark.parametrize(
    "chain",
    [
        CHAINS[0],
        pytest.param(CHAINS[1], marks=pytest.mark.distributed),
    ],
)
def test_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(
    chain, tiny, whole, tmp_path, caplog
):
    run, step, left = tmp_path / "run", None, []
    for fault, status, saved in chain:
        done = train_in_a_child(tiny, run, fault)
        assert done.returncode == status, done.stderr
        goes_on = f"Continuing from step {step} of"
        assert goes_on in done.stderr if step else "Continuing" not in done.stderr
        for path in left:
            removed = f"Removed {path.name}, left by a save" in done.stderr
            assert removed or path.parent.name == "best"  # silently, there
        step = last_checkpoint(run)
        assert step == saved
        left = list(run.glob("*/*_temp"))
        assert len(left) == fault.startswith("kill_while_saving")
        for number, name in ((130, "SIGINT"), (143, "SIGTERM")):
            said = f"interrupted ({name}) after step {step}. The same command goes on"
            assert done.returncode != number or said in done.stderr
    with caplog.at_level("INFO", logger="absl"):
        train(tiny, run)
    assert f"Continuing from step {step} of" in caplog.text
    assert_same_run(run, whole)
