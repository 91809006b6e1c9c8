"""tools/studies/comparison/inference.py on synthetic studies whose truth is known."""

import numpy as np
import pytest

from tools.studies.comparison.inference import (
    SAME,
    TwoLevel,
    holm,
    two_level,
)

ROOMS = 60
LOW, HIGH = np.log(SAME)


def _study(random, seeds, deviations, truth=0.0):
    """Sums of squares of two methods, [2, seeds, rooms]; the log ratio is `truth`.

    Seeds, rooms and both together have deviations of their own for each method; what
    rooms are like is common to both and large.
    """
    of_seeds, of_rooms, of_both = deviations
    common = np.exp(random.normal(0, 0.6, ROOMS)) * random.integers(500, 1000, ROOMS)
    noise = random.normal(0, of_seeds, (2, seeds, 1))
    noise = noise + random.normal(0, of_rooms, (2, 1, ROOMS))
    noise = noise + random.normal(0, of_both, (2, seeds, ROOMS))
    return common * np.exp(noise + np.array([2 * truth, 0.0])[:, None, None])


def _difference(study, resamples=400):
    def statistic(weights):
        first, second = (np.log(weights @ one.T) for one in study)
        return 0.5 * (first - second)

    return two_level(statistic, study.shape[1], study.shape[2], resamples)


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(
    "deviations, most",
    [
        ((0.05, 0.0, 0.0), 0.95 + 0.038),
        ((0.05, 0.1, 0.1), 0.95 + 0.038),
        ((0.01, 0.3, 0.1), 0.95 + 0.038),
        # Drawn crossed, what seeds and rooms have together counts three times.
        ((0.01, 0.3, 0.3), 1.0),
    ],
    ids=["seeds", "seeds_and_rooms", "rooms", "together"],
)
def test_interval_covers_the_truth_in_about_95_percent_of_studies(
    seeds, deviations, most
):
    random, studies = np.random.default_rng(seeds), 300
    covered = 0
    for _ in range(studies):
        low, high = _difference(_study(random, seeds, deviations, 0.1)).interval()
        covered += low <= 0.1 <= high
    # Three standard deviations of such a share are 0.038.
    assert 0.95 - 0.038 <= covered / studies <= most


def test_interval_of_pairs_is_narrow_where_seeds_and_rooms_are_shared():
    study = _study(np.random.default_rng(0), 5, (0.0, 0.0, 0.0))
    hard = np.exp(np.random.default_rng(1).normal(0, 1, (5, 1)))
    error = _difference(np.stack([study[0] * hard, study[0] * hard * 1.1])).error
    assert error == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("ratio, most", [(SAME[1], 0.05), (SAME[0], 0.05), (1.03, 0.0)])
def test_two_one_sided_tests_rarely_call_different_errors_the_same(ratio, most):
    random, studies = np.random.default_rng(2), 300
    said = 0
    for _ in range(studies):
        study = _study(random, 10, (0.004, 0.01, 0.01), np.log(ratio))
        said += _difference(study).p_same(LOW, HIGH) < 0.05
    assert said / studies <= most + 0.038 * bool(most)


def test_two_one_sided_tests_find_equal_errors_where_they_are_measured_well():
    random = np.random.default_rng(3)
    well = [_difference(_study(random, 10, (0.004, 0.01, 0.01))) for _ in range(50)]
    badly = [_difference(_study(random, 10, (0.05, 0.1, 0.1))) for _ in range(50)]
    assert np.mean([d.p_same(LOW, HIGH) < 0.05 for d in well]) > 0.9
    # What is only not different is not called the same.
    assert np.mean([d.p_same(LOW, HIGH) < 0.05 for d in badly]) == 0.0
    assert np.mean([d.p_difference() < 0.05 for d in badly]) < 0.15


def test_p_values_agree_with_the_interval():
    estimate = TwoLevel(0.3, 0.1, 7.0)
    low, high = estimate.interval()
    assert estimate.p_difference(low) == pytest.approx(0.05)
    assert estimate.p_difference(high) == pytest.approx(0.05)
    assert estimate.p_above(0.3) == pytest.approx(0.5)
    # Both one-sided tests at 5 %: the interval of 90 %.
    low, high = estimate.interval(0.9)
    assert estimate.p_same(low, 9.0) == pytest.approx(0.05)
    assert estimate.p_same(-9.0, high) == pytest.approx(0.05)


def test_one_seed_has_no_interval_and_shows_nothing():
    estimate = _difference(_study(np.random.default_rng(4), 1, (0.1, 0.1, 0.1)))
    assert estimate.interval() is None
    assert estimate.p_difference() == estimate.p_same(-1.0, 1.0) == 1.0


def test_difference_does_not_depend_on_the_order_of_seeds_rooms_and_methods():
    random = np.random.default_rng(5)
    study = _study(random, 6, (0.05, 0.1, 0.1), 0.2)
    found = _difference(study, 4000)
    seeds, rooms = random.permutation(6), random.permutation(ROOMS)
    other = _difference(study[:, seeds][:, :, rooms], 4000)
    assert other.value == pytest.approx(found.value)
    assert other.error == pytest.approx(found.error, rel=0.05)  # other draws
    swapped = _difference(study[::-1], 4000)
    assert swapped.value == pytest.approx(-found.value)
    assert swapped.error == pytest.approx(found.error)


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, 0.03 * 2, then no less than the one before; 0.5 * 1.
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.9, 0.6]) == holm([0.6, 0.9]) and holm([]) == []
