"""Entering a network behind a block: what is above it gives the same, and what is below it is not computed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from skembed.backbones.base import AudioOptions, TextOptions
from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from skembed.testing import array_backbone
from tests.backbones.tiny import BUILDERS, MODALITY, samples

OPTIONS = {"text": TextOptions(), "image": None, "audio": AudioOptions()}
#: Their blocks hand more along than the hidden state.
WITHOUT = {"t5_encoder", "hf_swin"}
#: Tables of relative positions, which every layer reads: they belong to the lowest block and are never skipped.
TABLES = ("rel_embeddings", "encoder.LayerNorm", "rel_attn_embed")


@pytest.fixture(scope="module", params=BUILDERS)
def family(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    BUILDERS[request.param](directory)
    return request.param, directory, MODALITY[request.param]


def _items(backbone, modality):
    items = [windows[0] for windows in backbone.preprocess(samples(modality), OPTIONS[modality])]
    return items if backbone.pads else items[:1]


def _poison(backbone, block):
    """Whatever the blocks up to this one compute from now on is no number."""
    with torch.no_grad():
        for name, parameter in backbone.module.named_parameters():
            below = any(own.owns(name) for own in backbone.blocks[: block + 1])
            if below and not any(table in name for table in TABLES):
                parameter.fill_(float("nan"))


@pytest.mark.parametrize("inference", [False, True])
def test_the_rest_of_the_network_gives_the_same(family, inference):
    name, directory, modality = family
    spec = BackboneSpec(modality, str(directory))
    backbone = open_spec(spec)
    top = len(backbone.blocks) - 1
    items = _items(backbone, modality)
    batch = backbone.collate(items)
    with torch.no_grad():
        (expected,) = backbone.forward_blocks(batch, [top])
    fresh = open_spec(spec)
    fresh.observed = backbone.observed
    for block in range(top):
        with torch.inference_mode() if inference else torch.no_grad():
            if name in WITHOUT:
                with pytest.raises(NotImplementedError):
                    backbone.advance(items, batch, [block])
                continue
            (advanced,) = backbone.advance(items, batch, [block])
        _poison(fresh, block)
        # In another order and with a part of the batch: each item carries its own.
        chosen = [i for i in (2, 0, 4) if i < len(items)]
        with torch.no_grad():
            (found,) = fresh.forward_blocks(fresh.collate([advanced[i] for i in chosen]), [top])
        for row, i in enumerate(chosen):
            real = expected.mask[i]
            size = int(real.sum())
            torch.testing.assert_close(
                found.values[row][:size],
                expected.values[i][real],
                rtol=0,
                atol=1e-4 * float(expected.values.abs().max()),
            )
        if expected.pooled is not None:
            torch.testing.assert_close(found.pooled, expected.pooled[chosen], rtol=1e-3, atol=1e-4)


def test_several_blocks_from_one_run_that_ends_at_the_highest(family):
    name, directory, modality = family
    if name in WITHOUT:
        return
    backbone = open_spec(BackboneSpec(modality, str(directory)))
    items, top = _items(backbone, modality), len(backbone.blocks) - 1
    batch = backbone.collate(items)
    ran = _count_runs(backbone)
    for blocks in ([0], [top - 1], [0, top - 1]):
        with torch.no_grad():
            alone = [backbone.advance(items, batch, [block])[0] for block in blocks]
            ran.clear()
            together = backbone.advance(items, batch, blocks)
        assert ran <= set(range(1, max(*blocks, 1) + 1))
        for found, expected in zip(together, alone, strict=True):
            for item, own in zip(found, expected, strict=True):
                assert item.data["block"] == own.data["block"]
                torch.testing.assert_close(item.data["hidden"], own.data["hidden"], rtol=1e-5, atol=1e-5)


def test_what_lies_above_the_highest_layer_is_not_computed(family):
    _, directory, modality = family
    backbone = open_spec(BackboneSpec(modality, str(directory)))
    items, top = _items(backbone, modality), len(backbone.blocks) - 1
    batch = backbone.collate(items)
    with torch.no_grad():
        expected = backbone.forward_blocks(batch, [*range(top), top])
        ran = _count_runs(backbone)
        for layers in ([top - 1], [0, 1], [0]):
            ran.clear()
            found = backbone.forward_blocks(batch, layers)
            assert ran <= set(range(1, max(*layers, 1) + 1))
            for layer, tokens in zip(layers, found, strict=True):
                torch.testing.assert_close(tokens.values, expected[layer].values, rtol=1e-5, atol=1e-5)
                assert torch.equal(tokens.mask, expected[layer].mask)
        (again,) = backbone.forward_blocks(batch, [top])
    torch.testing.assert_close(again.values, expected[top].values, rtol=1e-5, atol=1e-5)


def test_a_pass_that_ends_early_holds_nothing():
    """The exception that ends it knows its frames, and they the tensors: only the collector would free a cycle."""
    backbone = array_backbone()
    items = [windows[0] for windows in backbone.preprocess([[1.0, 2.0, 3.0, 4.0]] * 2, None)]
    seen = []
    backbone.module.stem.register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            found = backbone.forward_blocks(backbone.collate(items), [1])
        assert len(found) == 1
        assert [reference() for reference in seen] == [None]
    finally:
        gc.enable()


def _count_runs(backbone):
    """The numbers of the blocks whose weights are used from here on."""
    ran = set()
    for number, block in enumerate(backbone.blocks):
        for name, module in backbone.module.named_modules():
            own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
            if number and any(block.owns(key) for key in own) and not any(t in name for t in TABLES):
                module.register_forward_hook(lambda *_, number=number: ran.add(number))
    return ran


def test_gradients_reach_the_blocks_above_and_no_others(family):
    name, directory, modality = family
    if name in WITHOUT:
        return
    backbone = open_spec(BackboneSpec(modality, str(directory)))
    top = len(backbone.blocks) - 1
    items = _items(backbone, modality)
    with torch.no_grad():
        (advanced,) = backbone.advance(items, backbone.collate(items), [top - 1])
    for name, parameter in backbone.module.named_parameters():
        parameter.requires_grad_(not any(table in name for table in TABLES))
    (tokens,) = backbone.forward_blocks(backbone.collate(advanced), [top])
    tokens.values.square().sum().backward()
    reached = {i for i, block in enumerate(backbone.blocks) for name, p in backbone.module.named_parameters()
               if block.owns(name) and p.grad is not None and p.grad.abs().sum() > 0}  # fmt: skip
    assert reached == {top}


def test_the_network_is_left_as_it_was():
    backbone = array_backbone()
    items = [windows[0] for windows in backbone.preprocess([[1.0, 2.0, 3.0, 4.0]] * 2, None)]
    batch = backbone.collate(items)
    with torch.no_grad():
        (before,) = backbone.forward_blocks(batch, [2])
        (advanced,) = backbone.advance(items, batch, [1])
        backbone.forward_blocks(backbone.collate(advanced), [2])
        (after,) = backbone.forward_blocks(batch, [2])
    assert torch.equal(before.values, after.values)
    assert "forward" not in vars(backbone.module.layers[0])
