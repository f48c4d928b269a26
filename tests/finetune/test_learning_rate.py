"""The work of find_learning_rate, what it shows, and what an interrupt leaves."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from skembed import EmbeddingCache, FineTuneClassifier, FineTuneRegressor, find_learning_rate
from skembed.finetune import loop
from skembed.finetune.network import Network
from skembed.testing import ArrayEmbedder
from skembed.utils import progress
from tests.finetune import tuning

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _classifier(embedder=None, **parameters):
    embedder = embedder or ArrayEmbedder(precision="float32")
    return FineTuneClassifier(embedder).set_params(**{"strategy": "full", "random_state": 0, **parameters})


@pytest.fixture
def batches(monkeypatch):
    """The batches of items that enter a network for training."""
    seen, features = [], Network.features

    def note(self, samples):
        seen.append(samples)
        return features(self, samples)

    monkeypatch.setattr(Network, "features", note)
    return seen


@pytest.mark.parametrize("long_text", ["truncate", "chunk"])
def test_steps_of_long_texts_are_bounded(batches, long_text):
    texts = [" ".join(["the", "cat", "sat", "on", "mat"] * 30) + f" {i}" for i in range(40)]
    embedder = tuning.embedder("bert", long_text=long_text)
    limit = embedder.fit(texts)._load().limit
    find_learning_rate(_classifier(embedder), texts, np.arange(40) % 2, n_steps=10)
    assert max(len(batch) for batch in batches) == 16
    assert all(len(items) == 1 for batch in batches for items in batch)
    assert max(item.length for batch in batches for (item,) in batch) == min(limit, 66)


def test_a_prompt_does_not_take_the_place_of_the_text(batches):
    texts = [" ".join(["the", "cat", "sat"] * 30)] * 20
    embedder = tuning.embedder("bert", prompt="a dog and the moon " * 4)
    limit = embedder.fit(texts)._load().limit
    find_learning_rate(_classifier(embedder), texts, np.arange(20) % 2, n_steps=10)
    assert max(item.length for batch in batches for (item,) in batch) > min(limit - 1, 66)


def test_a_shorter_limit_of_the_user_is_kept(batches):
    texts = ["the cat sat on the mat and the dog sat on the cat"] * 20
    find_learning_rate(_classifier(tuning.embedder("bert", max_length=5)), texts, np.arange(20) % 2, n_steps=10)
    assert max(item.length for batch in batches for (item,) in batch) == 5


def test_a_small_batch_size_of_the_user_is_kept(batches):
    find_learning_rate(_classifier(batch_size=4), X, Y, n_steps=10)
    assert max(len(batch) for batch in batches) == 4


def test_few_of_many_samples_are_embedded():
    many = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    cache = EmbeddingCache()
    find_learning_rate(_classifier(ArrayEmbedder(cache=cache)), many, (many[:, 0] > 0).astype(int), n_steps=10)
    assert 0 < cache.info().entries <= 512


def test_rates_double_until_the_loss_changes():
    curve = find_learning_rate(_classifier(optimization__backbone_factor=1.0), X, Y)
    ratios = curve.rates[1:] / curve.rates[:-1]
    grid = 10 ** (6 / 79)
    coarse = int(np.argmax(ratios < 1.2 * grid))
    assert 3 <= coarse < len(ratios) - 10
    assert np.all((ratios[:coarse] > 1.5) & (ratios[:coarse] <= 2))
    np.testing.assert_allclose(ratios[coarse:], grid, rtol=1e-6)
    assert abs(curve.losses[coarse - 1] - np.log(2)) < 0.02 < abs(curve.losses.min() - np.log(2))


def test_a_coarse_grid_is_tried_as_it_is_given():
    curve = find_learning_rate(_classifier(), X, Y, low=1e-5, high=1e-2, n_steps=10)
    np.testing.assert_allclose(curve.rates, np.geomspace(1e-5, 1e-2, 10))


def test_differences_between_batches_of_numbers_are_not_in_the_curve():
    numbers = np.exp(2 * np.random.default_rng(0).normal(size=60)) * np.sign(X[:, 0])
    regressor = FineTuneRegressor(ArrayEmbedder(precision="float32"), strategy="full", random_state=0)
    curve = find_learning_rate(regressor, X, numbers)
    np.testing.assert_allclose(curve.losses[curve.rates < 1e-4], curve.losses[0], rtol=0.01)


@pytest.mark.parametrize("verbose", [True, False])
def test_progress_is_shown_where_it_is_asked_for(monkeypatch, verbose):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    find_learning_rate(_classifier(verbose=verbose), X, Y, n_steps=10)
    assert ("find_learning_rate" in stream.getvalue() and "ArrayEmbedder" in stream.getvalue()) == verbose
    assert not progress.is_showing()


def test_an_interrupt_leaves_everything_as_it_was(monkeypatch):
    embedder = ArrayEmbedder(precision="float32", cache=None).fit(X)
    before, state = embedder.transform(X), torch.get_rng_state()
    step, classifier = loop.Epoch.step, _classifier(embedder, verbose=1)
    parameters, n_done = repr(classifier.get_params()), []

    def interrupted(self, batch, rng):
        n_done.append(1)
        if len(n_done) == 5:
            raise KeyboardInterrupt
        return step(self, batch, rng)

    monkeypatch.setattr(loop.Epoch, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_learning_rate(classifier, X, Y)
    assert torch.equal(torch.get_rng_state(), state)
    assert not progress.is_showing()
    assert repr(classifier.get_params()) == parameters
    assert not hasattr(classifier, "embedder_")
    np.testing.assert_array_equal(embedder.transform(X), before)
