"""Names of columns: of several layers they say the layer."""

from __future__ import annotations

import numpy as np
import pytest

from skembed.testing import ArrayEmbedder
from tests.finetune import tuning

X = list(np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))


def _names(**parameters):
    return ArrayEmbedder(**parameters).fit(X).get_feature_names_out().tolist()


@pytest.mark.parametrize("layers", [-1, 0, [1]])
def test_one_layer_has_plain_names(layers):
    assert _names(layers=layers) == [f"arrayembedder{i}" for i in range(8)]


@pytest.mark.parametrize(("layers", "resolved"), [([0, -1], [0, 2]), ([-1, 0], [2, 0]), ("all", [0, 1, 2])])
def test_several_layers_are_named(layers, resolved):
    assert _names(layers=layers) == [f"arrayembedder_layer{layer}_{i}" for layer in resolved for i in range(8)]


def test_names_follow_pooling_and_truncation():
    assert _names(layers=[0, -1], truncate_dim=9)[7:] == ["arrayembedder_layer0_7", "arrayembedder_layer2_0"]
    assert len(_names(layers=[0, -1], pooling="mean+max")) == 32
    assert _names(layers=[0, -1], pooling="layer_attention") == [f"arrayembedder{i}" for i in range(8)]


def test_layers_of_different_width_have_as_many_names_as_features():
    images, _ = tuning.samples("timm_resnet")
    embedder = tuning.embedder("timm_resnet", layers="all").fit(images[:1])
    frame = embedder.set_output(transform="pandas").transform(images[:1])
    counts = {}
    for name in frame.columns:
        layer = name.removeprefix("imageembedder_layer").partition("_")[0]
        counts[int(layer)] = counts.get(int(layer), 0) + 1
    widths = {
        i: tuning.embedder("timm_resnet", layers=i).fit(images[:1]).transform(images[:1]).shape[1] for i in counts
    }
    assert counts == widths
    assert len(set(widths.values())) > 1
