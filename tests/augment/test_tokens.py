"""Tokens: special ones are never touched, in any kind of tokenizer, and what comes out runs through the network."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from skembed.augment import TokenDropout, TokenMasking
from skembed.backbones.base import Item, TextOptions
from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from tests.augment.cases import sure, token_backbone, token_item
from tests.backbones import tiny, tiny_texts

RNG = np.random.default_rng
#: Special tokens on both sides, behind, none, and both with one that pads to a length.
KINDS = {"bert": tiny, "mt5": tiny_texts, "qwen2": tiny_texts, "clip": tiny_texts, "siglip": tiny_texts}
NAMES = ["token_masking", "token_dropout"]
TEXTS = ["the cat sat on the mat and looked at the moon", "cat", "", "a quick brown fox " * 20]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A tiny backbone by its family, opened once."""
    built = {}

    def get(name):
        if name not in built:
            directory = tmp_path_factory.mktemp(name)
            getattr(KINDS[name], name)(directory)
            built[name] = open_spec(BackboneSpec("text", str(directory)))
        return built[name]

    return get


@pytest.mark.parametrize(
    ("name", "kind"),
    [("token_dropout", kind) for kind in KINDS] + [("token_masking", kind) for kind in ("bert", "mt5", "siglip")],
)
def test_special_tokens_and_limits_of_real_tokenizers(opened, name, kind):
    backbone, operation = opened(kind), sure(name, rate=0.5)
    prefix, suffix = list(backbone.prefix), list(backbone.suffix)
    items = [item for items in backbone.preprocess(TEXTS, TextOptions(max_length=20)) for item in items]
    touched = 0
    for item in items:
        for seed in range(30):
            new = operation.on_item(item, RNG(seed), backbone)
            old_ids, ids = item.data["ids"].tolist(), new.data["ids"].tolist()
            assert ids[: len(prefix)] == prefix
            assert ids[len(ids) - len(suffix) :] == suffix
            assert new.data["ids"].dtype == np.int64
            assert len(ids) == new.length <= item.length
            assert new.truncated == item.truncated
            assert len(ids) > len(prefix) + len(suffix) or len(ids) == len(old_ids)
            touched += ids != old_ids
    assert touched > 40
    views = [operation.on_item(item, RNG(7), backbone) for item in items]
    tokens = backbone.forward_blocks(backbone.collate(views), [len(backbone.blocks) - 1])[0]
    assert tokens.mask.sum(dim=1).tolist() == [view.length for view in views]
    assert torch.isfinite(tokens.values).all()


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_inside_a_text_are_special_too_and_the_unknown_is_not(name):
    """Somebody wrote [SEP] into a text; and a text may be of unknown words."""
    ids = np.array([2, 10, 3, 11, 4, 1, 0, 12, 3])
    hits = Counter()
    for seed in range(300):
        new = sure(name, rate=0.5).on_item(Item({"ids": ids}, length=9), RNG(seed), token_backbone()).data["ids"]
        left = new.tolist()
        assert Counter(left)[3] == 2
        assert {0, 2}.issubset(left)
        hits.update({10, 11, 12, 1} - set(left))
    assert set(hits) == {10, 11, 12, 1}


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_around_a_text_is_special_whatever_the_tokenizer_calls_it(name):
    """The code of a language before each text, for one."""
    backbone = token_backbone()
    backbone.prefix, backbone.suffix = [50], [60]
    item = Item({"ids": np.array([50, 10, 11, 12, 60])}, length=5)
    for seed in range(60):
        ids = sure(name, rate=0.6).on_item(item, RNG(seed), backbone).data["ids"]
        assert (ids[0], ids[-1]) == (50, 60)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_keeps_a_token_and_an_empty_one_its_filler(name):
    left = Counter()
    for seed in range(800):
        new = sure(name, rate=0.9).on_item(token_item(2), RNG(seed), token_backbone()).data["ids"]
        kept = {10, 11} & set(new.tolist())
        assert kept
        left.update(kept)
    assert min(left.values()) > 0.8 * max(left.values())  # the spared one is drawn
    for ids in ([2, 3], [2, 10, 3]):
        item = Item({"ids": np.array(ids)}, length=len(ids))
        assert sure(name, rate=0.9).on_item(item, RNG(0), token_backbone()) is item


def test_masking_puts_the_mask_at_the_rate_and_nowhere_else():
    ids, operation = token_item().data["ids"], TokenMasking(rate=0.3)
    results = np.stack([operation.on_item(token_item(), RNG(s), token_backbone()).data["ids"] for s in range(200)])
    masked = results == 4
    assert masked.mean(axis=0)[1:-1] == pytest.approx(0.3, abs=0.13)
    assert masked[:, 1:-1].mean() == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(np.where(masked, ids, results), np.tile(ids, (200, 1)))


def test_dropout_leaves_out_at_the_rate_and_keeps_the_order():
    results = [TokenDropout(rate=0.3).on_item(token_item(), RNG(seed), token_backbone()) for seed in range(200)]
    assert np.mean([item.length for item in results]) == pytest.approx(2 + 0.7 * 30, abs=0.5)
    assert all((np.diff(item.data["ids"][1:-1]) > 0).all() for item in results)


@pytest.mark.parametrize(
    ("tokens", "mask"),
    [({}, 4), ({"mask": None}, 1), ({"mask": None, "unk": 3}, None), ({"mask": None, "unk": 5, "eos": 5}, None),
     ({"mask": None, "unk": None}, None), ({"mask": 100}, None), ({"mask": 99}, 99)],
)  # fmt: skip
def test_the_mask_else_the_unknown_unless_it_means_more(tokens, mask):
    """GPT-2's and CLIP's unknown ends the text: CLIP would be read where it stands first."""
    backbone = token_backbone(**tokens)
    if mask is None:
        with pytest.raises(ValueError, match=r"tokenizer of tiny has no token that masks.*Use token_dropout instead"):
            sure("token_masking").on_item(token_item(), RNG(0), backbone)
    else:
        assert mask in sure("token_masking").on_item(token_item(), RNG(0), backbone).data["ids"]


@pytest.mark.parametrize("kind", ["clip", "qwen2"])
def test_tokenizers_without_a_mask_say_so_and_dropout_works(opened, kind):
    backbone = opened(kind)
    item = backbone.preprocess([TEXTS[0]], TextOptions())[0][0]
    with pytest.raises(ValueError, match="Use token_dropout instead"):
        sure("token_masking").on_item(item, RNG(0), backbone)
    assert sure("token_dropout").on_item(item, RNG(0), backbone).length < item.length


def test_a_backbone_of_one_s_own_may_have_no_tokens():
    item = Item({"features": np.zeros(3)}, length=1)
    with pytest.raises(ValueError, match=r"token_dropout changes tokens, and tiny makes no item.data\['ids'\]"):
        sure("token_dropout").on_item(item, RNG(0), token_backbone())
    backbone = token_backbone()
    backbone.tokenizer, backbone.prefix, backbone.suffix = None, (), ()  # ids, but no tokenizer that we know of
    assert sure("token_dropout").on_item(token_item(), RNG(0), backbone).length < 32
