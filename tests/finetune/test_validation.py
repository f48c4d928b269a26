"""What is held out: in proportion, in whole groups, and never all there is of a class."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skembed import FineTuneClassifier, TextEmbedder
from skembed.finetune.validation import hold_out
from tests.backbones import tiny


def _split(y, fraction=0.2, seed=0, **parameters):
    return hold_out(np.asarray(y), fraction, np.random.default_rng(seed), **parameters)


def _assert_sides(train, held_out, n_samples):
    assert sorted([*train, *held_out]) == list(range(n_samples))
    assert list(train) == sorted(train)
    assert list(held_out) == sorted(held_out)
    assert train.dtype.kind == held_out.dtype.kind == "i"


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_classes_are_held_out_in_proportion_and_keep_a_sample(counts, fraction, seed):
    assume(max(counts) > 1)
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    train, held_out = _split(y, fraction, seed)
    _assert_sides(train, held_out, len(y))
    taken = np.bincount(y[held_out], minlength=len(counts))
    assert (taken < counts).all(), "no class loses its last sample"
    quotas = np.minimum(fraction * np.array(counts), np.array(counts) - 1)
    assert (np.abs(taken - quotas) <= 1).all()
    assert 1 <= len(held_out) <= max(1, round(fraction * len(y)))
    if min(counts) * (1 - fraction) >= 1:
        assert len(held_out) == max(1, round(fraction * len(y)))


def test_the_largest_remainders_are_rounded_up():
    # A fifth of 9, 7 and 4 is 1.8, 1.4 and 0.8; four of twenty are wanted.
    y = np.repeat([0, 1, 2], [9, 7, 4])
    for seed in range(5):
        _, held_out = _split(y, 0.2, seed)
        np.testing.assert_array_equal(np.bincount(y[held_out], minlength=3), [2, 1, 1])


def test_a_class_that_can_give_none_takes_no_other_s_place():
    # 0.45 of 5 and of 1 is 2.25 and 0.45; three of six are wanted, and the second has the larger remainder.
    _, held_out = _split([0, 0, 0, 0, 0, 1], 0.45)
    assert len(held_out) == 3
    assert 5 not in held_out


def test_ties_are_broken_by_chance():
    """Ten classes of two, and a tenth of them held out: it is not always the same classes."""
    y = np.repeat(np.arange(10), 2)
    chosen = {tuple(y[_split(y, 0.1, seed)[1]]) for seed in range(30)}
    assert all(len(classes) == 2 for classes in chosen)
    assert len({label for classes in chosen for label in classes}) == 10


def test_which_samples_of_a_class_are_held_out_is_drawn():
    y = np.zeros(50, dtype=int)
    first, again, other = (_split(y, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    counts = np.zeros(50)
    for seed in range(200):
        counts[_split(y, 0.2, seed)[1]] += 1
    # 200 draws of a fifth: 40 of each, give or take 5.7.
    assert (abs(counts - 40) < 5 * 5.7).all()


def test_labels_of_any_kind():
    for y in (["a"] * 10 + ["b"] * 10, np.array([True, False] * 10), np.array(["x", "y"] * 10, dtype=object)):
        train, held_out = _split(y)
        assert (len(train), len(held_out)) == (16, 4)
        assert len(set(np.asarray(y)[held_out].tolist())) == 2


@settings(max_examples=60, deadline=None)
@given(n_samples=st.integers(2, 200), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 100))
def test_numbers_and_labels_are_drawn_alike(n_samples, fraction, seed):
    for y in (np.linspace(0, 1, n_samples), np.ones((n_samples, 3))):
        train, held_out = _split(y, fraction, seed, stratify=False)
        _assert_sides(train, held_out, n_samples)
        assert len(held_out) == min(max(1, round(fraction * n_samples)), n_samples - 1)


def test_none_holds_out_none():
    train, held_out = _split([0, 0, 1], None)
    np.testing.assert_array_equal(train, [0, 1, 2])
    assert len(held_out) == 0
    assert held_out.dtype == train.dtype


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"every class has one sample\. Give X_val and y_val, more samples"):
        _split(["a", "b", "c"])
    with pytest.raises(ValueError, match="n_samples=1 is too few"):
        _split([0.5], stratify=False)


def test_given_samples_that_cannot_be_read_are_left_out(tmp_path):
    tiny.BUILDERS["bert"](tmp_path)
    embedder = TextEmbedder(str(tmp_path), device="cpu", on_error="nan")
    classifier = FineTuneClassifier(embedder, max_epochs=0, random_state=0)
    classifier.fit(
        ["a cat", "the mat", "a dog", "sat on"] * 5, [0, 1, 0, 1] * 5, X_val=["cat", None, "dog"], y_val=[0, 1, 1]
    )
    assert "judged on 2." in classifier.report_
    assert np.isfinite(classifier.probe_score_)


# -- groups -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=6, max_size=25),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 100),
    stratify=st.booleans(),
)
def test_groups_are_never_split(sizes, fraction, seed, stratify):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(len(groups)) % 2) if stratify else rng.normal(size=len(groups))
    # With fewer samples of every class than folds there is a test of its own below.
    assume(not stratify or len(groups) // 2 >= len(sizes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train, held_out = _split(y, fraction, seed, groups=groups, stratify=stratify)
    _assert_sides(train, held_out, len(y))
    assert len(train)
    assert len(held_out)
    assert not set(groups[train]) & set(groups[held_out])


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25, 0.5])
@pytest.mark.parametrize("stratify", [True, False])
def test_about_the_fraction_is_held_out_in_groups(fraction, stratify):
    groups, y = np.repeat(np.arange(40), 5), np.tile([0, 0, 0, 1, 1], 40)
    _, held_out = _split(y, fraction, groups=groups.tolist(), stratify=stratify)
    assert len(held_out) == pytest.approx(200 * fraction, abs=5)
    assert np.mean(y[held_out]) == pytest.approx(0.4)


def test_every_class_stays_in_training_where_groups_allow_it():
    """The third class lives in one group: that one is never held out."""
    groups = np.repeat(np.arange(5), 6)
    for seed in range(20):
        y = np.where(groups == 3, 2, np.random.default_rng(seed).integers(0, 2, size=30))
        train, held_out = _split(y, 0.2, seed, groups=groups)
        assert set(y[train]) == {0, 1, 2}
        assert len(held_out)


def test_groups_are_drawn():
    groups, y = np.repeat(np.arange(20), 2), np.arange(40) % 2
    for stratify in (True, False):
        first, again, other = (_split(y, 0.2, s, groups=groups, stratify=stratify)[1] for s in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert set(first) != set(other)


@pytest.mark.parametrize("y", [
    pytest.param([0, 0, 0, 1, 1, 1], id="no class has five samples"),
    pytest.param([0] * 10 + [1] * 3, id="one class has not"),
])  # fmt: skip
def test_small_classes_in_groups(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, held_out = _split(y, 0.2, groups=np.arange(len(y)))
    assert len(held_out)
    assert set(np.asarray(y)[train]) == {0, 1}


def test_more_than_half_can_be_held_out_in_groups():
    y = np.arange(200) % 2
    _, held_out = _split(y, 0.75, groups=np.repeat(np.arange(50), 4))
    assert len(held_out) == pytest.approx(150, abs=8)


def test_a_group_is_left_to_train_on():
    train, held_out = _split(np.arange(6.0), 0.9, groups=[0, 0, 1, 1, 1, 1], stratify=False)
    assert len(train)
    assert len(held_out)


def test_errors_of_groups_say_what_to_do():
    with pytest.raises(ValueError, match=r"groups has shape \(3,\); \(4,\) was expected"):
        _split([0, 0, 1, 1], groups=[0, 1, 2])
    with pytest.raises(ValueError, match="groups has one group"):
        _split([0, 0, 1, 1], groups=["a"] * 4)
