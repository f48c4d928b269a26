"""Schedules against the published formulas and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from skembed.schedules import SCHEDULES, constant, cosine, one_cycle, slanted_triangular


def _rates(build, total):
    """What a scheduler of torch's makes of a rate of one."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer)
    rates = []
    for step in range(total):
        if step:
            optimizer.step()
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(("total", "peak", "ratio"), [(10, 0.1, 32), (200, 0.1, 32), (60, 0.25, 4)])
def test_slanted_triangular_is_equation_3_of_ulmfit(total, peak, ratio):
    cut = math.floor(total * peak)
    for step in range(total):
        p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / peak - 1))
        expected = (1 + p * (ratio - 1)) / ratio
        assert slanted_triangular(step, total=total, peak=peak, ratio=ratio) == pytest.approx(expected, abs=1e-12)


def test_slanted_triangular_where_the_peak_falls_between_two_steps():
    """Equation 3 as it is printed falls below its floor there; ours reaches the floor right after the last step."""
    for total in (13, 27, 99):
        factors = [slanted_triangular(step, total=total) for step in range(total + 1)]
        assert factors[total // 10] == 1
        assert factors[total] == pytest.approx(1 / 32)
        assert factors[0] == pytest.approx(1 / 32)


@pytest.mark.parametrize("total", [20, 50, 101])
def test_cosine_after_the_warmup_is_that_of_torch(total):
    rise = math.floor(total * 0.1)
    expected = _rates(lambda o: CosineAnnealingLR(o, T_max=total - rise, eta_min=0.05), total - rise)
    found = [cosine(step, total=total, floor=0.05) for step in range(rise, total)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_cosine_warms_up_in_equal_steps_and_never_trains_at_zero():
    assert [cosine(step, total=40) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert cosine(4, total=40) == 1


@pytest.mark.parametrize("total", [11, 40, 101])
def test_one_cycle_is_that_of_torch(total):
    # torch puts the peak at pct_start * total - 1, we at peak * (total - 1).
    share = (0.3 * (total - 1) + 1) / total
    settings = {"pct_start": share, "div_factor": 25, "final_div_factor": 1 / (25 * 1e-4), "cycle_momentum": False}
    expected = _rates(lambda o: OneCycleLR(o, max_lr=1.0, total_steps=total, **settings), total)
    assert [one_cycle(step, total=total) for step in range(total)] == pytest.approx(expected, abs=1e-9)


def test_constant():
    assert {constant(step, total=7) for step in range(7)} == {1.0}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 33, 250])
def test_factors_are_positive_at_most_one_and_rise_once(name, total):
    factors = [SCHEDULES[name](step, total=total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    if total >= 2:
        # The peak may fall between two steps.
        assert max(factors) > 0.95
    if total >= 10:
        assert top <= 0.3 * total + 1
