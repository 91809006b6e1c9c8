"""RDMs and their rank correlation, beside NumPy's and SciPy's."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from soka_tf.errors import UserError
from soka_tf.teachers.rdm import compute_rdm, compute_similarity

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(9, 4, 3, 5)) + RANDOM.normal(size=(4, 3, 5))
# The second image is the mean of the three.
UNLIKE_ONE = np.stack([2 * FEATURES[0] - FEATURES[1], FEATURES[0], FEATURES[1]])


def spearman_of_lower_triangles(rdms):
    lower = np.tril_indices(len(rdms[0]), -1)
    return stats.spearmanr(np.stack([rdm[lower] for rdm in rdms], axis=1))[0]


def test_rdm_and_similarity_equal_the_released_codes(shared_folder):
    golden = np.load(shared_folder / "golden" / "rsa.npz")
    rdms = []
    for task in golden["tasks"]:
        rdms.append(compute_rdm(golden[f"features/{task}"]))
        expected = golden[f"rdm/{task}"]
        np.testing.assert_allclose(rdms[-1], expected, rtol=0, atol=1e-10)
    measured = compute_similarity(rdms)
    np.testing.assert_allclose(measured, golden["spearman"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("columns", [1, 7, 60, 1000])
def test_rdm_in_blocks_of_any_width_equals_numpys(centred, columns, monkeypatch):
    monkeypatch.setattr("soka_tf.teachers.rdm._block_columns", lambda count: columns)
    rows = FEATURES.reshape(9, -1)
    expected = 1 - np.corrcoef(rows - rows.mean(axis=0) if centred else rows)
    rdm = compute_rdm(FEATURES, centred)
    np.testing.assert_allclose(rdm, expected, rtol=0, atol=1e-12)
    assert (rdm == rdm.T).all() and (rdm.diagonal() == 0).all()


def test_rdm_of_200_images_equals_pearsonr_pair_by_pair():
    features = RANDOM.normal(size=(200, 3, 3, 2)).astype(np.float32)
    rdm = compute_rdm(features)
    rows = features.reshape(200, -1).astype(np.float64)
    rows -= rows.mean(axis=0)
    for i in range(200):
        for j in range(i):
            a, b = rows[i] - rows[i].mean(), rows[j] - rows[j].mean()
            brute = 1 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
            assert abs(rdm[i, j] - brute) < 1e-6
    one = stats.pearsonr(rows[3], rows[150]).statistic
    assert rdm[3, 150] == pytest.approx(1 - one, abs=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_rdm_of_any_type_or_a_file_is_that_of_its_values(dtype, tmp_path):
    values = (FEATURES * 10).astype(dtype)
    expected = compute_rdm(values.astype(np.float64))
    file = np.memmap(tmp_path / "f", dtype, "w+", shape=values.shape)
    file[:] = values
    for given in (values, file, values.tolist(), tf.constant(values)):
        np.testing.assert_array_equal(compute_rdm(given), expected)


def test_plain_rdm_of_a_small_signal_on_a_large_mean_keeps_its_digits():
    rows = FEATURES.reshape(9, -1)
    large = rows + 2.0**20
    expected = compute_rdm(large - 2.0**20, centred=False)
    np.testing.assert_allclose(compute_rdm(large, False), expected, rtol=0, atol=1e-12)


def test_permuting_the_images_permutes_rdms_and_keeps_the_similarity():
    features = RANDOM.normal(size=(3, 20, 4, 4, 3))
    order = RANDOM.permutation(20)
    rdms = [compute_rdm(f) for f in features]
    permuted = [compute_rdm(f[order]) for f in features]
    for one, other in zip(rdms, permuted):
        np.testing.assert_allclose(other, one[np.ix_(order, order)], atol=1e-13)
    np.testing.assert_allclose(
        compute_similarity(permuted), compute_similarity(rdms), atol=1e-12
    )


def test_similarity_with_ties_equals_scipys_spearman():
    rdms = [np.round(compute_rdm(RANDOM.normal(size=(12, 30))), 1) for _ in range(4)]
    measured = compute_similarity(rdms)
    np.testing.assert_allclose(
        measured, spearman_of_lower_triangles(rdms), rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(compute_similarity(np.stack(rdms)), measured)
    assert (measured == measured.T).all() and (measured.diagonal() == 1).all()


def test_similarity_of_an_rdm_with_itself_and_its_reverse_is_one_and_minus_one():
    rdm = compute_rdm(FEATURES)
    measured = compute_similarity([rdm, rdm, 2 - rdm])
    np.testing.assert_allclose(measured[0], [1, 1, -1], atol=1e-12)
    assert compute_similarity([rdm]).tolist() == [[1.0]]


def spoiled(value):
    features = FEATURES.copy()
    features[4, 1, 1, 1] = value
    return features


@pytest.mark.parametrize(
    "features, centred, message",
    [
        (FEATURES[:2], True, "at least 3 images. Received: 2"),
        (np.zeros([]), True, "at least 3 images. Received: 0"),
        (np.zeros([5, 0]), True, "5 images are empty"),
        (spoiled(np.nan), True, r"1 of 9 images \(number 4, from 0\) hold NaN"),
        (spoiled(np.inf), False, "number 4, from 0"),
        (np.full([5, 8], 0.1), True, "5 of 5 images .* same for every one"),
        (
            FEATURES * (np.arange(9) != 2)[:, None, None, None],
            False,
            "1 of 9.*number 2",
        ),
        (np.full([9, 8], 0.1) * np.arange(1, 10)[:, None], True, "9 of 9 .* mean"),
        (UNLIKE_ONE, True, "1 of 3 .*number 1.*do not vary once"),
        (FEATURES * 1e200, True, "too large"),
    ],
)
def test_rdm_of_features_without_correlation_is_refused(features, centred, message):
    with pytest.raises(UserError, match=message):
        compute_rdm(features, centred)


@pytest.mark.parametrize(
    "rdms, message",
    [
        ([], "no RDMs"),
        ([np.eye(4), np.eye(5)], r"\(4, 4\) first, \(5, 5\) as number 1"),
        ([np.zeros([4, 3])], "square"),
        ([np.eye(2)], "at least 3"),
        ([np.eye(4), np.eye(4)], "number 0 .* constant"),
        ([compute_rdm(FEATURES), np.full([9, 9], np.nan)], "number 1 .* not finite"),
    ],
)
def test_similarity_of_rdms_that_cannot_be_ranked_is_refused(rdms, message):
    with pytest.raises(UserError, match=message):
        compute_similarity(rdms)
