"""Storage of activations: what is stored comes back, within the budget of memory, and boundaries make room in order."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from skembed.backbones.base import Item
from skembed.finetune.activations import MEMORY, ActivationStore

#: A device that answers as a full disk does.
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def _put(store, sample):
    store.put(0, 1, [0], [sample])


def _only(store, index=0):
    ((item,),) = store.get(0, 1, [index])
    return item


def _values():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 5, generator=generator),
        torch.randn(2, 3, generator=generator).to(torch.bfloat16),
        torch.randn(7, generator=generator).to(torch.float16),
        torch.arange(6).reshape(2, 3),
        torch.tensor([True, False, True]),
        torch.tensor(2.5, dtype=torch.float64),
        torch.randn(4, 3, generator=generator).T,
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(5, dtype=np.int64),
        np.array([[1, 2, 3]], dtype=np.uint8),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(8, dtype=np.float32)[1::2],
        7,
        "a word",
        [1, 2],
    ]


def _sample(value, n_windows=1):
    return [Item({"value": value, "window": i}, length=3 + i, truncated=bool(i % 2)) for i in range(n_windows)]


def _assert_same(found, value):
    assert type(found) is type(value)
    if isinstance(value, torch.Tensor):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert torch.equal(found, value)
    elif isinstance(value, np.ndarray):
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
    else:
        assert found == value


@pytest.mark.parametrize("budget", [MEMORY, 150, 0])
def test_what_is_kept_comes_back(budget):
    store, values = ActivationStore(budget), _values()
    store.put(0, 1, range(len(values)), [_sample(value, n_windows=2) for value in values])
    assert not store.missing(0, 1, range(len(values)))
    assert (store.bytes_on_disk > 0) == (budget < MEMORY)
    # In any order, and more than once.
    for index in [*reversed(range(len(values))), 0, 3]:
        (found,) = store.get(0, 1, [index])
        assert [item.length for item in found] == [3, 4]
        assert [item.truncated for item in found] == [False, True]
        assert [item.data["window"] for item in found] == [0, 1]
        for item in found:
            _assert_same(item.data["value"], values[index])


def test_no_more_than_the_budget_is_held_in_memory():
    store = ActivationStore(budget=1000)
    rows = [np.full(25, i, dtype=np.float32) for i in range(30)]
    store.put(0, 1, range(30), [[Item({"values": row}, 1)] for row in rows])
    # Of 100 bytes each, ten fit.
    assert store.nbytes == 1000
    assert store.bytes_on_disk == 20 * 100
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(_only(store, i).data["values"], row)


def test_what_is_written_after_the_first_reading_is_read_too():
    store = ActivationStore(budget=0)
    for i in range(5):
        store.put(0, 1, [i], [[Item({"values": torch.full((4,), float(i))}, 1)]])
        assert [float(item.data["values"][0]) for (item,) in store.get(0, 1, range(i + 1))] == list(range(i + 1))


def test_what_comes_back_may_be_changed_without_changing_what_is_kept():
    store = ActivationStore(budget=0)
    _put(store, [Item({"tensor": torch.ones(3), "array": np.ones(3, dtype=np.float32)}, 1)])
    for value in _only(store).data.values():
        value[:] = 5
    for value in _only(store).data.values():
        assert float(value.sum()) == 3


def test_the_file_goes_away_with_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = ActivationStore(budget=0)
    _put(store, [Item({"values": torch.ones(1000)}, 1)])
    assert store.bytes_on_disk == 4000
    # Unlinked at once: not even a killed process leaves it behind.
    assert list(tmp_path.iterdir()) == []


@needs_full
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_full_disk_is_an_error_when_a_sample_is_stored(monkeypatch, size):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: SIM115
    store = ActivationStore(budget=100)
    store.put(0, 1, [0], [[Item({"values": torch.ones(25)}, 1)]])
    with pytest.raises(OSError, match="No space left"):
        store.put(0, 1, [1], [[Item({"values": torch.ones(size)}, 1)]])


def test_an_empty_array_comes_back():
    store = ActivationStore(budget=0)
    _put(store, [Item({"values": torch.zeros(0, 3), "more": torch.ones(1)}, 0)])
    assert _only(store).data["values"].shape == (0, 3)


def test_an_array_that_was_turned_round_comes_back():
    store = ActivationStore(budget=0)
    _put(store, [Item({"values": np.arange(3.0)[::-1]}, 1)])
    np.testing.assert_array_equal(_only(store).data["values"], [2, 1, 0])


def test_an_array_that_cannot_be_written_comes_back_without_a_warning():
    value = np.arange(3.0)
    value.flags.writeable = False
    store = ActivationStore(budget=0)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _put(store, [Item({"values": value}, 1)])
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(_only(store).data["values"], value)


# -- boundaries -------------------------------------------------------------------------------------------


def _bytes(n_bytes, value=0):
    return [Item({"values": np.full(n_bytes, value, dtype=np.uint8)}, 1)]


def test_views_boundaries_and_positions_are_told_apart():
    store = ActivationStore()
    keys = [(view, boundary, position) for view in (0, 1) for boundary in (-1, 0, 2) for position in (0, 7)]
    for i, (view, boundary, position) in enumerate(keys):
        store.put(view, boundary, [position], [_bytes(3, i)])
    assert store.boundaries == [-1, 0, 2]
    for i, (view, boundary, position) in enumerate(keys):
        ((item,),) = store.get(view, boundary, [position])
        np.testing.assert_array_equal(item.data["values"], [i] * 3)
    assert store.missing(0, 2, [0, 1, 7, 8]) == [1, 8]
    assert store.missing(2, 2, [0]) == [0]
    assert store.missing(0, 1, [0]) == [0]


def test_a_sample_is_stored_once():
    store = ActivationStore(budget=15)
    for value in (1, 2):
        store.put(0, 0, [0, 1], [_bytes(10, value), _bytes(10, value)])
    assert (store.nbytes, store.bytes_on_disk) == (10, 10)
    for (item,) in store.get(0, 0, [0, 1]):
        assert item.data["values"][0] == 1


def test_what_is_not_required_never_goes_to_disk():
    store = ActivationStore(budget=25, boundaries=[1])
    store.put(0, 1, range(5), [_bytes(10)] * 5, required=False)
    store.put(0, 0, range(5), [_bytes(1)] * 5, required=False)
    assert store.missing(0, 1, range(5)) == [2, 3, 4]
    assert store.boundaries == [1], "no stage of the plan resumes at 0"
    assert (store.nbytes, store.bytes_on_disk) == (20, 0)


def test_stages_left_behind_make_room_first_and_then_lower_boundaries():
    store = ActivationStore(budget=60, boundaries=[0, 1, 2, 3])
    for boundary in (3, 2, 1, 0):
        store.put(0, boundary, range(2), [_bytes(5)] * 2, required=False)
    seen = []
    for position in range(2, 9):
        store.put(0, 2, [position], [_bytes(20)])
        seen.append((store.boundaries, store.nbytes, store.bytes_on_disk))
    assert seen == [
        ([0, 1, 2, 3], 60, 0), ([1, 2], 60, 0), ([2], 50, 20), ([2], 50, 40), ([2], 50, 60), ([2], 50, 80),
        ([2], 50, 100),
    ]  # fmt: skip


def test_what_is_not_required_leaves_higher_boundaries_alone():
    store = ActivationStore(budget=30, boundaries=[0, 1, 2])
    store.put(0, 2, [0], [_bytes(10)])
    store.put(0, 0, [0], [_bytes(10)], required=False)
    store.put(0, 1, range(3), [_bytes(10)] * 3, required=False)
    assert store.boundaries == [1, 2]
    assert store.missing(0, 1, range(3)) == [2]
    # It was discarded, and is stored again once a stage requires it.
    store.put(0, 0, [0], [_bytes(1)], required=False)
    assert store.missing(0, 0, [0]) == [0]
    store.put(0, 0, [0], [_bytes(1)])
    assert store.missing(0, 0, [0]) == []


def test_discarding_frees_memory_and_disk(tmp_path):
    store = ActivationStore(budget=10)
    store.put(0, 1, range(3), [_bytes(10)] * 3)
    assert (store.nbytes, store.bytes_on_disk) == (10, 20)
    store.discard(1, 5)
    assert (store.nbytes, store.bytes_on_disk) == (0, 0)
    assert store.missing(0, 1, range(3)) == [0, 1, 2]
