"""Defaults that sentence-transformers stores for a whole model: prompts, their place in the pooling, and a cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from skembed import EmbeddingCache, FineTuneClassifier, TextEmbedder
from skembed.augment.tokens import TokenDropout
from skembed.backbones.base import TextOptions
from skembed.backbones.loading.load import loaded
from skembed.backbones.models.text_transformers import open_backbone
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights.files import fingerprint_directory
from skembed.exceptions import BackboneReadError
from skembed.inference.pooling import pool
from tests.backbones import tiny, tiny_texts

TEXTS = ["cat", "the moon rose again and again over the lazy dog", "", "on the mat by a river"]
PROMPT = "the fox and "
DEFAULTS = {"prompts": {"query": PROMPT, "document": "a "}, "default_prompt_name": "query"}
#: Packed and padded networks, with special tokens on both sides, behind, and none.
FAMILIES = ("bert", "t5_encoder", "gpt2")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Build a family's directory once per module."""
    built: dict[str, Path] = {}

    def original(family: str) -> Path:
        if family not in built:
            built[family] = tmp_path_factory.mktemp(family)
            (tiny_texts.bert if family == "bert" else tiny.BUILDERS[family])(built[family])
        return built[family]

    return original


@pytest.fixture
def make(originals, tmp_path):
    """Return a function that writes a sentence-transformers directory with certain settings."""

    def write(defaults=None, pooling=None, settings=None, family="bert", normalize=True) -> Path:
        directory = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(originals(family), directory)
        modules = {"Pooling": "1_Pooling"} | ({"Normalize": "2_Normalize"} if normalize else {})
        tiny_texts.sentence_layout(directory, modules, {"pooling_mode": "mean", **(pooling or {})}, settings)
        if defaults is not None:
            (directory / "config_sentence_transformers.json").write_text(json.dumps(defaults))
        return directory

    yield write
    loaded.clear()


def _rows(directory: Path, texts=TEXTS, **parameters) -> np.ndarray:
    settings = {"device": "cpu", "precision": "float32", "cache": None, **parameters}
    return TextEmbedder(str(directory), **settings).fit(texts).transform(texts)


def _positions(directory: Path, text: str) -> np.ndarray:
    """What the network returns for each token of a text, by transformers' own calls."""
    cls = tf.T5EncoderModel if "T5" in (directory / "config.json").read_text() else tf.AutoModel
    tokenizer, module = tf.AutoTokenizer.from_pretrained(directory), cls.from_pretrained(directory).eval()
    with torch.no_grad():
        ids = tokenizer(text, return_tensors="pt", truncation=False, padding=False)["input_ids"]
        return module(input_ids=ids).last_hidden_state[0].numpy() if ids.numel() else np.zeros((0, 16))


# -- prompts ----------------------------------------------------------------------------------------------


def test_the_default_prompt_is_put_before_every_text(make):
    directory = make(DEFAULTS)
    embedder = TextEmbedder(str(directory), device="cpu", cache=None).fit(TEXTS)
    assert embedder.prompt_ == PROMPT
    np.testing.assert_array_equal(_rows(directory), _rows(make(), prompt=PROMPT))


@pytest.mark.parametrize("prompt", ["", "a dog "])
def test_the_users_prompt_wins(make, prompt):
    np.testing.assert_array_equal(_rows(make(DEFAULTS), prompt=prompt), _rows(make(), prompt=prompt))


@pytest.mark.parametrize(
    "defaults",
    [
        {"prompts": {"query": PROMPT}, "default_prompt_name": None},
        {"prompts": {"query": PROMPT}},
        {"prompts": {"query": None}, "default_prompt_name": "query"},
        {"default_prompt_name": "document"},
        {"__version__": {"sentence_transformers": "2.0.0"}},
    ],
    ids=str,
)
def test_prompts_without_a_default_change_nothing(make, defaults):
    np.testing.assert_array_equal(_rows(make(defaults)), _rows(make()))


def test_defaults_beside_no_list_of_modules_are_ignored(make):
    directory = make(DEFAULTS)
    (directory / "modules.json").unlink()
    assert TextEmbedder(str(directory), device="cpu", cache=None).fit(TEXTS).prompt_ == ""


def test_a_prompt_is_lower_cased_with_the_text(make):
    settings = {"do_lower_case": True}
    np.testing.assert_array_equal(
        _rows(make(settings=settings), prompt="The FOX and "), _rows(make(settings=settings), prompt=PROMPT)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["mean", "max", "cls", "lasttoken"])
def test_a_prompt_that_is_left_out_of_the_pooling_is_read_only(make, family, mode):
    directory = make(DEFAULTS, {"pooling_mode": mode, "include_prompt": False}, family=family, normalize=False)
    # Special tokens before a text count with its prompt, those behind it with the text.
    n_behind = {"bert": 1, "t5_encoder": 1, "gpt2": 0}[family]
    n_prompt = len(_positions(directory, PROMPT)) - n_behind
    pools = {
        "mean": lambda x: x.mean(0),
        "max": lambda x: x.max(0),
        "cls": lambda x: x[0],
        "lasttoken": lambda x: x[-1],
    }
    texts = TEXTS if n_behind else [text for text in TEXTS if text]
    expected = [pools[mode](_positions(directory, PROMPT + text)[n_prompt:]) for text in texts]
    np.testing.assert_allclose(_rows(directory, texts), expected, atol=1e-5)


def test_a_text_of_nothing_but_an_unpooled_prompt_is_a_row_of_zeros(make):
    for mode in ("mean", "max", "lasttoken"):
        directory = make(DEFAULTS, {"pooling_mode": mode, "include_prompt": False}, family="gpt2")
        assert not _rows(directory, ["", "a cat"])[0].any()


def test_windows_leave_out_their_part_of_a_prompt(make):
    directory = make(None, {"include_prompt": False}, normalize=False)
    prompt, text = "the cat sat on the mat and looked at the moon ", "a lazy dog jumps over the quick fox"
    tokenizer = tf.AutoTokenizer.from_pretrained(directory)
    ids, n_prompt = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt + text, prompt))
    backbone = open_backbone(BackboneSpec("text", str(directory)), directory, "0")
    options = TextOptions(max_length=8, long_text="chunk", prompt=prompt, pool_prompt=False)
    (windows,) = backbone.preprocess([text], options)
    with torch.inference_mode():
        (tokens,) = backbone.forward_blocks(backbone.collate(windows), [3])
    pooled = [window.data["ids"][read[: window.length]] for window, read in zip(windows, tokens.mask, strict=True)]
    assert 1 < len(windows) < -(-len(ids) // 6)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert [token for token in np.concatenate(pooled) if token not in special] == ids[len(n_prompt) :]
    assert pooled[0].tolist()[0] == ids[len(n_prompt)]


def test_unpooled_prompts_survive_a_cut_between_blocks(make):
    """Replayed activations know which of their positions are the prompt's."""
    directory = make(DEFAULTS, {"include_prompt": False})
    backbone = open_backbone(BackboneSpec("text", str(directory)), directory, "0")
    items = [windows[0] for windows in backbone.preprocess(TEXTS, TextOptions(prompt=PROMPT, pool_prompt=False))]
    batch = backbone.collate(items)
    with torch.inference_mode():
        (whole,) = backbone.forward_blocks(batch, [3])
        (behind,) = backbone.advance(items, batch, [1])
        (resumed,) = backbone.forward_blocks(backbone.collate(behind), [3])
    np.testing.assert_allclose(pool(resumed, "mean"), pool(whole, "mean"), atol=1e-6)


def test_a_fine_tuned_network_reads_as_the_embedder_does(make):
    """One step with a learning rate of next to nothing leaves the probe's predictions as they are."""
    X, y = [*TEXTS, *(f"{text} sat" for text in TEXTS)] * 2, [0, 1] * 8
    directory = make({**DEFAULTS, "truncate_dim": 5}, {"include_prompt": False})
    settings = {"strategy": "full", "learning_rate": 1e-12, "random_state": 0, "validation_fraction": None}
    embedder = TextEmbedder(str(directory), device="cpu", precision="float32", cache=None)
    trained, probe = (
        FineTuneClassifier(embedder, max_epochs=epochs, **settings).fit(X, y).predict_proba(X) for epochs in (1, 0)
    )
    np.testing.assert_allclose(trained, probe, atol=1e-3)


def test_token_dropout_spares_an_unpooled_prompt(make):
    directory = make()
    backbone = open_backbone(BackboneSpec("text", str(directory)), directory, "0")
    ((item,),) = backbone.preprocess(["the moon rose"], TextOptions(prompt=PROMPT, pool_prompt=False))
    n_unpooled = item.data["unpooled"]
    for seed in range(10):
        ids = TokenDropout(rate=0.9).on_item(item, np.random.default_rng(seed), backbone).data["ids"]
        assert ids[:n_unpooled].tolist() == item.data["ids"][:n_unpooled].tolist()
        assert len(ids) < item.length


# -- a cut ------------------------------------------------------------------------------------------------


def test_rows_are_cut_after_the_backbones_own_normalization(make):
    directory = make({"truncate_dim": 5})
    np.testing.assert_allclose(_rows(directory), _rows(make())[:, :5], atol=1e-6)
    embedder = TextEmbedder(str(directory), device="cpu", cache=None).fit(TEXTS)
    assert len(embedder.get_feature_names_out()) == 5


def test_the_users_own_cut_wins(make):
    directory = make({"truncate_dim": 5})
    np.testing.assert_array_equal(_rows(directory, truncate_dim=16), _rows(make()))
    np.testing.assert_array_equal(_rows(directory, truncate_dim=3), _rows(make(), truncate_dim=3))


def test_rows_that_the_user_wants_normalized_have_length_one(make):
    rows = _rows(make({"truncate_dim": 5}), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("parameters", [{"layers": 1}, {"layers": "all"}, {"pooling": "max"}])
def test_other_layers_and_poolings_are_not_cut(make, parameters):
    np.testing.assert_array_equal(_rows(make({"truncate_dim": 5}), **parameters), _rows(make(), **parameters))


def test_a_cut_wider_than_the_row_keeps_all(make):
    np.testing.assert_array_equal(_rows(make({"truncate_dim": 1000})), _rows(make()))


# -- identity ---------------------------------------------------------------------------------------------


def test_a_default_prompt_shares_rows_with_the_same_prompt_written_out(make):
    directory, cache = make(DEFAULTS, {"include_prompt": False}), EmbeddingCache()
    for prompt in (None, PROMPT):
        _rows(directory, cache=cache, prompt=prompt)
    assert cache.info().entries == len(TEXTS)
    _rows(directory, cache=cache, prompt="")
    assert cache.info().entries == 2 * len(TEXTS)


@pytest.mark.parametrize("defaults", [DEFAULTS, {"truncate_dim": 5}])
def test_defaults_that_change_rows_are_part_of_the_fingerprint(make, defaults):
    assert fingerprint_directory(make(defaults)) != fingerprint_directory(make())


def test_recorded_versions_are_not_part_of_the_fingerprint(make):
    assert fingerprint_directory(make({"__version__": {}, "prompts": {"query": PROMPT}})) == fingerprint_directory(
        make()
    )


def test_a_second_process_reads_the_defaults_without_the_network(make, monkeypatch):
    monkeypatch.setattr("skembed.backbones.loading.card._seen", {})
    directory = make({**DEFAULTS, "truncate_dim": 5})
    first = TextEmbedder(str(directory), device="cpu", cache=None).fit(TEXTS)
    monkeypatch.setattr("skembed.backbones.loading.card._seen", {})
    n_loads = loaded.n_loads
    loaded.clear()
    second = TextEmbedder(str(directory), device="cpu", cache=None).fit(TEXTS)
    assert loaded.n_loads == n_loads
    assert (second.prompt_, len(second.get_feature_names_out())) == (first.prompt_, 5) == (PROMPT, 5)


# -- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defaults", "entry"),
    [
        ([1], "holds a list"),
        ({"default_prompt_name": "other"}, "has default_prompt_name='other'"),
        ({"default_prompt_name": 3}, "has default_prompt_name='3'"),
        ({"default_prompt_name": "query", "prompts": ["a"]}, "has prompts="),
        ({"default_prompt_name": "query", "prompts": {"query": 3}}, r"has prompts\.query='3'"),
        ({"truncate_dim": 0}, "has truncate_dim='0'"),
        ({"truncate_dim": -3}, "has truncate_dim='-3'"),
        ({"truncate_dim": "64"}, "has truncate_dim='64'"),
        ({"truncate_dim": True}, "has truncate_dim='True'"),
    ],
    ids=str,
)
def test_impossible_defaults_are_refused_by_the_name_of_the_file(make, defaults, entry):
    with pytest.raises(BackboneReadError, match=rf"config_sentence_transformers\.json {entry}"):
        _rows(make(defaults))
