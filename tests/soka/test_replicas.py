"""One replica against two: the same weights, weighting and figures."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.soka import small

pytestmark = pytest.mark.distributed

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("replicas") / "results.json"
    script = ROOT / "tests" / "soka" / "compare_replicas.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


def test_two_replicas_end_where_one_does_after_more_than_twenty_cycles(results):
    far = results["synchronized"]["far"]
    names = ("encoder", "decoder/normal", "discriminator/normal", "amalgamation")
    for name in (*names, "task_weights", "initial_losses", "moving/encoder"):
        assert name in far
    assert {"log/gradient_norm/normal", "log/loss/discriminator/normal"} <= set(far)
    assert all(difference < 1e-5 for difference in far.values()), far


def test_two_replicas_of_the_shipped_networks_agree_over_a_few_cycles(results):
    far = results["few_cycles"]["far"]
    assert all(difference < 1e-5 for difference in far.values()), far


def test_replicas_hold_the_same_values_to_the_last_bit(results):
    apart = results["synchronized"]["apart"]
    assert {"task_weights", "initial_losses:0", "step:0", "encoder"} <= set(apart)
    assert not any(apart.values()), apart


@pytest.mark.parametrize("rule, own", [("UPGrad", ""), ("Uncertainty", "task_weights")])
def test_two_replicas_balance_by_what_all_of_them_see(results, rule, own):
    far, apart = results[rule]["far"], results[rule]["apart"]
    assert {f"log/encoder_share/{task}" for task in small.TASKS} <= set(far)
    assert not own or own in far
    assert all(difference < 1e-5 for difference in far.values()), far
    assert not any(apart.values()), apart


def test_two_replicas_leave_out_the_same_teachers_and_weigh_l_a_alike(results):
    far, apart = results["mended"]["far"], results["mended"]["apart"]
    assert {"adapter", "log/encoder_share/transfer", "task_weights"} <= set(far)
    assert all(difference < 1e-5 for difference in far.values()), far
    assert not any(apart.values()), apart


def test_replicas_without_synchronised_batch_norm_end_elsewhere(results):
    far = results["separate"]["far"]
    assert far["encoder"] > 1e-4 and far["moving/encoder"] > 1e-4
    # Weights are still shared; moving statistics are every replica's own.
    assert results["separate"]["apart"]["task_weights"] == 0
