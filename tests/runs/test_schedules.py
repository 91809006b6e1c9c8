"""The poly policy."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.runs.schedules import Settling, poly_schedule


def test_poly_of_the_paper_falls_from_its_base_rate_to_zero():
    schedule = poly_schedule(0.001, 600000)
    assert float(schedule(0)) == pytest.approx(0.001)
    for step in (1, 1000, 300000, 599999):
        expected = 0.001 * (1 - step / 600000) ** 0.9
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert float(schedule(600000)) == 0.0


def test_poly_after_its_end_stays_zero():
    assert float(poly_schedule(0.1, 10)(11)) == 0.0
    assert float(poly_schedule(0.1, 10)(10**6)) == 0.0


def test_poly_of_power_one_is_a_line():
    schedule = poly_schedule(1.0, 4, power=1.0)
    rates = [float(schedule(step)) for step in range(5)]
    np.testing.assert_allclose(rates, [1, 0.75, 0.5, 0.25, 0], atol=1e-6)


def test_settling_multiplies_from_its_step_on():
    schedule = Settling(poly_schedule(1.0, 4, power=1.0), 2, 0.5)
    rates = [float(schedule(step)) for step in range(5)]
    np.testing.assert_allclose(rates, [1, 0.75, 0.25, 0.125, 0], atol=1e-6)
    again = Settling.from_config(schedule.get_config())
    assert float(again(tf.constant(3.0))) == 0.125
