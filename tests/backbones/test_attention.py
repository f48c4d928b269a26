"""Attention by products in the place of torch's, where a network calls torch's itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from skembed.backbones import attention
from skembed.backbones.attention import attention_by_products
from tests.backbones.tiny_images import ALL, opened, samples


@pytest.fixture
def taken(monkeypatch):
    """As on a CPU whose fused attention has no bfloat16 of its own; counts how often products are taken."""
    calls, products = [], attention._by_products
    monkeypatch.setattr(attention, "_has_matrix_units", lambda: False)
    monkeypatch.setattr(attention, "_by_products", lambda *heads: calls.append(1) or products(*heads))
    return calls


def _heads(*shape: int, dtype=torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(dtype) for _ in range(3)]


def _within(heads, weight=None, **asked):
    with torch.inference_mode(), attention_by_products(heads[0] if weight is None else weight):
        return scaled_dot_product_attention(*heads, **asked)


@pytest.mark.parametrize("asked", [{}, {"scale": 0.3}, {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}])
def test_the_same_rows(taken, asked):
    heads = _heads(2, 3, 40, 16)
    found = _within(heads, **asked)
    exact = scaled_dot_product_attention(*(each.double() for each in heads), scale=asked.get("scale"))
    assert len(taken) == 1
    assert cosine_similarity(found.double(), exact, dim=3).min() > 0.9999


@pytest.mark.parametrize(
    "asked",
    [
        {"is_causal": True},
        {"attn_mask": torch.ones(40, 40, dtype=torch.bool).tril()},
        {"attn_mask": torch.zeros(40, 40, dtype=torch.bfloat16).fill_diagonal_(5)},
    ],
)
def test_masks_are_torch_s(taken, asked):
    heads = _heads(2, 3, 40, 16)
    assert torch.equal(_within(heads, **asked), scaled_dot_product_attention(*heads, **asked))
    assert not taken


def test_a_mask_by_position_too(taken):
    heads, mask = _heads(2, 3, 40, 16), torch.ones(40, 40, dtype=torch.bool).tril()
    with torch.inference_mode(), attention_by_products(heads[0]):
        found = scaled_dot_product_attention(*heads, mask)
    assert torch.equal(found, scaled_dot_product_attention(*heads, mask))
    assert not taken


def test_shared_heads_and_three_dimensions_are_torch_s(taken):
    query, key, value = _heads(2, 4, 40, 16)
    _within([query, key[:, :2], value[:, :2]], enable_gqa=True)
    _within(_heads(6, 40, 16))
    assert not taken


def test_nothing_else_is_touched(taken):
    """Other types, and all that comes afterwards."""
    _within(_heads(2, 3, 40, 16, dtype=torch.float32))
    _within(_heads(2, 3, 40, 16), weight=torch.zeros(1))
    with torch.inference_mode():
        scaled_dot_product_attention(*_heads(2, 3, 40, 16))
    assert not taken


def test_matrix_units_have_no_need_of_it(taken, monkeypatch):
    monkeypatch.setattr(attention, "_has_matrix_units", lambda: True)
    _within(_heads(2, 3, 40, 16))
    assert not taken


@pytest.mark.parametrize("family", ["timm_vit", "hf_vit"])
def test_vision_transformers_in_half_precision(tmp_path, taken, family):
    """At inference; while they are trained, torch's own attention has the gradients."""
    ALL[family](tmp_path)
    backbone = opened(tmp_path)
    batch = backbone.collate([windows[0] for windows in backbone.preprocess(samples("image")[:2], None)])
    top = len(backbone.blocks) - 1
    backbone.module.to(torch.bfloat16)
    half = {name: value.to(torch.bfloat16) for name, value in batch.items()}
    (plain,) = backbone.forward_blocks(half, [top])
    assert not taken
    with torch.inference_mode():
        (tokens,) = backbone.forward_blocks(half, [top])
    assert len(taken) == top
    assert cosine_similarity(tokens.values.float(), plain.values.float(), dim=2).min() > 0.999
