"""LEEP and NLEEP against plain loops, closed forms and the properties that the paper proves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from skembed.selection import leep, nleep


def _leep_by_loops(theta, y):
    """Equations 1 to 3 of the paper, one sample, class and source class at a time."""
    n_samples, n_source = len(theta), len(theta[0])
    classes = sorted(set(y))
    joint = {(c, z): sum(theta[i][z] for i in range(n_samples) if y[i] == c) / n_samples for c in classes
             for z in range(n_source)}  # fmt: skip
    marginal = [sum(joint[c, z] for c in classes) for z in range(n_source)]
    total = 0.0
    for i in range(n_samples):
        total += np.log(sum(joint[y[i], z] / marginal[z] * theta[i][z] for z in range(n_source) if marginal[z] > 0))
    return total / n_samples


def _theta(n_samples=30, n_source=5, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(n_source, 0.5), size=n_samples)


def test_leep_equals_the_loops():
    """Fails when the conditional is taken over the wrong index, or logarithm and mean change places."""
    y = ["a", "b", "c"] * 10
    np.testing.assert_allclose(leep(_theta(), y), _leep_by_loops(_theta(), y))


def test_leep_of_a_head_that_says_nothing_is_minus_the_entropy():
    y = np.repeat([0, 1], [10, 30])
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    np.testing.assert_allclose(leep(np.full((40, 7), 1 / 7), y), -entropy)


def test_leep_of_certain_heads_is_minus_the_conditional_entropy():
    """Two source classes; the first holds three of one label and one of the other."""
    theta, y = np.eye(2)[[0, 0, 0, 0, 1, 1]], [0, 0, 0, 1, 1, 1]
    conditional = 4 / 6 * -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(leep(theta, y), -conditional)


def test_leep_is_bounded_from_below_as_the_paper_proves():
    """Property 2: LEEP is at least NCE plus the mean log-probability of the most likely source classes."""
    theta, y = _theta(), np.arange(30) % 3
    source = theta.argmax(axis=1)
    nce = leep(np.eye(5)[source], y)
    assert leep(theta, y) >= nce + np.log(theta.max(axis=1)).mean()


def test_a_source_class_that_nobody_has_changes_nothing():
    """Fails with a division by zero."""
    y = ["a", "b", "c"] * 10
    padded = np.column_stack([_theta(), np.zeros(30)])
    np.testing.assert_allclose(leep(padded, y), leep(_theta(), y))


@pytest.mark.parametrize("bad", [2.0 * _theta(4), _theta(4) - 0.3])
def test_leep_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match=r"probabilities must be .* softmax"):
        leep(bad, [0, 1, 0, 1])


def test_nleep_is_leep_of_a_mixture_over_principal_components():
    """Fails when components, their number, or the seed are others than stated."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    X = rng.normal(size=(120, 6)) * [5, 4, 1, 1, 1, 1] + y[:, None]
    reduced = PCA(0.8, svd_solver="full").fit_transform(X)
    assert reduced.shape[1] < 6
    mixture = GaussianMixture(10, random_state=3).fit(reduced / reduced.std())
    expected = _leep_by_loops(mixture.predict_proba(reduced / reduced.std()).tolist(), y.tolist())
    np.testing.assert_allclose(nleep(X, y, random_state=3), expected, rtol=1e-6)


def test_nleep_of_clusters():
    """Clusters that are the classes leave nothing open; labels that have nothing to do with them leave the entropy."""
    rng = np.random.default_rng(0)
    clusters = np.arange(400) % 2
    X = rng.normal(size=(400, 2)) + 100 * clusters[:, None]
    assert nleep(X, clusters, n_gaussians=2) == pytest.approx(0, abs=1e-9)
    shuffled = (np.arange(400) // 2) % 2
    assert nleep(X, shuffled, n_gaussians=2) == pytest.approx(-np.log(2), abs=0.01)


def test_nleep_does_not_depend_on_the_scale():
    """Fails where the constant that the mixture adds to variances meets features of another scale."""
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    X = rng.normal(size=(100, 4)) + y[:, None]
    np.testing.assert_allclose(nleep(1e-4 * X, y), nleep(X, y), rtol=1e-4)


def test_nleep_keeps_all_components_where_asked():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 4)), np.arange(50) % 2
    mixture = GaussianMixture(2, random_state=0)
    reduced = PCA().fit_transform(X)
    expected = leep(mixture.fit(reduced / reduced.std()).predict_proba(reduced / reduced.std()), y)
    np.testing.assert_allclose(nleep(X, y, variance=1.0, n_gaussians=2), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": 0.0}, r"variance=0\.0 is out of range"),
        ({"n_gaussians": 0}, "n_gaussians=0: use a number from 1 to the 20 samples"),
        ({"n_gaussians": "many"}, "n_gaussians='many'"),
    ],
)
def test_nleep_refuses(options, message):
    X = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match=message):
        nleep(X, np.arange(20) % 2, **options)
