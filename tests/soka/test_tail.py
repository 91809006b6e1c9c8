"""The last steps of a run, in which the decoders alone go on."""

import pytest

from soka_tf.soka.schedule import Schedule
from tests.soka import reference, small
from tests.soka.test_cycle import assert_every_step_is_equal

ALL = dict(max_steps=10, tail_share=1.0)  # of the steps


@pytest.mark.parametrize("gan", [None, 0])
def test_tail_is_the_competition_and_nothing_else(gan):
    model = small.build(gan=gan, weight_decay=1e-2, **ALL)

    def plain(model, batch):
        reference.tail(model, batch, adversarial=gan is not None)

    start = small.trained_state(model)
    assert_every_step_is_equal(model, plain, steps=2, moved=("decoder/normal/",))
    far = small.differences(start, small.trained_state(model))
    moved = {path.split("/")[0] for path, d in far.items() if d}
    players = {"decoder", "optimizer", "step"} | (
        {"discriminator"} if gan == 0 else set()
    )
    assert moved == players


def test_stages_of_a_run_end_with_the_tail():
    model = small.build(gan=4, joint_steps=2, max_steps=10, tail_share=0.3)
    stages = [model.stage_at(step) for step in range(10)]
    assert (
        stages == ["joint"] * 2 + ["cycle"] * 2 + ["cycle_gan"] * 3 + ["tail_gan"] * 3
    )
    alone = small.build(joint_steps=10, max_steps=10, tail_share=0.2, variant=None)
    assert [alone.stage_at(step) for step in (7, 8)] == ["joint", "tail"]
    assert model.phase_of("loss/soft/normal", 9) == "competition"


def test_tail_asks_the_teachers_for_no_features_and_logs_its_losses():
    model = small.build(**ALL)
    assert model.teacher_layers("tail") == {} != model.teacher_layers("cycle")
    images = small.batches(1)
    taught = reference.run_teachers(model, images[0])
    predictions, _ = reference.run_student(model, images[0])
    losses = reference.soft_losses(model, taught, predictions)
    logs = small.fit(model, images)
    for task, loss in zip(model.tasks, losses):
        assert logs[f"loss/soft/{task}"][0] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_impossible_share_is_refused_by_name(share):
    with pytest.raises(ValueError, match="tail_share.*Received"):
        Schedule(tail_share=share, max_steps=100)
    with pytest.raises(ValueError, match="tail_share is one of max_steps"):
        Schedule(tail_share=0.5)
