"""Packed sequences and their attention, against torch's own on one sequence at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from skembed.backbones import packing
from skembed.backbones.packing import Packed, attend

HEADS, WIDTH = 3, 4
#: One text of each; some alike; many alike; unsorted; one of one token; lengths that torch's fused attention takes.
LENGTHS = [[5], [9, 8, 8, 7, 2, 1], [6] * 23, [3, 17, 3, 40, 9], [1], [200, 190, 170, 33, 12], [192, 192]]
EACH = pytest.mark.parametrize("lengths", LENGTHS, ids=str)


def _rows(lengths, dtype=torch.float64, grad=False):
    generator = torch.Generator().manual_seed(0)
    shape = (sum(lengths), HEADS, WIDTH)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(grad) for _ in range(3)]


def _alone(rows, lengths, scale=None):
    parts = []
    for q, k, v in zip(*(states.split(lengths) for states in rows), strict=True):
        q, k, v = (states.transpose(0, 1) for states in (q, k, v))
        parts.append(scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1))
    return torch.cat(parts)


@EACH
@pytest.mark.parametrize("scale", [None, 0.3])
def test_each_text_attends_to_itself_alone(lengths, scale):
    rows = _rows(lengths)
    torch.testing.assert_close(attend(*rows, Packed(lengths), scale=scale), _alone(rows, lengths, scale))


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_in_other_precisions(lengths, dtype, tolerance):
    rows = _rows(lengths, dtype)
    found = attend(*rows, Packed(lengths))
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), _alone([x.double() for x in rows], lengths), atol=tolerance, rtol=tolerance
    )


@EACH
def test_texts_in_several_buckets(monkeypatch, lengths):
    """Thirty tokens at a time, and longer texts each alone."""
    monkeypatch.setattr(packing, "_GROUP_ROWS", 30)
    rows = _rows(lengths)
    torch.testing.assert_close(attend(*rows, Packed(lengths)), _alone(rows, lengths))


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("n_more", [0, 5])
def test_gradients(lengths, dtype, tolerance, n_more):
    """A text that only fills up a bucket must add nothing to the gradient of the one that it repeats."""
    plain = _rows(lengths, dtype, grad=True)
    more = torch.full((n_more, HEADS, WIDTH), torch.nan, dtype=dtype)
    rows = [torch.cat([states.detach(), more]).requires_grad_() for states in plain]
    weights = torch.linspace(-1, 1, rows[0].numel(), dtype=dtype).view_as(rows[0])
    (attend(*rows, Packed(lengths, n_filler=n_more)) * weights).sum().backward()
    (_alone(plain, lengths) * weights[: sum(lengths)]).sum().backward()
    for found, expected in zip(rows, plain, strict=True):
        torch.testing.assert_close(found.grad[: sum(lengths)], expected.grad, atol=tolerance, rtol=tolerance)
        assert not found.grad[sum(lengths) :].any()


def test_rows_behind_the_texts_are_ignored():
    lengths = [9, 8, 8, 7, 2, 1]
    rows = _rows(lengths)
    longer = [torch.cat([states, torch.full((3, HEADS, WIDTH), torch.nan, dtype=states.dtype)]) for states in rows]
    for grad in (False, True):
        found = attend(*(states.requires_grad_(grad) for states in longer), Packed(lengths, n_filler=3)).detach()
        torch.testing.assert_close(found[:-3], _alone(rows, lengths))
        assert not found[-3:].any()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_of_them_may_need_no_gradient(which):
    lengths = [9, 8, 8, 7, 2, 1]
    rows, plain = _rows(lengths), _rows(lengths)
    for states in (rows, plain):
        states[which].requires_grad_(True)
    attend(*rows, Packed(lengths)).square().sum().backward()
    _alone(plain, lengths).square().sum().backward()
    torch.testing.assert_close(rows[which].grad, plain[which].grad)
    assert [states.grad is None for states in rows] == [i != which for i in range(3)]


def test_gradients_in_half_precision():
    lengths = [9, 8, 8, 7, 2, 1]
    rows, plain = _rows(lengths, torch.bfloat16, grad=True), _rows(lengths, torch.bfloat16)
    plain = [states.double().requires_grad_(True) for states in plain]
    attend(*rows, Packed(lengths)).sum().backward()
    _alone(plain, lengths).sum().backward()
    for found, expected in zip(rows, plain, strict=True):
        assert found.grad.dtype == torch.bfloat16
        torch.testing.assert_close(found.grad.double(), expected.grad, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("lengths", [[9, 8, 8, 7], [200, 200]], ids=str)
def test_dropout_drops_weights_and_scales_the_rest(lengths):
    torch.manual_seed(0)
    query, key, value = _rows(lengths, torch.float32, grad=True)
    sums = torch.stack([attend(query, key, value * 0 + 1, Packed(lengths), dropout=0.25) for _ in range(300)])
    # With values of one, what remains of weights that sum to one.
    assert sums.std(0).min() > 0.01
    torch.testing.assert_close(sums.mean(0), torch.ones_like(query), atol=0.1, rtol=0)


def test_queries_are_not_written_to():
    rows = _rows([8, 8, 5])
    before = [states.clone() for states in rows]
    attend(*rows, Packed([8, 8, 5]))
    assert all(torch.equal(a, b) for a, b in zip(rows, before, strict=True))


def test_groups_have_few_shapes():
    """oneDNN keeps a kernel for each: a shape for each length and count lets memory grow with every batch."""
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        lengths = torch.randint(2, 65, (32,), generator=generator).tolist()
        seen |= {group.shape for group in Packed(lengths).groups}
    assert len(seen) <= 6 * 9


def test_counts_are_rounded_to_two_an_octave():
    rounded = sorted({packing._round_count(n) for n in range(1, 65)})
    assert rounded == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(n <= packing._round_count(n) <= 1.5 * n for n in range(1, 65))


# -- places and groups ------------------------------------------------------------------------------------


def rows_of(lengths, width=8, dtype=torch.float32):
    return torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("lengths", [[3, 5, 5, 1], [4, 4], [7], [200, 3, 200, 180]])
def test_joining_undoes_taking_groups(lengths, together, monkeypatch):
    monkeypatch.setattr(packing, "_prefers_one_group", lambda device: together)
    packed, rows = Packed(lengths), rows_of(lengths)
    assert torch.equal(packed.join([group.take(rows) for group in packed.groups]), rows)
    assert not together or len(packed.groups) == 1


def test_sequences_of_one_length_are_not_copied():
    packed, rows = Packed([50, 50, 50]), rows_of([50, 50, 50])
    (group,) = packed.groups
    assert group.mask is None
    assert group.take(rows).data_ptr() == rows.data_ptr()
    # Long sequences stand alone, and short ones on request.
    packed, rows = Packed([200, 170, 190]), rows_of([200, 170, 190])
    assert [group.take(rows).shape[:2] for group in packed.groups] == [(1, 200), (1, 190), (1, 170)]
    assert [group.shape for group in Packed([5, 7, 7, 6], exact=True).groups] == [(2, 7), (1, 6), (1, 5)]
    assert all(group.mask is None for group in Packed([5, 7, 7, 6], exact=True).groups)


def test_padding_is_zeros_behind_the_sequences():
    packed, rows = Packed([2, 3, 1]), rows_of([2, 3, 1])
    values = packed.pad(rows)
    assert packed.mask.tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    assert torch.equal(values[packed.mask], rows)
    assert not values[~packed.mask].any()
    assert torch.equal(packed.unpad(values), rows)


def test_queries_may_be_the_first_rows_of_each_sequence():
    lengths, counts = [9, 40, 8, 7], [3, 5, 8, 1]
    query, key, value = _rows(lengths)
    packed = Packed(lengths)
    found = attend(packed.take_first(query, counts), key, value, packed, queries=packed.first(counts))
    torch.testing.assert_close(found, packed.take_first(_alone([query, key, value], lengths), counts))


# -- products in bfloat16 ---------------------------------------------------------------------------------


@pytest.fixture
def without_matrix_units(monkeypatch):
    """As on a CPU whose fused attention has no bfloat16 of its own; counts how often products are taken."""
    calls, products = [], packing._attend_by_products
    monkeypatch.setattr(packing, "_has_matrix_units", lambda: False)
    monkeypatch.setattr(packing, "_attend_by_products", lambda *heads: calls.append(1) or products(*heads))
    return calls


@pytest.mark.parametrize("scores", [10**7, 50_000])
def test_attention_by_products_is_attention(without_matrix_units, monkeypatch, scores):
    monkeypatch.setattr(packing, "_SCORES", scores)
    lengths = [330, 150, 150, 20]
    rows = [rows_of(lengths, 48, torch.bfloat16).unflatten(1, (2, -1)) * scale for scale in (1.0, 2.0, 0.5)]
    found = attend(*rows, Packed(lengths)).flatten(1).float()
    # 330, both of 150 together and padded, and 20.
    assert len(without_matrix_units) == 3
    expected = _alone([states.float() for states in rows], lengths).flatten(1)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=1).min() > 0.9999


def test_gradients_do_not_go_through_products(without_matrix_units):
    rows = _rows([200], torch.bfloat16, grad=True)
    attend(*rows, Packed([200])).sum().backward()
    assert not without_matrix_units
    assert all(states.grad.isfinite().all() for states in rows)
