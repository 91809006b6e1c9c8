"""The command comes again with other bindings."""

import pytest

from soka_tf.errors import UserError, plain_message
from soka_tf.runs.folder import CONFIG_FILE
from tests.faults.faulty_runs import assert_same_run, train
from tests.recorded_runs import results


def test_other_bindings_are_refused_and_change_nothing(tiny, whole, cut):
    with pytest.raises(UserError) as refused:
        train(tiny, cut, "seed = 1")
    assert plain_message(refused.value) == (
        f"{cut} holds a run with another configuration: seed: 0 -> 1. "
        "Bind the stored values or choose another --model_dir."
    )
    train(tiny, cut)
    assert_same_run(cut, whole)


@pytest.mark.slow
def test_lower_learning_rate_needs_the_stored_configuration_and_the_command(
    tiny, whole, cut
):
    """As after NaN; gin/rooms/soka.gin binds it, too."""
    lower = "build_optimizers.learning_rate = 0.0005"
    with pytest.raises(UserError, match="learning_rate: 0.005 -> 0.0005"):
        train(tiny, cut, lower)
    stored = (cut / CONFIG_FILE).read_text()
    changed = stored.replace("build_optimizers.learning_rate = 0.005", lower)
    (cut / CONFIG_FILE).write_text(changed)
    with pytest.raises(UserError, match="learning_rate: 0.0005 -> 0.005"):
        train(tiny, cut)
    train(tiny, cut, lower)
    before, after = (
        results(folder)["log/learning_rate"].astype(float) for folder in (whole, cut)
    )
    assert after[:4] == pytest.approx(before[:4])
    assert after[4:] == pytest.approx(before[4:] / 10, rel=1e-4)
