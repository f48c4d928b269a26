"""Prefixes and prompts: what a text sees of them does not depend on its neighbours, and what they are refused for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skembed.backbones import attention
from skembed.backbones.adapters import GatedPrefix, PromptedEmbedding, SoftPrompt, attach_prompt
from skembed.backbones.loading.load import load
from skembed.backbones.spec import TunedWeights
from tests.finetune import tuning

TEXTS = ["cat", "the moon rose again and again over the lazy dog", "fit(X, y)", *tuning.TEXTS[:5]]


def _tuned(family, method, **settings):
    """Far from where it began, so that it matters."""
    built = tuning.network(family, method, **settings)
    built.unfreeze(built.depth)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in built.named_parameters():
            if name.startswith("backbone."):
                value.add_(0.5 * torch.randn(value.shape, generator=generator))
    return TunedWeights.of(built.base.spec, built.base.fingerprint, built.changed(), built.added)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm_roberta"])
@pytest.mark.parametrize("method", ["prefix", "prompt", "adapter"])
def test_rows_are_the_same_packed_padded_and_alone(family, method, monkeypatch):
    tuned = _tuned(family, method)
    together = tuning.embedder(family, backbone=tuned, batch_size=8).fit_transform(TEXTS)
    alone = tuning.embedder(family, backbone=tuned, batch_size=1).fit_transform(TEXTS)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    pairs = tuning.embedder(family, backbone=tuned, batch_size=3).fit_transform(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(together, pairs, atol=1e-5)
    calls = []
    plan = attention.plan_packing
    monkeypatch.setattr(
        "skembed.backbones.models.text_transformers.plan_packing", lambda *a: calls.append(plan(*a) is not None)
    )
    padded = tuning.embedder(family, backbone=tuned, batch_size=8).fit_transform(TEXTS)
    assert all(calls), "what is compared was packed before"
    np.testing.assert_allclose(together, padded, atol=1e-5)
    frozen = tuning.embedder(family).fit_transform(TEXTS)
    assert np.abs(together - frozen).max() > 1e-2


def test_a_prefix_is_gated_attention_to_its_keys():
    prefix = GatedPrefix(2, 3, 4)
    with torch.no_grad():
        prefix.gate.copy_(torch.tensor([0.5, -2.0]))
    query = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    found = prefix(query, 0.3)
    for head in range(2):
        weights = torch.softmax(0.3 * query[0, head] @ prefix.keys[head].T, -1)
        expected = prefix.gate[head] * weights @ prefix.values[head]
        torch.testing.assert_close(found[0, :, head], expected)


def test_a_prompt_stands_behind_the_text_and_is_not_pooled():
    tuned = _tuned("bert", "prompt", n_tokens=4)
    embedder = tuning.embedder("bert", backbone=tuned).fit(TEXTS)
    backbone = load(embedder.spec_, torch.device("cpu"), "float32")
    base = load(tuning.embedder("bert").fit(TEXTS).spec_, torch.device("cpu"), "float32")
    size = base.module.get_input_embeddings().num_embeddings
    (((item,),), ((plain,),)) = (b.preprocess([TEXTS[1]], embedder._reading.options) for b in (backbone, base))
    assert item.data["ids"].tolist() == [*plain.data["ids"].tolist(), *range(size, size + 4)]
    with torch.no_grad():
        (tokens,) = backbone.forward_blocks(backbone.collate([item]), [3])
        # By the library's own means: words and prompts as one sequence of vectors.
        module = base.module
        words = module.get_input_embeddings()(torch.from_numpy(plain.data["ids"]))
        vectors = torch.cat([words, tuned.tensors()["embeddings.word_embeddings.added_0.values"]])
        expected = module(inputs_embeds=vectors[None]).last_hidden_state[0, : plain.length]
    assert tokens.mask.tolist() == [[True] * plain.length + [False] * 4]
    torch.testing.assert_close(tokens.values[0, : plain.length], expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(embedder.transform([TEXTS[1]])[0], expected.mean(0), atol=1e-5)


def test_a_prompt_takes_its_places_of_the_longest_text():
    tuned = _tuned("bert", "prompt", n_tokens=6)
    text = "the cat sat on the mat and looked at the moon"
    backbone = load(tuning.embedder("bert", backbone=tuned).fit([text]).spec_, torch.device("cpu"), "float32")
    options = tuning.embedder("bert", max_length=12).fit([text])._reading.options
    ((item,),) = backbone.preprocess([text], options)
    assert (item.length, item.truncated) == (12, True)
    with pytest.raises(ValueError, match=r"no room for text: .* 2 special .* 6 of a trained prompt behind it"):
        tuning.embedder("bert", backbone=tuned, max_length=8).fit_transform([text])


def test_prompts_stand_behind_one_another():
    words = torch.nn.Embedding(5, 2)
    first = attach_prompt(words, "added_0", SoftPrompt(torch.full((3, 2), 7.0)))
    second = attach_prompt(words, "added_1", SoftPrompt(torch.full((2, 2), 9.0)))
    assert (first, second) == (5, 8)
    assert isinstance(words, PromptedEmbedding)
    found = words(torch.tensor([[0, 5, 7, 8, 9, 4]]))[0, :, 0].tolist()
    assert found == [float(words.weight[0, 0]), 7, 7, 9, 9, float(words.weight[4, 0])]


@pytest.mark.parametrize("family", ["timm_resnet", "timm_vit", "llama", "t5_encoder", "wav2vec2"])
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_other_networks_are_refused_before_anything_is_embedded(family, method, monkeypatch):
    monkeypatch.setattr(
        "skembed.embedders.base.BaseEmbedder.transform", lambda *_: pytest.fail("samples were embedded")
    )
    with pytest.raises(ValueError, match=rf"method='{method}' works with .*bert.* not one of them. Use 'lora'"):
        tuning.fit(family, "full", method)
