"""The measures against closed forms, explicit refits and planted answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from skembed.measures import LinearProbe, exact_groups, find_twins, linear_cka, suspect_labels


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# -- linear CKA -----------------------------------------------------------------------------------------


def _hsic(K, L):
    """By the definition: the trace of two centred Gram matrices."""
    n = len(K)
    H = np.eye(n) - np.ones((n, n)) / n
    return np.trace(K @ H @ L @ H) / (n - 1) ** 2


@pytest.mark.parametrize("shape", [(40, 6, 9), (8, 20, 15)])
def test_cka_is_the_hsic_of_linear_kernels_by_hand(rng, shape):
    n, p, q = shape
    X, Y = rng.normal(size=(n, p)) + 3, rng.normal(size=(n, q))
    Y[:, :4] += X[:, :4]
    K, L = X @ X.T, Y @ Y.T
    expected = _hsic(K, L) / np.sqrt(_hsic(K, K) * _hsic(L, L))
    assert linear_cka(X, Y) == pytest.approx(expected, rel=1e-9)


def test_cka_does_not_notice_rotations_scales_and_shifts_and_does_notice_other_maps(rng):
    X, Y = rng.normal(size=(50, 5)), rng.normal(size=(50, 5)) ** 3
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert linear_cka(X, X) == pytest.approx(1)
    assert linear_cka(-2 * X @ rotation + 7, Y) == pytest.approx(linear_cka(X, Y), rel=1e-9)
    assert linear_cka(X, Y) == pytest.approx(linear_cka(Y, X))
    assert linear_cka(X @ np.diag([100, 1, 1, 1, 1]), X) < 0.8


def test_cka_of_orthogonal_representations_is_zero_and_of_constants_nan():
    X = np.array([[1.0], [-1], [1], [-1]])
    Y = np.array([[1.0], [1], [-1], [-1]])
    assert linear_cka(X, Y) == 0
    assert np.isnan(linear_cka(X, np.ones((4, 3))))
    with pytest.raises(ValueError, match="same samples"):
        linear_cka(X, Y[:2])


# -- twins ----------------------------------------------------------------------------------------------


def test_planted_twins_are_found_and_twins_of_twins_joined(rng):
    X = rng.normal(size=(1100, 60)) + 5  # more than one chunk
    X[700] = X[3] + 0.02 * rng.normal(size=60)
    X[1050] = X[700]
    X[900] = 3 * (X[4] - X.mean(0)) + X.mean(0)  # the same direction, not the same length
    twins = find_twins(X)
    assert twins.pairs.tolist() == [[3, 700], [3, 1050]]
    assert twins.groups[3] == twins.groups[700] == twins.groups[1050]
    assert len(np.unique(twins.groups)) == len(X) - 2


def test_a_shared_direction_does_not_make_twins(rng):
    """Uncentred, all of these are more alike than 0.99."""
    X = rng.normal(size=(100, 50)) + 100
    assert cosine_similarity(X).min() > 0.99
    assert len(find_twins(X).pairs) == 0


def test_in_few_dimensions_chance_makes_no_twins(rng):
    X = rng.normal(size=(1000, 3))
    unit = (X - X.mean(0)) / np.linalg.norm(X - X.mean(0), axis=1, keepdims=True)
    assert (np.triu(unit @ unit.T, 1) > 0.95).sum() > 1000
    assert len(find_twins(X).pairs) <= 1
    X[10] = X[20]
    assert [10, 20] in find_twins(X).pairs.tolist()


def test_rows_that_are_all_alike_are_one_group():
    assert len(np.unique(find_twins(np.ones((3000, 4))).groups)) == 1


def test_exact_groups_join_equal_keys_and_nothing_without_one():
    assert exact_groups([b"x", None, b"x", None]).tolist() == [0, 1, 0, 2]


# -- suspects -------------------------------------------------------------------------------------------


def test_flipped_labels_are_found_on_separable_data(rng):
    """Measured: precision 0.95, recall 1.0."""
    codes = np.arange(300) % 3
    X = np.eye(3)[codes] @ rng.normal(size=(3, 20)) * 2 + 0.5 * rng.normal(size=(300, 20))
    flipped = rng.permutation(300)[:30]
    noisy = codes.copy()
    noisy[flipped] = (noisy[flipped] + rng.integers(1, 3, size=30)) % 3
    probabilities = LinearProbe(X).left_out(np.eye(3)[noisy]).probabilities(noisy)
    found = suspect_labels(probabilities, noisy)
    hits = np.isin(found.positions, flipped)
    assert hits.mean() >= 0.9
    assert hits.sum() >= 0.9 * 30
    assert (found.suggested[hits] == codes[found.positions[hits]]).mean() >= 0.9
    clean = LinearProbe(X).left_out(np.eye(3)[codes]).probabilities(codes)
    assert len(suspect_labels(clean, codes).positions) <= 3


def test_a_class_is_confident_by_its_own_mean_and_not_by_the_largest_probability():
    """Worked by hand: class 1 is never as sure as class 0, and 0.4 is much for it (its mean is 0.35)."""
    probabilities = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.6, 0.4]]
    # Means: class 0 of samples 0 and 1: 0.75; class 1 of samples 2 and 3: 0.35.
    found = suspect_labels(probabilities, [0, 0, 1, 1])
    assert found.positions.tolist() == []  # sample 1 is confidently 1, but not more likely so than 0
    found = suspect_labels([[0.9, 0.1], [0.45, 0.55], [0.7, 0.3], [0.6, 0.4]], [0, 0, 1, 1])
    assert found.positions.tolist() == [2, 1]
    assert found.suggested.tolist() == [0, 1]
    np.testing.assert_allclose(found.margins, [0.4, 0.1])
