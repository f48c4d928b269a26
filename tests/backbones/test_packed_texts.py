"""Packed batches against the library underneath, called on one text at a time."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers as tf

from skembed.backbones import attention, packing
from skembed.backbones.base import TextOptions, Tokens
from skembed.backbones.models import text_transformers
from skembed.backbones.models.text_transformers import open_backbone
from skembed.backbones.packing import Packed, attend
from skembed.backbones.spec import POOLINGS, BackboneSpec
from skembed.inference.pooling import pool
from tests.backbones import tiny, tiny_texts

#: Neither sorted nor of one length; two of them share one.
TEXTS = [
    "a cat",
    "the moon rose, and again the lazy dog looked at it for a while",
    "",
    "a dog",
    "on the mat by a river",
    "cat {pad} sat on {pad}",
    "the cat sat on the mat and looked at the moon",
]


def camembert(directory):
    size = tiny_texts.words(directory)
    config = tf.CamembertConfig(
        vocab_size=size, max_position_embeddings=66, pad_token_id=0, type_vocab_size=1, **tiny_texts.SIZES
    )
    return tiny_texts._network(directory, tf.CamembertModel, config, tiny_texts._mean)


BUILDERS = {
    "bert": tiny_texts.bert,
    "camembert": camembert,
    "distilbert": tiny_texts.distilbert,
    "electra": tiny_texts.electra,
    "roberta": tiny.roberta,
    "xlm_roberta": tiny.xlm_roberta,
}
PACKED = pytest.mark.parametrize("name", BUILDERS)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    built = {}

    def get(name):
        if name not in built:
            built[name] = tmp_path_factory.mktemp(name)
            {**BUILDERS, **tiny_texts.FURTHER}[name](built[name])
        return built[name]

    return get


def _open(directory):
    return open_backbone(BackboneSpec("text", str(directory)), directory, "0")


def _texts(backbone):
    # A padding token that somebody wrote has no position of its own in RoBERTa and its kin.
    return [text.format(pad=backbone.tokenizer.pad_token) for text in TEXTS]


def _batch(backbone, texts):
    return backbone.collate([windows[0] for windows in backbone.preprocess(texts, TextOptions())])


def _run(backbone, texts, layers=None):
    with torch.inference_mode():
        return backbone.forward_blocks(_batch(backbone, texts), layers or range(len(backbone.blocks)))


def _alone(directory, texts):
    """The layers of each text, from the library's own tokenizer, network, attention and hidden states."""
    tokenizer = tf.AutoTokenizer.from_pretrained(directory)
    module = tf.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    with torch.inference_mode():
        return [
            module(tokenizer(text, return_tensors="pt")["input_ids"], output_hidden_states=True).hidden_states
            for text in texts
        ]


def _assert_equal(found, alone, atol=1e-5):
    """Every position of every layer, and every pooling, of every text."""
    for layer, tokens in enumerate(found):
        rows = {pooling: pool(tokens, pooling) for pooling in POOLINGS}
        for i, states in enumerate(alone):
            single = Tokens(states[layer], torch.ones(states[layer].shape[:2], dtype=torch.bool))
            torch.testing.assert_close(tokens.values[i][tokens.mask[i]], single.values[0], atol=atol, rtol=0)
            for pooling, row in rows.items():
                torch.testing.assert_close(row[i], pool(single, pooling)[0], atol=atol, rtol=0)


@pytest.fixture
def shapes(monkeypatch):
    """What the networks were run on: the shapes of their input ids."""
    seen = []
    forward = torch.nn.Embedding.forward

    def spying(self, ids):
        seen.append(tuple(ids.shape))
        return forward(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", spying)
    return seen


@PACKED
def test_a_packed_batch_equals_one_text_at_a_time(directories, shapes, name):
    backbone = _open(directories(name))
    texts = _texts(backbone)
    found = _run(backbone, texts)
    total = int(found[0].mask.sum())
    assert shapes[0][0] == 1
    assert total <= shapes[0][1] < 1.04 * total
    assert len(found) == 4
    for tokens in found:
        assert tokens.values.shape == (*tokens.mask.shape, 16)
        assert not tokens.mask.all()
        assert not tokens.values[~tokens.mask].any()
    _assert_equal(found, _alone(directories(name), texts))


@PACKED
def test_only_the_asked_layers_are_returned_in_the_order_asked(directories, name):
    backbone = _open(directories(name))
    every = _run(backbone, TEXTS)
    for layers in ([2], [3, 0], [1, 1]):
        for layer, tokens in zip(layers, _run(backbone, TEXTS, layers), strict=True):
            assert torch.equal(tokens.values, every[layer].values)


@PACKED
def test_texts_that_see_each_other_are_noticed(directories, monkeypatch, name):
    """The mutant: all tokens as one text. The comparison above must not be too coarse for it."""

    def blind(query, key, value, packed, **options):
        return attend(query, key, value, Packed([sum(packed.lengths)], n_filler=packed.n_filler), **options)

    monkeypatch.setattr(attention, "attend", blind)
    backbone = _open(directories(name))
    with pytest.raises(AssertionError):
        _assert_equal(_run(backbone, TEXTS), _alone(directories(name), TEXTS), atol=1e-3)


@PACKED
@pytest.mark.parametrize("texts", [["the moon rose, and again"], [""], ["a cat", "a cat", "a cat"]])
def test_without_padding_a_batch_is_run_as_it_is(directories, shapes, name, texts):
    backbone = _open(directories(name))
    found = _run(backbone, texts)
    assert shapes[0] == tuple(found[0].mask.shape)
    _assert_equal(found, _alone(directories(name), texts))


def test_packed_texts_keep_their_order(directories):
    module = _open(directories("bert")).module
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    packed = attention.plan_packing(module, mask)
    assert packed.lengths == (2, 4, 1, 2)
    assert packed.index.tolist() == [0, 1, 4, 5, 6, 7, 8, 12, 13]
    assert packed.unpad(torch.arange(16).view(4, 4)).tolist() == packed.index.tolist()
    assert torch.equal(packed.mask, mask)


@PACKED
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_most_poolings_and_their_gradients_take_no_padding(directories, monkeypatch, name, pooling):
    backbone = _open(directories(name))
    texts = _texts(backbone)
    module = backbone.module.double().requires_grad_(True)
    monkeypatch.setattr(packing.PackedTokens, "values", property(lambda self: pytest.fail("padded")))
    rows = pool(backbone.forward_blocks(_batch(backbone, texts), [3])[0], pooling)
    weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    (rows * weights).sum().backward()
    plain = tf.AutoModel.from_pretrained(directories(name), attn_implementation="eager").eval().double()
    for row, text, weight in zip(rows, texts, weights, strict=True):
        ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
        states = plain(ids).last_hidden_state[0].float()
        expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
        (expected * weight).sum().backward()
    found, expected = ({key: p.grad for key, p in each.named_parameters()} for each in (module, plain))
    expected = {key: gradient for key, gradient in expected.items() if gradient is not None}
    assert expected.keys() == {key for key, gradient in found.items() if gradient is not None}
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-6, rtol=1e-5)


@PACKED
def test_behind_a_block_the_stem_is_computed_for_one_token(directories, shapes, name):
    backbone = _open(directories(name))
    texts = _texts(backbone)
    items = [windows[0] for windows in backbone.preprocess(texts, TextOptions())]
    with torch.inference_mode():
        (behind,) = backbone.advance(items, backbone.collate(items), [1])
        batch = backbone.collate(behind)
        assert batch["hidden"].shape == (sum(item.length for item in items), backbone.width)
        shapes.clear()
        (found,) = backbone.forward_blocks(batch, [3])
    assert set(shapes) == {(1, 1)}
    for i, states in enumerate(_alone(directories(name), texts)):
        torch.testing.assert_close(found.values[i][found.mask[i]], states[3][0], atol=1e-5, rtol=0)


@PACKED
def test_behind_a_block_without_padding(directories, name):
    backbone = _open(directories(name))
    items = [windows[0] for windows in backbone.preprocess(["a cat", "a cat"], TextOptions())]
    with torch.inference_mode():
        (behind,) = backbone.advance(items, backbone.collate(items), [1])
        (found,) = backbone.forward_blocks(backbone.collate(behind), [3])
    for i, states in enumerate(_alone(directories(name), ["a cat", "a cat"])):
        torch.testing.assert_close(found.values[i], states[3][0], atol=1e-5, rtol=0)


@PACKED
@pytest.mark.parametrize("n_filler", [1, 3, 40])
def test_the_filler_is_seen_by_no_text(directories, shapes, monkeypatch, name, n_filler):
    monkeypatch.setattr(attention, "_round_up", lambda total: total + n_filler)
    backbone = _open(directories(name))
    texts = _texts(backbone)
    found = _run(backbone, texts)
    assert shapes[0] == (1, int(found[0].mask.sum()) + n_filler)
    _assert_equal(found, _alone(directories(name), texts))


@PACKED
def test_gradients_of_a_packed_batch_are_those_of_one_text_at_a_time(directories, name):
    backbone = _open(directories(name))
    texts = _texts(backbone)
    module = backbone.module.double().requires_grad_(True)
    tokens = backbone.forward_blocks(_batch(backbone, texts), [3])[0]
    found = _gradients(module, tokens.values, tokens.mask)
    plain = tf.AutoModel.from_pretrained(directories(name), attn_implementation="eager").eval().double()
    for text in texts:
        ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
        states = plain(ids).last_hidden_state
        expected = _gradients(plain, states, torch.ones(ids.shape))
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-8, rtol=1e-8)


def test_numbers_of_tokens_are_few_and_little_more_than_there_are():
    found = {total: attention._round_up(total) for total in range(1, 4097)}
    assert all(total <= rounded < 1.032 * total for total, rounded in found.items())
    # 32 from one power of two to the next; below 64 each number is its own.
    assert len({rounded for total, rounded in found.items() if 64 < total <= 4096}) == 6 * 32
    assert all(found[total] == total for total in range(1, 64))


@pytest.mark.parametrize(
    "rows",
    [[[0, 1, 1], [1, 1, 1]], [[1, 0, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0]]],
)
def test_what_collate_never_makes_is_not_packed(directories, rows):
    """Padding on the left or inside would be packed in the wrong place; nothing has no group."""
    module = _open(directories("bert")).module
    assert attention.plan_packing(module, torch.tensor(rows).bool()) is None


def test_accelerators_get_padded_batches(directories):
    module = _open(directories("bert")).module
    mask = torch.tensor([[1, 0], [1, 1]]).bool()
    assert attention.plan_packing(module, mask) is not None
    assert attention.plan_packing(module, mask.to("meta")) is None


@pytest.mark.parametrize("name", ["mpnet", "modernbert", "deberta_v2_with_convolution", "mt5", "qwen2", "opt", "clip"])
def test_other_families_are_run_padded(directories, shapes, name):
    found = _run(_open(directories(name)), TEXTS[:2])
    assert shapes[0] == tuple(found[0].mask.shape)


def test_a_causal_bert_is_run_padded(directories, tmp_path):
    tiny_texts.bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    backbone = _open(tmp_path)
    assert backbone.module.config._attn_implementation == "sdpa"
    _assert_equal(_run(backbone, TEXTS), _alone(tmp_path, TEXTS))


@PACKED
def test_an_attention_that_somebody_chose_is_kept(directories, name):
    """It knows nothing of a packing: all texts would look at each other."""
    backbone = _open(directories(name))
    backbone.module.set_attn_implementation("eager")
    texts = _texts(backbone)
    _assert_equal(_run(backbone, texts), _alone(directories(name), texts))


def test_a_packing_that_goes_unheeded_is_an_error(directories, monkeypatch):
    def forgetful(*args, **kwargs):
        return {k: v for k, v in attention.pack_inputs(*args, **kwargs).items() if k != "packing"}

    monkeypatch.setattr(text_transformers, "pack_inputs", forgetful)
    with pytest.raises(RuntimeError, match="does not hand keywords on"):
        _run(_open(directories("bert")), TEXTS)


@PACKED
def test_bfloat16(directories, name):
    backbone = _open(directories(name))
    backbone.module.to(torch.bfloat16)
    (tokens,) = _run(backbone, TEXTS, [3])
    assert tokens.values.dtype == torch.bfloat16
    assert {pool(tokens, pooling).dtype for pooling in POOLINGS} == {torch.float32}
    rows = pool(tokens, "mean")
    expected = torch.stack([states[3][0].mean(0) for states in _alone(directories(name), TEXTS)])
    assert torch.nn.functional.cosine_similarity(rows, expected).min() > 0.999


@PACKED
def test_threads_share_a_network(directories, name):
    """Neither packings nor recorded layers of one thread reach another."""
    backbone = _open(directories(name))
    sets = [TEXTS, TEXTS[:3], TEXTS[::-1][:4], ["a cat", "a dog"]]
    alone = [_run(backbone, texts) for texts in sets]

    def work(which):
        for turn in range(40):
            found = _run(backbone, sets[which])
            for a, b in zip(found, alone[which], strict=True):
                torch.testing.assert_close(a.values, b.values, atol=1e-6, rtol=0)
            if turn % 4 == which:
                # A pass that ends early is this thread's alone.
                (early,) = backbone.forward_blocks(_batch(backbone, sets[which]), [1])
                torch.testing.assert_close(early.values, found[1].values, atol=1e-6, rtol=0)

    with ThreadPoolExecutor(len(sets)) as pool_:
        for done in [pool_.submit(work, which) for which in range(len(sets))]:
            done.result()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in backbone.module.modules())


# -- what fine-tuning does with the network ---------------------------------------------------------------


def _gradients(module, states, mask):
    (states * mask.unsqueeze(-1)).pow(3).sum().backward()
    return {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}


@PACKED
def test_copies_train_on_padded_batches(directories, name):
    backbone = _open(directories(name))
    _run(backbone, TEXTS)
    module = copy.deepcopy(backbone.module).requires_grad_(True)
    batch = _batch(backbone, TEXTS)
    mask = batch["attention_mask"].bool()
    output = module(**batch).last_hidden_state
    for i, states in enumerate(_alone(directories(name), TEXTS)):
        torch.testing.assert_close(output[i][mask[i]], states[-1][0], atol=1e-5, rtol=0)
    plain = tf.AutoModel.from_pretrained(directories(name), attn_implementation="eager").eval()
    # In double precision: what processors round differently must not hide what is wrong.
    plain, module = plain.double(), module.double()
    expected = _gradients(plain, plain(**batch).last_hidden_state, mask)
    found = _gradients(module, module(**batch).last_hidden_state, mask)
    # The reference may have a pooler, which no block owns and nothing here reads.
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-8, rtol=1e-8)
    assert not any(p.requires_grad for p in backbone.module.parameters())
    # With dropout on, as in training.
    module.train()(**batch).last_hidden_state[mask].sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@PACKED
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_a_packed_batch(directories, name, checkpointing):
    backbone = _open(directories(name))
    backbone.module.double().requires_grad_(True)
    batch = _batch(backbone, TEXTS)
    mask = batch["attention_mask"].bool()
    expected = _gradients(backbone.module, backbone.module(**batch).last_hidden_state, mask)
    backbone.module.zero_grad()
    if checkpointing:
        # Layers are run a second time on the way back, when the forward pass is long over.
        backbone.module.gradient_checkpointing_enable()
        for layer in backbone.module.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        backbone.module.train()
    (tokens,) = backbone.forward_blocks(batch, [3])
    found = _gradients(backbone.module, tokens.values, mask)
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-8, rtol=1e-8)


def test_what_is_saved_does_not_know(directories, tmp_path):
    backbone = _open(directories("bert"))
    backbone.module.save_pretrained(tmp_path)
    assert "skembed" not in (tmp_path / "config.json").read_text()
    assert tf.AutoModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_pickled_networks_are_packed_as_before(directories):
    backbone = _open(directories("bert"))
    expected = _run(backbone, TEXTS)
    backbone.module = pickle.loads(pickle.dumps(backbone.module))
    for a, b in zip(_run(backbone, TEXTS), expected, strict=True):
        assert torch.equal(a.values, b.values)
