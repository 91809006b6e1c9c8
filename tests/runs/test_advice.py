"""What a run and its dry run warn of: steps that never come, and few images."""

import functools
import re

import gin
import pytest

from soka_tf.data.sources import folder
from soka_tf.runs import advice
from soka_tf.runs.auxiliary import select_auxiliary
from soka_tf.runs.config import bound_values, parse_gin
from soka_tf.runs.dry_run import describe
from tests import tiny_runs

pytestmark = pytest.mark.usefixtures("fresh_gin")

SOKA = "gin/rooms/soka.gin"


def of_steps(*params, files=(SOKA,)):
    parse_gin(files, params)
    return advice.of_steps(bound_values())


@pytest.mark.parametrize(
    "file",
    sorted(p.relative_to(tiny_runs.ROOT) for p in tiny_runs.ROOT.glob("gin/*/*.gin")),
)
def test_shipped_configurations_bind_no_step_that_never_comes(file):
    if file.name == "teachers.gin":
        pytest.skip("is no student's")
    base = () if file.parts[1] in ("rooms", "paper") else (SOKA,)
    assert of_steps(files=(*base, str(file))) == []


@pytest.mark.parametrize(
    "params, words",
    [
        (
            ["max_steps = 20"],
            "schedule.joint_steps = 20 leaves no step for competition",
        ),
        (
            ["max_steps = 10", "schedule.joint_steps = 30"],
            "schedule.joint_steps = 30 leaves no step .* max_steps = 10",
        ),
        (
            ["build_adversary.enabled = True", "max_steps = 750"],
            "enabled = True has no effect: Adversary.start_step = 750, and max_steps = "
            "750. Bind an earlier Adversary.start_step",
        ),
        (
            ["build_adversary.enabled = True", "schedule.joint_steps = %max_steps"],
            "enabled = True has no effect: schedule.joint_steps = 1500",
        ),
        (
            ["max_steps = 100", "schedule.settle_share = 0.001"],
            "settle_share = 0.001 is less than a step of max_steps = 100",
        ),
        (
            ["max_steps = 100", "schedule.tail_share = 0.001"],
            "tail_share = 0.001 is less than a step of max_steps = 100: the decoders",
        ),
        (
            ["max_steps = 100", "schedule.tail_share = 0.8"],
            "tail_share = 0.8 leaves no step .* begins at step 20, .* has 20. Bind a",
        ),
        (
            ["schedule.initial_losses_step = 20"],
            "initial_losses_step = 20 is no step of the 20 joint ones: L_i.0. is that",
        ),
        (
            [
                "schedule.joint_steps = %max_steps",
                "schedule.joint_weighting = True",
                "schedule.initial_losses_step = %max_steps",
            ],
            "initial_losses_step = 1500 is no step of max_steps = 1500.*never learnt",
        ),
    ],
)
def test_step_that_never_comes_is_one_sentence_naming_the_binding(params, words):
    (sentence,) = of_steps(*params)
    assert re.search(words, sentence), sentence


@pytest.mark.parametrize(
    "params",
    [
        ["max_steps = 21", "schedule.initial_losses_step = 19"],
        ["build_adversary.enabled = True", "max_steps = 751"],
        ["schedule.joint_steps = 0"],
        ["schedule.tail_share = 1.0"],
        ["max_steps = 100", "schedule.tail_share = 0.79"],
        ["schedule.initial_losses_step = 40", "GradNorm.adaptive = False"],
        ["schedule.initial_losses_step = 40", "build_balancing.rule = @Fixed"],
        ["schedule.joint_steps = %max_steps", "schedule.initial_losses_step = 9000"],
    ],
)
def test_steps_that_come_are_not_warned_of(params):
    assert of_steps(*params) == []


def test_images_fewer_than_a_batch_and_few_are_told():
    (few,) = advice.of_images(3, 16)
    assert few.startswith("Images to train on: 3, fewer than a batch: batch_size = 16")
    (some,) = advice.of_images(advice.FEW_IMAGES - 1, 16)
    assert "Images to train on: 99. " in some and "batch" not in some
    assert advice.of_images(advice.FEW_IMAGES, 16) == []
    assert len(advice.of_images(advice.FEW_IMAGES, advice.FEW_IMAGES + 1)) == 1


def test_run_and_dry_run_warn_of_the_same(tiny, tmp_path, caplog):
    params = ["auxiliary = 'none'", "max_steps = 20", "batch_size = 32"]
    tiny.build(tmp_path / "run", *params)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    steps, images = warned
    assert steps.startswith("schedule.joint_steps = 20") and ": 4, fewer" in images
    gin.clear_config()
    parse_gin([SOKA], tiny.params(*params))
    text = describe("no run")
    assert text.endswith(f"Warnings\n--------\n{steps}\n{images}")
    gin.clear_config()
    parse_gin([SOKA], tiny.params(*params, "auxiliary = 'auto'"))
    assert "auxiliary teacher is chosen on 4 images" in describe("no run")


def test_choice_of_an_auxiliary_on_few_images_is_warned_of(
    tiny, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(
        "soka_tf.runs.auxiliary.compare_teachers",
        lambda names, *_, **__: [[float(a == b) for a in names] for b in names],
    )
    parse_gin([SOKA], tiny.params())
    for count in (6, advice.FEW_COMPARED):
        caplog.clear()
        samples = (folder.find(str(tiny.images)) * 5)[:count]
        select_auxiliary(
            *(["normal", "edge_texture"], functools.partial(list, samples)),
            *(16, False, None, "auto"),
            teachers_dir=str(tiny.teachers),
        )
        warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(warned) == (count < advice.FEW_COMPARED)
