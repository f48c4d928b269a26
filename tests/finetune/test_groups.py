"""Which parameters train, at which rate: each of them once, and no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from skembed.finetune.groups import block_rates, parameter_groups, trainable
from skembed.testing import array_backbone
from tests.backbones import tiny

RATES = {"head_rate": 1e-2, "backbone_rate": 1e-3, "layer_decay": 0.5, "weight_decay": 0.1}


def _names(module, group):
    """Sorted: the order inside a group decides nothing."""
    by_id = {id(value): name for name, value in module.named_parameters()}
    return sorted(by_id[id(value)] for value in group["params"])


@pytest.mark.parametrize(("n_blocks", "rate", "decay"), [(1, 1e-3, 0.5), (5, 2e-4, 0.8), (4, 1.0, 1.0)])
def test_rates_fall_by_the_decay_from_the_top(n_blocks, rate, decay):
    expected = rate * decay ** np.arange(n_blocks)[::-1]
    np.testing.assert_allclose(block_rates(n_blocks, rate=rate, decay=decay), expected, rtol=1e-12)


def test_no_blocks_have_no_rates():
    assert block_rates(0, rate=1e-3, decay=0.5) == []


def test_groups_of_the_double():
    backbone, head = array_backbone(depth=3), nn.Linear(8, 2)
    groups = parameter_groups(backbone.module, backbone.blocks[-2:], head, **RATES)
    found = [(group["name"], group["lr"], group["base_rate"], group["weight_decay"]) for group in groups]
    assert found == [
        ("head", 1e-2, 1e-2, 0.1),
        ("head", 1e-2, 1e-2, 0.0),
        ("layers.2", 1e-3, 1e-3, 0.1),
        ("layers.1", 5e-4, 5e-4, 0.1),
    ]
    assert groups[0]["params"][0] is head.weight
    assert groups[1]["params"][0] is head.bias
    assert [_names(backbone.module, group) for group in groups[2:]] == [["layers.2.weight"], ["layers.1.weight"]]


def test_the_head_alone():
    head = nn.Linear(8, 2)
    groups = parameter_groups(nn.Module(), (), head, **RATES)
    assert {group["name"] for group in groups} == {"head"}
    assert sum(len(group["params"]) for group in groups) == 2


@pytest.mark.parametrize("family", ["timm_resnet", "bert", "timm_vit", "wav2vec2"])
def test_every_parameter_of_the_blocks_is_in_one_group_and_no_other_is(family, tmp_path):
    tiny.BUILDERS[family](tmp_path)
    backbone = open_spec(BackboneSpec(tiny.MODALITY[family], str(tmp_path)))
    module, head = backbone.module, nn.Linear(backbone.width, 2)
    for n_blocks in (1, 2, len(backbone.blocks)):
        blocks = backbone.blocks[-n_blocks:]
        groups = parameter_groups(module, blocks, head, **RATES)
        held = [name for group in groups if group["name"] != "head" for name in _names(module, group)]
        expected = [name for name, _ in module.named_parameters() if any(block.owns(name) for block in blocks)]
        assert sorted(held) == sorted(expected)
        assert sorted(trainable(module, blocks)) == sorted(expected)
        rates = dict(zip([block.name for block in blocks], 1e-3 * 0.5 ** np.arange(n_blocks)[::-1], strict=True))
        for group in groups:
            sizes = {value.ndim > 1 for value in group["params"]}
            assert sizes == {group["weight_decay"] > 0}, "biases and normalisations are not pulled to zero"
            if group["name"] != "head":
                assert group["lr"] == pytest.approx(rates[group["name"]])
        # The highest first, so that rates fall from group to group.
        assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)
    assert len(held) == len(list(module.parameters())), "with all blocks, everything trains"


def test_a_block_owns_whole_names_and_not_their_beginnings():
    """`layers.1` does not own `layers.10`."""
    backbone = array_backbone(depth=12)
    (second,) = [block for block in backbone.blocks if block.name == "layers.1"]
    assert list(trainable(backbone.module, [second])) == ["layers.1.weight"]


def test_the_optimizer_moves_each_group_at_its_rate():
    """The first step of Adam is the rate, whatever the gradient: so the rates can be read off the weights."""
    backbone, head = array_backbone(depth=3), nn.Linear(8, 2)
    before = {name: value.detach().clone() for name, value in backbone.module.named_parameters()}
    groups = parameter_groups(backbone.module, backbone.blocks[-2:], head, **{**RATES, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    sum(p.sum() for p in backbone.module.parameters()).backward()
    optimizer.step()
    moved = {name: float((before[name] - p.detach()).abs().max()) for name, p in backbone.module.named_parameters()}
    assert moved["layers.2.weight"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["layers.1.weight"] == pytest.approx(5e-4, rel=1e-3)
    assert moved["layers.0.weight"] == moved["stem.weight"] == 0
