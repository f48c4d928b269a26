"""Attention over texts end to end, against torch's own on one text at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from skembed.backbones import ragged
from skembed.backbones.ragged import Ragged

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
    torch.testing.assert_close(Ragged(lengths).attend(*rows, scale=scale), _alone(rows, lengths, scale))


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_in_other_precisions(lengths, dtype, tolerance):
    rows = _rows(lengths, dtype)
    found = Ragged(lengths).attend(*rows)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), _alone([x.double() for x in rows], lengths), atol=tolerance, rtol=tolerance
    )


@EACH
def test_texts_in_several_buckets(monkeypatch, lengths):
    """Thirty tokens at a time, and longer texts each alone."""
    monkeypatch.setattr(ragged, "_BYTES", 30 * HEADS * WIDTH * 8)
    rows = _rows(lengths)
    torch.testing.assert_close(Ragged(lengths).attend(*rows), _alone(rows, lengths))


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("n_more", [0, 5])
def test_gradients(lengths, dtype, tolerance, n_more):
    """A text that only fills up a bucket must add nothing to the gradient of the one that it repeats."""
    plain = _rows(lengths, dtype, grad=True)
    more = torch.full((n_more, HEADS, WIDTH), torch.nan, dtype=dtype)
    rows = [torch.cat([states.detach(), more]).requires_grad_() for states in plain]
    weights = torch.linspace(-1, 1, rows[0].numel(), dtype=dtype).view_as(rows[0])
    (Ragged(lengths).attend(*rows) * weights).sum().backward()
    (_alone(plain, lengths) * weights[: sum(lengths)]).sum().backward()
    for found, expected in zip(rows, plain, strict=True):
        torch.testing.assert_close(found.grad[: sum(lengths)], expected.grad, atol=tolerance, rtol=tolerance)
        assert not found.grad[sum(lengths) :].any()


def test_rows_behind_the_texts_are_ignored():
    lengths = [9, 8, 8, 7, 2, 1]
    rows = _rows(lengths)
    longer = [torch.cat([states, torch.full((3, HEADS, WIDTH), torch.nan, dtype=states.dtype)]) for states in rows]
    for grad in (False, True):
        found = Ragged(lengths).attend(*(states.requires_grad_(grad) for states in longer)).detach()
        torch.testing.assert_close(found[:-3], _alone(rows, lengths))
        assert not found[-3:].any()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_of_them_may_need_no_gradient(which):
    lengths = [9, 8, 8, 7, 2, 1]
    rows, plain = _rows(lengths), _rows(lengths)
    for states in (rows, plain):
        states[which].requires_grad_(True)
    Ragged(lengths).attend(*rows).square().sum().backward()
    _alone(plain, lengths).square().sum().backward()
    torch.testing.assert_close(rows[which].grad, plain[which].grad)
    assert [states.grad is None for states in rows] == [i != which for i in range(3)]


def test_gradients_in_half_precision():
    lengths = [9, 8, 8, 7, 2, 1]
    rows, plain = _rows(lengths, torch.bfloat16, grad=True), _rows(lengths, torch.bfloat16)
    plain = [states.double().requires_grad_(True) for states in plain]
    Ragged(lengths).attend(*rows).sum().backward()
    _alone(plain, lengths).sum().backward()
    for found, expected in zip(rows, plain, strict=True):
        assert found.grad.dtype == torch.bfloat16
        torch.testing.assert_close(found.grad.double(), expected.grad, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("lengths", [[9, 8, 8, 7], [200, 200]], ids=str)
def test_dropout_drops_weights_and_scales_the_rest(lengths):
    torch.manual_seed(0)
    query, key, value = _rows(lengths, torch.float32, grad=True)
    sums = torch.stack([Ragged(lengths).attend(query, key, value * 0 + 1, p_dropout=0.25) for _ in range(300)])
    # With values of one, what remains of weights that sum to one.
    assert sums.std(0).min() > 0.01
    torch.testing.assert_close(sums.mean(0), torch.ones_like(query), atol=0.1, rtol=0)


def test_queries_are_not_written_to():
    rows = _rows([8, 8, 5])
    before = [states.clone() for states in rows]
    Ragged([8, 8, 5]).attend(*rows)
    assert all(torch.equal(a, b) for a, b in zip(rows, before, strict=True))


def test_buckets_have_few_shapes(monkeypatch):
    """oneDNN keeps a kernel for each: a shape for each length and count lets memory grow with every batch."""
    seen = set()
    make = ragged._make_bucket

    def spying(*arguments):
        bucket = make(*arguments)
        seen.add(bucket.shape)
        return bucket

    monkeypatch.setattr(ragged, "_make_bucket", spying)
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(32 * 64, 12, 32, dtype=torch.bfloat16)
    for _ in range(60):
        lengths = torch.randint(2, 65, (32,), generator=generator).sort(descending=True)[0].tolist()
        states = rows[: sum(lengths)]
        Ragged(lengths).attend(states, states, states)
    assert len(seen) <= 6 * 9


def test_counts_are_rounded_to_two_an_octave():
    rounded = sorted({ragged._round_count(n) for n in range(1, 65)})
    assert rounded == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(n <= ragged._round_count(n) <= 1.5 * n for n in range(1, 65))
