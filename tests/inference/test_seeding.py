"""Random numbers from a seed of ours, and the user's left as they were."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from skembed.utils.seeding import seeded

_CPU = torch.device("cpu")


def test_as_torch_draws_from_that_seed():
    with seeded(7, _CPU):
        drawn = torch.randn(5)
    assert torch.equal(drawn, torch.randn(5, generator=torch.Generator().manual_seed(7)))


def test_the_users_numbers_go_on_as_if_nothing_was_drawn():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with suppress(ZeroDivisionError), seeded(7, _CPU):
        torch.rand(100)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(4), expected)


def test_no_device_but_its_own_is_seeded(monkeypatch):
    """torch.manual_seed leaves a call for each accelerator there may yet be, at every epoch."""

    def refuse(*_):
        raise AssertionError("all devices were seeded")

    for module in (torch.cuda, torch.xpu, torch.mtia):
        monkeypatch.setattr(module, "manual_seed_all", refuse)
    with seeded(7, _CPU):
        torch.rand(1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    torch.cuda.manual_seed_all(3)
    expected = torch.rand(4, device=device)
    torch.cuda.manual_seed_all(3)
    with seeded(7, device):
        drawn = torch.rand(5, device=device)
    assert torch.equal(drawn, torch.rand(5, device=device, generator=torch.Generator(device).manual_seed(7)))
    assert torch.equal(torch.rand(4, device=device), expected)
