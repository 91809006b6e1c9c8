"""What is said of a run whose training has not ended."""

import pytest

from soka_tf.errors import UserError, counted
from soka_tf.runs.unfinished import find_export, unfinished


@pytest.fixture
def run_at(tmp_path):
    """Makes the folder of a run of 1200 steps that has come to a step."""

    def make(step, bound="max_steps = 1200\nrun.max_steps = %max_steps\n"):
        folder = tmp_path / "my run"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "operative_config.gin").write_text(bound)
        for part in ("index", "data-00000-of-00001") if step else ():
            (folder / "checkpoints" / f"ckpt-{step}.{part}").write_bytes(b"")
        return str(folder)

    return make


@pytest.mark.parametrize("step, told", [(0, "0"), (69, "69"), (1200, ""), (1201, "")])
def test_step_is_told_of_runs_that_have_not_come_to_their_last_one(run_at, step, told):
    said = f"the training has not ended (step {told} of 1,200)" if told else ""
    assert unfinished(run_at(step)) == said


def test_nothing_is_told_of_what_is_no_run(run_at, tmp_path):
    assert unfinished(str(tmp_path)) == ""
    assert unfinished(run_at(3, bound="seed = 1\n")) == ""


def test_a_run_without_an_export_says_how_far_it_is_and_what_to_do(run_at):
    folder = run_at(69)
    with pytest.raises(UserError) as refused:
        find_export(folder)
    assert "has no SavedModel yet: the training has not ended (step 69 of" in str(
        refused.value
    )
    command = f"soka_tf.export '--model_dir={folder}' '--export_dir={folder}_export'"
    assert str(refused.value).endswith(command)


def test_a_finished_run_without_an_export_is_refused_as_any_folder(run_at):
    with pytest.raises(UserError, match="nor the folder of a run with one"):
        find_export(run_at(1200))


@pytest.mark.parametrize(
    "count, words", [(0, "0 images"), (1, "1 image"), (1200, "1,200 images")]
)
def test_counted_things_are_singular_where_they_are_one(count, words):
    assert counted(count, "image") == words
