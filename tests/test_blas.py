"""One thread for small products: the limit holds while it is wanted, and is gone afterwards."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  its library is another than NumPy's
from threadpoolctl import ThreadpoolController, threadpool_limits

from skembed import FineTuneClassifier
from skembed.finetune import tasks
from skembed.measures import LinearProbe
from skembed.testing import ArrayEmbedder
from skembed.utils.blas import one_blas_thread

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


def test_the_last_of_two_python_threads_leaves_as_many_as_there_were():
    """Each putting back what it found would leave one for good, where the second comes before the first goes."""
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with one_blas_thread():
        thread.start()
        assert inside.wait(10)
    leave.set()
    thread.join()
    assert _threads() == {2}


def test_a_fit_on_few_samples_has_one(monkeypatch):
    """Threads that wait for another product take the processor from the network."""
    probing, leaving_out = [], []
    fit_softmax, residuals = tasks.fit_softmax, LinearProbe._residuals

    def fit(*arguments, **settings):
        probing.append(_threads())
        return fit_softmax(*arguments, **settings)

    def each_residuals(probe, columns):
        for each in residuals(probe, columns):
            leaving_out.append(_threads())
            yield each

    monkeypatch.setattr(tasks, "fit_softmax", fit)
    monkeypatch.setattr(LinearProbe, "_residuals", each_residuals)
    X = np.random.default_rng(0).normal(size=(40, 8))
    FineTuneClassifier(ArrayEmbedder(), strategy="head", max_epochs=1, random_state=0).fit(X, np.arange(40) % 2)
    for seen in (probing, leaving_out):
        assert seen
        assert all(threads == {1} for threads in seen)
    assert _threads() == {2}
