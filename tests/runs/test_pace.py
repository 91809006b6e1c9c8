"""The estimate of a run's time, by a clock of the test's."""

import re

import pytest

from soka_tf.runs.callbacks.pace import Pace, in_words


def sentences(last, stages, seconds, start=0, joint_steps=0):
    """What is said after each step, by the number of steps done."""
    now = [0.0]
    pace = Pace(last, joint_steps, lambda: now[0])
    said = {}
    for step in range(start + 1, last + 1):
        stage = stages(step - 1)
        now[0] += seconds(step, stage)
        sentence = pace.after(step, stage)
        if sentence:
            said[step] = sentence
    return said


def test_pace_of_one_stage_is_told_once_without_the_steps_that_trace():
    said = sentences(
        1000,
        lambda step: "joint",
        lambda step, _: 100.0 if step <= 2 else 0.5,
        joint_steps=1000,
    )
    ((step, sentence),) = said.items()
    assert step == 12
    assert sentence == (
        "About 8.2 minutes for the 988 steps that are left: 0.5 s a step (joint) on "
        "this machine."
    )


def test_pace_of_a_resumed_run_counts_what_is_left():
    said = sentences(1000, lambda _: "cycle", lambda *_: 1.0, start=700)
    assert list(said) == [712] and "for the 288 steps that are left" in said[712]


@pytest.mark.parametrize("slower, times", [(1.1, 1), (3.0, 2)])
def test_pace_of_another_stage_is_told_where_it_changes_the_end(slower, times):
    said = sentences(
        2000,
        lambda step: "cycle" if step < 50 else "cycle_gan",
        lambda _, stage: slower if stage == "cycle_gan" else 1.0,
    )
    assert len(said) == times and 12 in said
    if times == 2:
        assert list(said)[1] == 62
        assert re.search(r"About 97 minutes .* 3 s a step \(cycle_gan\)", said[62])


@pytest.mark.parametrize(
    "joint, told", [(50, [62]), (1000, [1012]), (1100, [12, 1112])]
)
def test_pace_of_the_joint_start_is_told_only_where_most_steps_are_of_it(joint, told):
    def stages(step):
        return "joint" if step < joint else "cycle"

    def seconds(_, stage):
        return 3.0 if stage == "cycle" else 1.0

    said = sentences(2000, stages, seconds, joint_steps=joint)
    assert list(said) == told
    assert all(f"({stages(step - 1)})" in said[step] for step in said)


def test_pace_of_short_runs_is_not_told():
    assert sentences(1000, lambda _: "cycle", lambda *_: 0.005) == {}
    assert sentences(11, lambda _: "cycle", lambda *_: 9.0) == {}


def test_pace_of_fast_steps_waits_for_two_seconds():
    assert list(sentences(10000, lambda _: "cycle", lambda *_: 0.01)) == [202]


@pytest.mark.parametrize(
    "seconds, words",
    [
        (42.4, "42 seconds"),
        (119, "119 seconds"),
        (180, "3.0 minutes"),
        (3000, "50 minutes"),
        (3 * 3600, "3.0 hours"),
        (30 * 86400, "30 days"),
    ],
)
def test_durations_are_told_in_the_unit_that_suits_them(seconds, words):
    assert in_words(seconds) == words
