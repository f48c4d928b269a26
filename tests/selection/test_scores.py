"""LogME, H-score and TransRate against their definitions, written out once more and evaluated another way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from sklearn.covariance import ledoit_wolf_shrinkage

from skembed.selection import h_score, logme, transrate
from skembed.selection.scores import ledoit_wolf, maximum_evidence

SHAPES = [(40, 5), (12, 30), (20, 20)]


def _data(n_samples, n_features, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n_samples) % n_classes)
    X = rng.normal(size=(n_samples, n_features)) + 2.0
    X[:, 0] += 1.5 * y
    return X, y


def _log_marginal(X, y, alpha, beta):
    """Log-density of y where its weights are integrated out: a Gaussian over all samples at once."""
    covariance = np.eye(len(X)) / beta + X @ X.T / alpha
    return multivariate_normal(np.zeros(len(X)), covariance, allow_singular=False).logpdf(y)


def _iterated(X, target, n_iterations=2000):
    """Alpha and beta by the fixed-point equations of MacKay and of You et al., with an explicit inverse."""
    n_samples, n_features = X.shape
    alpha = beta = 1.0
    for _ in range(n_iterations):
        inverse = np.linalg.inv(alpha * np.eye(n_features) + beta * X.T @ X)
        mean = beta * inverse @ X.T @ target
        gamma = n_features - alpha * np.trace(inverse)
        alpha, beta = gamma / (mean @ mean), (n_samples - gamma) / ((X @ mean - target) ** 2).sum()
    return alpha, beta, mean


# -- LogME ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_evidence_is_the_density_of_y_at_the_alpha_and_beta_found(shape):
    """Fails without the determinant, without 2 pi, or with the directions that have no feature left out."""
    X, y = _data(*shape)
    targets = np.eye(3)[y]
    evidence = maximum_evidence(X, targets)
    direct = [_log_marginal(X, targets[:, k], evidence.alpha[k], evidence.beta[k]) for k in range(3)]
    np.testing.assert_allclose(evidence.log_evidence, direct, rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 5), (60, 12)])
def test_no_other_alpha_and_beta_have_more_evidence(shape):
    """Fails for iterations that stop early, and for a search between wrong bounds."""
    X, y = _data(*shape)
    target = (y == 1).astype(float)
    found = maximum_evidence(X, target[:, None])
    for start in ([0.0, 0.0], [4.0, -2.0], [-3.0, 3.0]):
        best = minimize(lambda logs: -_log_marginal(X, target, *np.exp(logs)), start, method="Nelder-Mead")
        assert -best.fun <= found.log_evidence[0] + 1e-6
    logs = np.log([found.alpha[0], found.beta[0]])
    for step in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]):
        assert _log_marginal(X, target, *np.exp(logs + step)) < found.log_evidence[0]


def test_the_papers_fixed_point_holds_and_its_iterations_end_here():
    """The equations of MacKay and of You et al., by a plain loop and an explicit inverse."""
    X, y = _data(80, 6)
    target = (y == 1).astype(float)
    alpha, beta, mean = _iterated(X, target)
    found = maximum_evidence(X, target[:, None])
    np.testing.assert_allclose([found.alpha[0], found.beta[0]], [alpha, beta], rtol=1e-4)
    residual = (beta * ((X @ mean - target) ** 2).sum() + alpha * mean @ mean) / 2
    determinant = np.linalg.slogdet(alpha * np.eye(6) + beta * X.T @ X)[1]
    paper = 40 * np.log(beta) + 3 * np.log(alpha) - 40 * np.log(2 * np.pi) - residual - determinant / 2
    np.testing.assert_allclose(found.log_evidence[0], paper, rtol=1e-8)


def test_the_higher_of_two_maxima_is_found():
    """One strong feature of which little is needed, ten weak ones of which much is: the prior is right for the one
    or for the others. The iterations of the paper end at the lower maximum; a search from one start would."""
    singular = np.array([10.0, *np.full(10, 1e-3)])
    X = np.eye(21)[:, :11] * singular
    target = np.array([1.0, *np.full(10, 0.1), *np.full(10, 0.01)])

    def evidence(alpha, beta):
        # The samples are independent here, so that the density is a product.
        return norm.logpdf(target, scale=np.sqrt(1 / beta + (X**2).sum(axis=1) / alpha)).sum()

    found = maximum_evidence(X, target[:, None])
    assert found.log_evidence[0] == pytest.approx(evidence(found.alpha[0], found.beta[0]))
    grid = np.logspace(-8, 8, 81)
    assert found.log_evidence[0] >= max(evidence(alpha, beta) for alpha in grid for beta in grid)
    assert evidence(*_iterated(X, target)[:2]) < found.log_evidence[0] - 1


def test_logme_is_a_mean_over_classes_and_samples():
    """Fails for a sum over classes, or for the evidence of all samples together."""
    X, y = _data(40, 5)
    each = [maximum_evidence(X, (y == k).astype(float)[:, None]).log_evidence[0] / 40 for k in range(3)]
    np.testing.assert_allclose(logme(X, y), np.mean(each))
    np.testing.assert_allclose(logme(X, np.array(["c", "a", "b"])[y]), logme(X, y))


def test_logme_of_numbers():
    """Several targets are averaged; whole numbers are classes until told otherwise."""
    X, y = _data(40, 5)
    numbers = X @ np.arange(5.0) + np.random.default_rng(1).normal(size=40)
    both = np.column_stack([numbers, numbers[::-1]])
    np.testing.assert_allclose(logme(X, both), (logme(X, both[:, 0]) + logme(X, both[:, 1])) / 2)
    np.testing.assert_allclose(logme(X, y, task="regression"), logme(X, y + 1e-13, task="regression"), rtol=1e-6)
    assert logme(X, y, task="regression") != logme(X, y)


def test_logme_does_not_depend_on_the_scale_or_the_rotation_of_features():
    X, y = _data(40, 5)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    np.testing.assert_allclose(logme(1e4 * X @ rotation, y), logme(X, y), rtol=1e-6)


def test_a_perfect_fit_is_finite_and_the_best():
    """Its evidence has no bound; NaN or infinity would put it last."""
    y = np.arange(30) % 3
    assert logme(_data(30, 5)[0], y) < logme(np.eye(3)[y], y) < np.inf


# -- H-score ----------------------------------------------------------------------------------------------


def _h_score_of_matrices(X, y, alpha):
    """The trace as it is written in the papers."""
    centred = X - X.mean(axis=0)
    covariance = centred.T @ centred / len(X)
    means = np.stack([centred[y == label].mean(axis=0) for label in y])
    between = means.T @ means / len(X)
    target = np.trace(covariance) / X.shape[1] * np.eye(X.shape[1])
    return np.trace(np.linalg.pinv((1 - alpha) * covariance + alpha * target) @ ((1 - alpha) * between))


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_h_score_is_the_trace(shape, alpha):
    """Fails when one of the two covariances is not shrunk, or when rows are not centred."""
    X, y = _data(*shape)
    np.testing.assert_allclose(h_score(X, y, shrinkage=alpha), _h_score_of_matrices(X, y, alpha), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_shrinkage_is_the_one_of_ledoit_and_wolf(shape):
    X, y = _data(*shape)
    alpha = ledoit_wolf_shrinkage(X)
    np.testing.assert_allclose(ledoit_wolf(X - X.mean(axis=0)), alpha, rtol=1e-9)
    np.testing.assert_allclose(h_score(X, y), _h_score_of_matrices(X, y, alpha), rtol=1e-6)


def test_h_score_in_closed_form():
    """One feature with variance one within classes at -1 and 1: half of the variance is between them."""
    X = np.array([[-2.0], [0.0], [0.0], [2.0]])
    np.testing.assert_allclose(h_score(X, [0, 0, 1, 1], shrinkage=0), 0.5)
    # Classes that are one point each are told apart wholly, in as many directions as there are.
    X = np.repeat(np.eye(3), 4, axis=0)
    np.testing.assert_allclose(h_score(X, np.repeat([0, 1, 2], 4), shrinkage=0), 2.0)


def test_without_shrinkage_noise_looks_perfect():
    """Why shrinkage is the default: more features than samples, and no signal at all."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 200)), np.arange(30) % 3
    np.testing.assert_allclose(h_score(X, y, shrinkage=0.0), 2.0)
    assert h_score(X, y) < 1.0


# -- TransRate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalize", [True, False])
def test_transrate_is_the_difference_of_determinants(shape, normalize):
    """Fails when classes are centred on their own, when n_c is taken for n, or eps is squared."""
    X, y = _data(*shape)
    Z = X - X.mean(axis=0)
    Z = Z / np.linalg.norm(Z, axis=1, keepdims=True) if normalize else Z

    def rate(rows):
        return np.log(np.linalg.det(np.eye(Z.shape[1]) + rows.T @ rows / len(rows) / 0.5)) / 2

    classes = np.mean([rate(Z[y == k]) for k in range(3)])
    np.testing.assert_allclose(transrate(X, y, eps=0.5, normalize=normalize), rate(Z) - classes, rtol=1e-9)


def test_transrate_in_closed_form():
    """Four points on two axes, one a class: the whole has both axes, each class has one."""
    X, y = np.repeat([[3.0, 0], [-3, 0], [0, 2], [0, -2]], 5, axis=0), np.repeat([0, 1, 2, 3], 5)
    whole = (np.log1p(9 / 2 / 1e-4) + np.log1p(4 / 2 / 1e-4)) / 2
    classes = (np.log1p(9 / 1e-4) + np.log1p(4 / 1e-4)) / 4
    np.testing.assert_allclose(transrate(X, y, normalize=False), whole - classes)
    np.testing.assert_allclose(transrate(X, y), np.log1p(1 / 2 / 1e-4) - np.log1p(1 / 1e-4) / 2)


def test_transrate_weighs_classes_alike_or_by_their_samples():
    X, y = _data(40, 5)
    y = np.where(np.arange(40) < 30, 0, 1 + np.arange(40) % 2)
    Z = X - X.mean(axis=0)
    rates = [np.linalg.slogdet(np.eye(5) + Z[y == k].T @ Z[y == k] / (y == k).sum() / 1e-4)[1] / 2 for k in range(3)]
    uniform, frequency = (transrate(X, y, normalize=False, weights=w) for w in ("uniform", "frequency"))
    np.testing.assert_allclose(uniform - frequency, np.bincount(y) / 40 @ rates - np.mean(rates), rtol=1e-6)
    assert frequency >= 0


def test_normalised_transrate_does_not_depend_on_the_scale():
    X, y = _data(40, 5)
    np.testing.assert_allclose(transrate(100 * X, y), transrate(X, y))
    assert transrate(100 * X, y, normalize=False) != pytest.approx(transrate(X, y, normalize=False))


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[1.0], [np.nan]], [0, 1]), {}, "X contains NaN"),
        (([[1.0], [1.0], [1.0]], [0, 1, 0]), {}, "same row for all 3 samples"),
        (([[1.0], [2.0]], [0, 1, 0]), {}, "y has 3 values for 2 samples"),
        (([[1.0], [2.0], [3.0]], ["a", "a", "a"]), {}, "y holds 1 class"),
        (([[1.0], [2.0], [3.0]], [1, 2, 3]), {}, "task='regression'"),
        (([[1.0], [2.0], [3.0]], ["a", None, "b"]), {"task": "classification"}, r"missing values: y\[1\] is None"),
        (([[1.0], [2.0], [3.0]], [0.5, 0.5, 0.5]), {}, "one value only"),
        (([[1.0], [2.0], [3.0]], [[0, 1], [1, 1], [1, 0]]), {}, "multilabel-indicator.*task='regression'"),
        (([[1.0], [2.0], [3.0]], [0, 1, 1]), {"task": "ranking"}, "task='ranking' is unknown"),
    ],
)
def test_logme_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        logme(*arguments, **options)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (h_score, {"shrinkage": 1.0}, r"shrinkage=1\.0 is out of range"),
        (h_score, {"shrinkage": "ledoit"}, "shrinkage='ledoit'"),
        (transrate, {"eps": 0.0}, r"eps=0\.0 must be above 0"),
        (transrate, {"weights": "balanced"}, "weights='balanced' is unknown"),
    ],
)
def test_parameters_out_of_range_are_refused(function, options, message):
    X, y = _data(12, 3)
    with pytest.raises(ValueError, match=message):
        function(X, y, **options)
