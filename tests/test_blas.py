"""One thread for small products: the limit holds while it is wanted, and is gone afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  its library is another than NumPy's
from threadpoolctl import ThreadpoolController, threadpool_limits

from skembed import FineTuneClassifier
from skembed._blas import one_blas_thread
from skembed.finetune import tasks
from skembed.measures import LinearProbe
from skembed.testing import ArrayEmbedder

_BLAS = ThreadpoolController().select(user_api="blas")


def _threads() -> set[int]:
    return {each["num_threads"] for each in _BLAS.info()}


@pytest.fixture(autouse=True)
def _several():
    """Two threads to begin with, whatever the machine has."""
    with threadpool_limits(2, user_api="blas"):
        if _threads() != {2}:
            pytest.skip("no BLAS whose threads can be told")
        yield


def test_one_while_it_is_wanted():
    with one_blas_thread():
        with one_blas_thread():
            assert _threads() == {1}
        assert _threads() == {1}
    assert _threads() == {2}


def test_as_many_as_there_are_for_large_products():
    with one_blas_thread(when=False):
        assert _threads() == {2}


def test_gone_after_an_error():
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert _threads() == {2}


def test_a_fit_on_few_samples_has_one(monkeypatch):
    """Threads that wait for another product take the processor from the network."""
    seen: dict[str, set[int]] = {}

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*arguments, **settings):
            seen[name] = _threads()
            return original(*arguments, **settings)

        monkeypatch.setattr(owner, name, watched)

    watch(tasks, "fit_softmax")
    watch(LinearProbe, "_residuals")
    X = np.random.default_rng(0).normal(size=(40, 8))
    FineTuneClassifier(ArrayEmbedder(), strategy="head", max_epochs=1, random_state=0).fit(X, np.arange(40) % 2)
    assert seen == {"fit_softmax": {1}, "_residuals": {1}}
    assert _threads() == {2}
