"""Bindings of the method that a run reads, logs, keeps and refuses."""

import csv

import gin
import pytest
import tensorflow as tf

from soka_tf.errors import UserError
from soka_tf.runs.training_loop import train
from soka_tf.soka.variants import AmalgamationLosses, Variant
from tests.runs.test_run import assert_same_state, interrupted, resumed

pytestmark = pytest.mark.usefixtures("fresh_gin")

MENDED = (
    *("max_steps = 4", "schedule.joint_steps = 1", "schedule.tail_share = 0.25"),
    *("schedule.settle_share = 0.0", "schedule.joint_loss = 'of_cycle'"),
    *("transfer.adapter = True", "transfer.layer_weights = 'equal'"),
    *("transfer.teacher_dropping = 0.4", "objective.transfer_as_task = True"),
    *("objective.final_soft_weight = 1.0", "objective.soft_weight_steps = 4"),
    *("run.conflict_every_steps = 2", "run.checkpoint_every_steps = 2"),
)


def rows_of(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_mended_run_logs_what_it_does_and_resumed_ends_bit_identical(tiny, tmp_path):
    whole = tiny.build(tmp_path / "whole", *MENDED)
    train(whole, str(tmp_path / "whole"))
    rows = rows_of(tmp_path / "whole")
    assert [row["stage"] for row in rows] == ["joint", "cycle", "cycle", "tail"]
    soft_weights = [row["soft_weight"] for row in rows]
    assert soft_weights == ["0.05", "0.2875", "0.525", ""]
    first, second = whole.model.tasks
    cosines = [f"cosine/{first}:{second}", f"cosine/{first}:transfer"]
    for row in rows:
        for name in (*cosines, f"cosine/{second}:transfer"):
            assert bool(row[name]) == (row["step"] == "2")
            assert abs(float(row[name] or 0)) <= 1.0
    shares = [float(v) for k, v in rows[1].items() if k.startswith("encoder_share/")]
    assert len(shares) == 3 and sum(shares) == pytest.approx(3.0, abs=1e-4)
    assert rows[1]["gradient_norm/transfer"] and not rows[3]["loss/transfer"]

    gin.clear_config()
    interrupted(tiny, tmp_path / "killed", MENDED, 3)
    again = resumed(tiny, tmp_path / "killed", MENDED)
    assert_same_state(again.model, whole.model)


@gin.register
class FourArguments(Variant):
    """A variant of before teachers could be left out."""

    def losses(self, amalgamate, teachers, student, weights):
        loss = tf.reduce_mean(tf.square(student - amalgamate(teachers)))
        return AmalgamationLosses(loss, loss)


@pytest.mark.parametrize(
    "params, message",
    [
        (
            ["transfer.layer_weights = [1.0]"],
            r"transfer.layer_weights must be one number for each of \['block3'",
        ),
        (
            ["transfer.reduction = 'total'"],
            "transfer.reduction must be one of mean, sum. Received: 'total'",
        ),
        (
            ["objective.final_soft_weight = 1.0"],
            "objective.final_soft_weight = 1.0 is reached after soft_weight_steps",
        ),
        (
            ["objective.transfer_as_task = True", "build_amalgamation.variant = None"],
            "objective: transfer_as_task = True .*Received: no amalgamation",
        ),
        (
            [
                "objective.transfer_as_task = True",
                "build_amalgamation.layers = ('block3',)",
            ],
            r"'gradnorm' compares pulls at the representation.*\['block3'\]",
        ),
        (
            [
                "transfer.teacher_dropping = 0.5",
                "build_amalgamation.variant = @FourArguments",
            ],
            "losses take `presence`. Received: FourArguments. Bind 0.0",
        ),
        (
            ["build_optimizers.momentum = 1.0"],
            r"build_optimizers.momentum must be a number in \[0, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_binding(params, message, tiny, tmp_path):
    with pytest.raises(UserError, match=message):
        tiny.build(tmp_path, *params)


def test_variant_of_four_arguments_needs_no_presence_where_all_teach(tiny, tmp_path):
    params = ["build_amalgamation.variant = @FourArguments", "max_steps = 1"]
    run = tiny.build(tmp_path, *params, "schedule.joint_steps = 0")
    train(run, str(tmp_path))
    assert float(rows_of(tmp_path)[0]["loss/transfer"]) > 0
