"""Tables that train by rows, against torch's own optimiser and clipping with dense gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from skembed.finetune import optimizer
from skembed.finetune.optimizer import AdamW, clipping_factor, prefer_sparse_gradients
from tests.finetune import tuning

ROWS, WIDTH = 40, 3
#: Rows come late, come again, come twice in a batch, and stay away for a while; 20 and above never come.
BATCHES = [[0, 1, 2], [1, 1, 7], [12, 0, 1, 1], [3], [7, 19, 2], [5, 5, 5, 0]] * 3


def _net(sparse):
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(ROWS, WIDTH, sparse=sparse), nn.Linear(WIDTH, 2))


def _train(net, optimizer, batches=BATCHES):
    for number, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + number)  # as a schedule does
        optimizer.zero_grad()
        net(torch.tensor(batch)).square().sum().backward()
        optimizer.step()
    return net


def _assert_equal(found, expected):
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_rows_are_updated_as_torch_updates_all(fused):
    sparse, dense = _net(True), _net(False)
    _train(sparse, AdamW(sparse.parameters(), weight_decay=0))
    _train(dense, torch.optim.AdamW(dense.parameters(), weight_decay=0, fused=fused))
    _assert_equal(sparse, dense)


def test_rows_decay_from_the_first_gradient_on():
    start, sparse = _net(True), _net(True)
    optimizer = AdamW(sparse.parameters(), lr=1.0, weight_decay=0.5)
    _train(sparse, optimizer, batches=BATCHES[:4])
    with torch.no_grad():
        assert torch.equal(sparse[0].weight[20:], start[0].weight[20:])
    # Against torch's on the rows that the first batch has.
    dense = _net(False)
    _train(dense, torch.optim.AdamW(dense.parameters(), lr=1.0, weight_decay=0.5), batches=BATCHES[:4])
    torch.testing.assert_close(sparse[0].weight[:3], dense[0].weight[:3])


def test_a_state_that_is_loaded_goes_on_alike():
    sparse, dense = _net(True), _net(False)
    whole = AdamW(sparse.parameters(), weight_decay=0)
    _train(sparse, whole)
    halves = copy.deepcopy(_net(True))
    first = AdamW(halves.parameters(), weight_decay=0)
    _train(halves, first, batches=BATCHES[:7])
    second = AdamW(halves.parameters(), weight_decay=0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number, batch in enumerate(BATCHES[7:], start=7):
        for group in second.param_groups:
            group["lr"] = 0.05 / (1 + number)
        second.zero_grad()
        halves(torch.tensor(batch)).square().sum().backward()
        second.step()
    _assert_equal(halves, sparse)
    _train(dense, torch.optim.AdamW(dense.parameters(), weight_decay=0))
    _assert_equal(halves, dense)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_that_become_dense_go_on_from_the_same_moments(fused):
    """As they do where a penalty on the whole table is added; and back again, where it is taken away."""
    sparse, dense = _net(True), _net(False)
    ours = AdamW(sparse.parameters(), weight_decay=0)
    torchs = torch.optim.AdamW(dense.parameters(), weight_decay=0, fused=fused)
    for becomes_sparse in (False, True):
        for net, each in ((sparse, ours), (dense, torchs)):
            _train(net, each)
            net[0].sparse = becomes_sparse and net is sparse
            _train(net, each)
        _assert_equal(sparse, dense)


def test_only_rows_that_were_met_have_moments():
    """Of a table of many words a few hundred texts use a few."""
    sparse = _net(True)
    optimizer = AdamW(sparse.parameters())
    state = optimizer.state[sparse[0].weight]
    met = set()
    for batch in BATCHES:
        _train(sparse, optimizer, batches=[batch])
        met.update(batch)
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (len(met), WIDTH)


def test_a_penalty_on_all_rows_beside_sparse_gradients():
    found = []
    for sparse in (True, False):
        net = _net(sparse)
        net(torch.tensor([1, 1, 4])).sum().backward()
        net[0].weight.square().sum().backward()
        factor = clipping_factor(net.parameters(), 0.1)
        AdamW(net.parameters(), weight_decay=0).step(factor=factor)
        found.append([*net.parameters(), factor])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("most", [0.05, 1.0, 1e3])
def test_clipping_is_torchs(most):
    """A row that a batch has three times has one gradient, whose norm is not that of its three parts."""
    sparse, dense = _net(True), _net(False)
    ours, torchs = AdamW(sparse.parameters(), weight_decay=0), torch.optim.AdamW(dense.parameters(), weight_decay=0)
    clipped = []
    for number, batch in enumerate(BATCHES):
        for net, each in ((sparse, ours), (dense, torchs)):
            each.param_groups[0]["lr"] = 0.05 / (1 + number)
            each.zero_grad()
            net(torch.tensor(batch)).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(dense.parameters(), most)
        factor = clipping_factor(sparse.parameters(), most)
        clipped.append(factor is not None)
        assert clipped[-1] == bool(norm > most)
        if factor is not None:
            torch.testing.assert_close(factor, most / norm)
        ours.step(factor=factor)
        torchs.step()
    assert any(clipped) == (most < 1e3)
    _assert_equal(sparse, dense)


def test_clipping_passes_over_what_has_no_gradient():
    net = _net(True)
    assert clipping_factor(net.parameters(), 1.0) is None
    assert all(p.grad is None for p in net.parameters())


def test_only_large_tables_have_sparse_gradients(monkeypatch):
    monkeypatch.setattr(optimizer, "_LARGE", ROWS * WIDTH)
    net = nn.ModuleList([nn.Embedding(ROWS, WIDTH), nn.Embedding(ROWS - 1, WIDTH)])
    counted = nn.Embedding(ROWS, WIDTH, scale_grad_by_freq=True)  # of which torch has no sparse gradients
    prefer_sparse_gradients(nn.ModuleList([net, counted]))
    assert [each.sparse for each in net] == [True, False]
    assert not counted.sparse


@pytest.mark.parametrize("l2_sp", [0.0, 0.1])
def test_a_fit_has_the_same_losses(monkeypatch, l2_sp):
    """The words of the held-out texts that no text of training has must be there too, as they were."""
    losses, stepped = {}, []
    original = optimizer._meet
    monkeypatch.setattr(optimizer, "_meet", lambda *arguments: stepped.append(1) or original(*arguments))
    for large in (1, 2**60):
        monkeypatch.setattr(optimizer, "_LARGE", large)
        fitted = tuning.fit("bert", "full", weight_decay=0.0, l2_sp=l2_sp, max_epochs=3)
        losses[large] = [epoch["train_loss"] for epoch in fitted.history_]
        # The penalty has a gradient for all rows.
        assert bool(stepped) is (large == 1 and not l2_sp)
        stepped.clear()
    assert np.allclose(losses[1], losses[2**60], rtol=1e-5)
