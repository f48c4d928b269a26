"""Pooling against plain NumPy on ragged arrays, where no mask can be forgotten."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skembed.backbones.base import Tokens
from skembed.inference.pooling import combine_layers, pool

LENGTHS, WIDTH = (5, 2, 1), 4


@pytest.fixture
def ragged():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, WIDTH)).astype(np.float32) for n in LENGTHS]


def _tokens(ragged, n_prefix=0, pad=1e4):
    """Padded with a value that no result could hide."""
    values = np.full((len(ragged), max(map(len, ragged)), WIDTH), pad, dtype=np.float32)
    mask = np.zeros(values.shape[:2], dtype=bool)
    for i, rows in enumerate(ragged):
        values[i, : len(rows)], mask[i, : len(rows)] = rows, True
    return Tokens(torch.from_numpy(values), torch.from_numpy(mask), n_prefix)


@pytest.mark.parametrize(
    ("pooling", "plain"),
    [
        ("mean", lambda rows: rows.mean(0)),
        ("max", lambda rows: rows.max(0)),
        ("mean+max", lambda rows: np.concatenate([rows.mean(0), rows.max(0)])),
        ("last", lambda rows: rows[-1]),
        ("cls", lambda rows: rows[0]),
    ],
)
@pytest.mark.parametrize("pad", [1e4, -1e4])
def test_padding_is_never_pooled(ragged, pooling, plain, pad):
    pooled = pool(_tokens(ragged, pad=pad), pooling).numpy()
    np.testing.assert_allclose(pooled, [plain(rows) for rows in ragged], rtol=1e-6)


def test_prefix_tokens_are_left_out_of_means(ragged):
    pooled = pool(_tokens(ragged[:2], n_prefix=1), "mean").numpy()
    np.testing.assert_allclose(pooled, [rows[1:].mean(0) for rows in ragged[:2]], rtol=1e-6)


def test_no_real_position_gives_zeros(ragged):
    tokens = _tokens(ragged)
    tokens.mask[1] = False
    for pooling in ("mean", "max"):
        assert not pool(tokens, pooling)[1].any()


def test_half_precision_is_summed_in_float32():
    ones = torch.ones(1, 5000, 1, dtype=torch.bfloat16)
    assert pool(Tokens(ones, torch.ones(1, 5000, dtype=torch.bool)), "mean").item() == 1.0


def test_pooled_prefers_the_networks_own_summary(ragged):
    tokens = _tokens(ragged)
    np.testing.assert_allclose(pool(tokens, "pooled"), pool(tokens, "mean"))
    tokens.n_prefix = 1
    np.testing.assert_allclose(pool(tokens, "pooled"), pool(tokens, "cls"))
    tokens.pooled = torch.full((3, 7), 2.0)
    assert pool(tokens, "pooled").shape == (3, 7)


def test_layer_attention_is_the_paper_s_equation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    combined = combine_layers([torch.from_numpy(a), torch.from_numpy(b)], attention=True).numpy()
    for i in range(3):
        weights = np.exp(np.array([a[i] @ b[i], b[i] @ b[i]]) / np.sqrt(WIDTH))
        weights /= weights.sum()
        np.testing.assert_allclose(combined[i], weights[0] * a[i] + weights[1] * b[i], rtol=1e-5)


def test_layers_side_by_side_may_differ_in_width_but_not_under_attention():
    vectors = [torch.zeros(2, 3), torch.ones(2, 5)]
    assert combine_layers(vectors, attention=False).shape == (2, 8)
    with pytest.raises(ValueError, match=r"\[3, 5\] features"):
        combine_layers(vectors, attention=True)
