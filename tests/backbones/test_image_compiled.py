"""OpenVINO as an engine: the same layers, and errors that say what is missing."""

from __future__ import annotations

import pickle
import sys

import pytest
import torch

from skembed.backbones.accelerate.linear import multiply_by_onednn
from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from tests.backbones.test_image_speedups import _assert_same, _batch, _run, directory

__all__ = ["directory"]


def _compiled(directory):
    backbone = open_spec(BackboneSpec("image", str(directory), options=(("engine", "openvino"),)))
    # As every network that is loaded for a processor; compilers do not know these operations.
    multiply_by_onednn(backbone.module.requires_grad_(False))
    return backbone


def test_engines_that_are_not_there(directory, monkeypatch):
    spec = BackboneSpec("image", str(directory("timm_vit")), options=(("engine", "onnx"),))
    with pytest.raises(ValueError, match="engine='onnx' is unknown"):
        open_spec(spec)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"pip install skembed\[compiled\]"):
        _compiled(directory("hf_vit"))


@pytest.mark.parametrize("family", ["timm_efficientnet", "timm_vit", "timm_swin", "hf_resnet", "hf_dinov2"])
def test_openvino_has_the_same_layers(directory, family):
    pytest.importorskip("openvino")
    backbone = _compiled(directory(family))
    expected = _run(backbone, torch.no_grad)
    _assert_same(_run(backbone), expected)
    batch = _batch(backbone, 3)
    with torch.inference_mode():
        (last,) = backbone.forward_blocks(batch, [len(backbone.blocks) - 1])  # another size, other outputs
        few = backbone.forward_blocks(batch, [1, 0])
    torch.testing.assert_close(last.values[:2], expected[len(backbone.blocks) - 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(few[0].values[:2], expected[1], atol=1e-4, rtol=1e-4)
    if backbone.default_pooling == "pooled":
        torch.testing.assert_close(last.pooled[:2], expected[-1], atol=1e-4, rtol=1e-4)


def test_openvino_follows_the_precision(directory):
    pytest.importorskip("openvino")
    backbone = _compiled(directory("timm_resnet"))
    before = _run(backbone)
    backbone.module.to(torch.bfloat16)
    rows = _run(backbone)[-1]
    assert rows.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rows, before[-1]).min() > 0.999
    backbone.module.to(torch.float16)
    with pytest.raises(ValueError, match=r"does not support torch\.float16"):
        _run(backbone)
    _assert_same(_run(pickle.loads(pickle.dumps(_compiled(directory("timm_resnet"))))), before)


def test_a_network_that_openvino_cannot_run(directory, monkeypatch):
    pytest.importorskip("openvino")
    from skembed.backbones.accelerate import openvino as compiled

    def refuse(*_):
        raise RuntimeError("no such operation")

    backbone = _compiled(directory("timm_vit"))
    monkeypatch.setattr(compiled, "_from_torch", refuse)
    with pytest.raises(ValueError, match=r"cannot run this network: no such operation.*engine=.torch"):
        _run(backbone)
