"""The linear probe against scikit-learn's own linear models."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from skembed.finetune.record import Linear
from skembed.probes.linear import STRENGTHS, Probe, Standardizer, fit_ridge, fit_softmax, search_probe

STRENGTHS_TRIED = (10.0, 1.0, 0.1)


def _rows(n_samples=90, n_features=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n_samples, n_features))


def _weights(n_samples, seed=1):
    """Some of them zero, as of a sample that did not come."""
    return np.random.default_rng(seed).choice([0.0, 0.5, 1.0, 3.0], size=n_samples)


def _one_hot(y):
    return (y[:, None] == np.unique(y)).astype(float)


def _classes(X, n_classes, seed=2):
    rng = np.random.default_rng(seed)
    return (X @ rng.normal(size=(X.shape[1], n_classes)) + rng.gumbel(size=(len(X), n_classes))).argmax(1)


def _logistic(strength):
    return LogisticRegression(C=1 / strength, tol=1e-10, max_iter=20_000)


# -- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", STRENGTHS_TRIED)
@pytest.mark.parametrize("weighted", [False, True])
def test_several_classes_are_a_multinomial_logistic_regression(strength, weighted):
    X = _rows()
    y = _classes(X, 4)
    weights = _weights(len(X)) if weighted else np.ones(len(X))
    probe = fit_softmax(X, _one_hot(y), weights, strength)
    plain = _logistic(strength).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(probe.weight, plain.coef_, atol=2e-3)
    # The bias is free, so that all of them may be moved together; scikit-learn's sum to zero, and so do ours.
    np.testing.assert_allclose(probe.bias, plain.intercept_, atol=2e-3)
    assert probe.strength == strength


@pytest.mark.parametrize("weighted", [False, True])
def test_two_classes_have_two_outputs_and_half_the_penalty(weighted):
    X = _rows()
    y = _classes(X, 2)
    weights = _weights(len(X)) if weighted else np.ones(len(X))
    probe = fit_softmax(X, _one_hot(y), weights, 2.0)
    # Two rows of weights, w / 2 and -w / 2, have half the squared length of w.
    plain = LogisticRegression(C=2 / 2.0, tol=1e-10, max_iter=20_000).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(probe.weight[1] - probe.weight[0], plain.coef_[0], atol=2e-3)
    np.testing.assert_allclose(probe.bias[1] - probe.bias[0], plain.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("strength", STRENGTHS_TRIED)
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_are_logistic_regressions_of_their_own(strength, weighted):
    X = _rows()
    Y = np.column_stack([_classes(X, 2, seed) for seed in (3, 4, 5)])
    weights = _weights(len(X)) if weighted else np.ones(len(X))
    probe = fit_softmax(X, Y.astype(float), weights, strength, multilabel=True)
    for column in range(Y.shape[1]):
        plain = _logistic(strength).fit(X, Y[:, column], sample_weight=weights)
        np.testing.assert_allclose(probe.weight[column], plain.coef_[0], atol=2e-3)
        np.testing.assert_allclose(probe.bias[column], plain.intercept_[0], atol=2e-3)


def test_a_label_that_all_samples_have_does_no_harm():
    X = _rows()
    Y = np.column_stack([np.ones(len(X)), _classes(X, 2)]).astype(float)
    probe = fit_softmax(X, Y, np.ones(len(X)), 1.0, multilabel=True)
    assert np.isfinite(probe.weight).all()
    assert (probe(X)[:, 0] > 0).all()


def test_outputs_far_from_zero_do_not_overflow():
    X, y = _rows() * 1e4, _classes(_rows(), 3)
    with np.errstate(over="raise", invalid="raise"):
        for multilabel in (False, True):
            probe = fit_softmax(X, _one_hot(y), np.ones(len(X)), 1.0, multilabel=multilabel)
            assert np.isfinite(probe.weight).all()


def test_where_it_begins_does_not_matter():
    X = _rows()
    y = _classes(X, 3)
    start = Probe(np.random.default_rng(0).normal(size=(3, 6)), np.array([1.0, -2.0, 1.0]), 5.0)
    first, second = (fit_softmax(X, _one_hot(y), np.ones(len(X)), 1.0, begin) for begin in (None, start))
    np.testing.assert_allclose(first.weight, second.weight, atol=2e-3)


def test_soft_targets_are_samples_in_both_classes():
    X = _rows(40)
    soft = np.random.default_rng(0).dirichlet([1, 1, 1], size=40)
    probe = fit_softmax(X, soft, np.ones(40), 1.0)
    plain = _logistic(1.0).fit(np.repeat(X, 3, axis=0), np.tile([0, 1, 2], 40), sample_weight=soft.ravel())
    np.testing.assert_allclose(probe.weight, plain.coef_, atol=2e-3)


# -- numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(90, 6), (7, 20), (12, 12)])
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_are_a_ridge_regression(shape, weighted):
    """Both ways of solving it: fewer equations by samples, or by features."""
    X = _rows(*shape) + 3
    y = X @ np.random.default_rng(1).normal(size=(shape[1], 2)) + 5
    weights = _weights(len(X)) if weighted else np.ones(len(X))
    probe = fit_ridge(X, y, weights, 4.0)
    plain = Ridge(alpha=4.0 / 10 * shape[1], solver="cholesky").fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(probe.weight, plain.coef_, atol=1e-9)
    np.testing.assert_allclose(probe.bias, plain.intercept_, atol=1e-9)


# -- the search -------------------------------------------------------------------------------------------


def _recorded(losses):
    """A fit that does nothing, and a judge that gives these losses one after another."""
    tried, left = [], list(losses)

    def fit(features, targets, weights, strength, start):
        tried.append((strength, None if start is None else start.strength))
        return Probe(np.zeros((1, 1)), np.zeros(1), strength)

    return fit, (lambda probe: left.pop(0)), tried


def _search(fit, judge, strengths=STRENGTHS):
    X = np.ones((3, 1))
    return search_probe(fit, X, X, np.ones(3), judge, strengths)


def test_each_strength_begins_with_the_solution_before():
    fit, judge, tried = _recorded([5, 4, 3, 2, 1])
    assert _search(fit, judge).strength == 0.01
    assert tried == [(100.0, None), (10.0, 100.0), (1.0, 10.0), (0.1, 1.0), (0.01, 0.1)]


@pytest.mark.parametrize(("losses", "best", "n_tried"), [
    ([3, 2, 4, 5, 1], 10.0, 4),
    ([3, 4, 2, 4, 5], 1.0, 5),
    ([1, 2, 3, 0, 0], 100.0, 3),
    ([3, 4, 2, 3, 1], 0.01, 5),
    ([1, 1, 1, 0, 0], 100.0, 3),
])  # fmt: skip
def test_the_search_ends_once_the_loss_has_risen_twice(losses, best, n_tried):
    fit, judge, tried = _recorded(losses)
    assert _search(fit, judge).strength == best
    assert len(tried) == n_tried


def test_without_a_judge_the_middle_strength_is_taken():
    fit, _, tried = _recorded([])
    assert _search(fit, None).strength == 1.0
    assert len(tried) == 1
    assert _search(fit, None, strengths=(7.0,)).strength == 7.0


def test_the_search_finds_the_best_of_the_held_out_losses():
    X = _rows(200, 30)
    y = _classes(X[:, :2], 2)
    Y, train, held_out = _one_hot(y), np.arange(60), np.arange(60, 200)

    def judge(probe):
        outputs = probe(X[held_out])
        outputs = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
        return -(Y[held_out] * outputs).sum(1).mean()

    found = search_probe(fit_softmax, X[train], Y[train], np.ones(60), judge)
    every = {s: judge(fit_softmax(X[train], Y[train], np.ones(60), s)) for s in STRENGTHS}
    assert found.strength == min(every, key=every.get)
    assert judge(found) == pytest.approx(min(every.values()), rel=1e-3)


# -- standardising ----------------------------------------------------------------------------------------


def test_standardising_is_that_of_scikit_learn():
    X, weights = _rows() * np.array([1, 2, 3, 1, 0.5, 1]) + 7, _weights(90)
    found, plain = Standardizer.fit(X, weights), StandardScaler().fit(X, sample_weight=weights)
    np.testing.assert_allclose(found.mean, plain.mean_)
    np.testing.assert_allclose(found.scale, plain.scale_)
    np.testing.assert_allclose(found(X), plain.transform(X))


def test_a_weight_of_two_is_a_sample_that_came_twice():
    X = _rows(20)
    once = Standardizer.fit(X, np.r_[np.full(5, 2.0), np.ones(14), 0.0])
    twice = Standardizer.fit(np.vstack([X[:5], X[:19]]), np.ones(24))
    np.testing.assert_allclose(once.mean, twice.mean)
    np.testing.assert_allclose(once.scale, twice.scale)


def test_features_that_hardly_vary_are_not_blown_up():
    X = _rows(500, 4) * np.array([1.0, 1.0, 1e-6, 0.0])
    scale = Standardizer.fit(X, np.ones(500)).scale
    mean_variance = X.var(0).mean()
    np.testing.assert_allclose(scale[2:], 0.1 * np.sqrt(mean_variance))
    np.testing.assert_allclose(scale[:2], X.std(0)[:2])


def test_features_that_do_not_vary_at_all_stay_numbers():
    X = np.full((5, 3), 2.0)
    standardizer = Standardizer.fit(X, np.ones(5))
    np.testing.assert_array_equal(standardizer(X), np.zeros((5, 3)))


def test_a_probe_on_standardised_features_and_the_map_on_plain_ones_are_one():
    X = _rows() * np.array([1, 2, 3, 1, 0.5, 1]) + 7
    standardizer = Standardizer.fit(X, np.ones(90))
    rng = np.random.default_rng(0)
    probe = Probe(rng.normal(size=(3, 6)), rng.normal(size=3), 1.0)
    linear = Linear.of_probe(standardizer, probe, 2.0)
    np.testing.assert_allclose(linear(X), probe(standardizer(X)), atol=1e-12)
    assert linear.temperature == 2.0
    back = linear.to_probe(standardizer)
    np.testing.assert_allclose(back.weight, probe.weight)
    np.testing.assert_allclose(back.bias, probe.bias)
