"""Directories of language models: what is loaded, what is refused, what sentence-transformers wrote."""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from skembed.backbones.models.sentence_layout import SentenceLayout, read_sentence_layout
from skembed.exceptions import BackboneNotFoundError, SkembedWarning
from skembed.inference.pooling import pool
from tests.backbones import tiny_texts
from tests.backbones.test_text_backbones import LONG, TEXTS, _ids, _items, _open, _run
from tests.backbones.tiny_texts import sentence_layout


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    tiny_texts.bert(directory)
    return directory


@pytest.fixture
def copy(bert, tmp_path):
    """A copy of the tiny BERT's directory, to be spoilt."""
    return shutil.copytree(bert, tmp_path / "copy")


def test_loading_says_nothing_and_leaves_logging_alone(bert, capfd):
    """The classification head of the checkpoint is unexpected, and meant to be."""
    logger = logging.getLogger("transformers")
    level = logger.level
    backbone = _open(bert)
    _items(backbone, [LONG])
    output = capfd.readouterr()
    assert (output.out, output.err, logger.level) == ("", "", level)
    assert not [name for name, _ in backbone.module.named_parameters() if "pooler" in name or "classifier" in name]


def test_missing_and_misshapen_weights_are_refused(copy):
    state = load_file(copy / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    for spoilt in ({k: v for k, v in state.items() if k != name}, {**state, name: torch.zeros(3, 3)}):
        save_file(spoilt, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BackboneNotFoundError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
            _open(copy)


def test_pickled_weights_are_refused(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(BackboneNotFoundError, match=r"pytorch_model\.bin, which can run code"):
        _open(copy)


def test_a_missing_tokenizer_is_refused(copy):
    for path in [*copy.glob("tokenizer*"), *copy.glob("special*")]:
        path.unlink()
    with pytest.raises(BackboneNotFoundError, match=r"tokenizer in .* vocabulary"):
        _open(copy)


def test_networks_that_are_no_text_backbones_are_refused(copy):
    """BART's last hidden state would be its decoder's."""
    small = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tf.BartModel(tf.BartConfig(vocab_size=120, **small, **heads)).save_pretrained(copy)
    with pytest.raises(BackboneNotFoundError, match="'bart' network"):
        _open(copy)


@pytest.mark.parametrize("kind", ["bert", "own"])
def test_code_in_a_directory_is_not_run(copy, monkeypatch, kind):
    """Nor is anybody asked whether it may."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (copy / "own.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": kind, "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (copy / "config.json").write_text(json.dumps(config))
    with nullcontext() if kind == "bert" else pytest.raises(BackboneNotFoundError, match="no configuration"):
        _open(copy)
    assert not (copy / "ran").exists()


def test_a_padding_token_without_an_embedding(tmp_path):
    """Added to many a decoder's tokenizer and never to its network."""
    plain = tiny_texts.qwen2(tmp_path)
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(tmp_path)
    backbone = _open(tmp_path)
    rows = pool(_run(backbone, TEXTS)[0], "last").numpy()
    np.testing.assert_allclose(rows, [plain(text) for text in TEXTS], atol=1e-5)


def test_the_layout_of_sentence_transformers_decides(copy):
    settings = {"max_seq_length": 12, "do_lower_case": True}
    modes = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    sentence_layout(copy, {"Pooling": "1_Pooling", "Normalize": "2_Normalize"}, modes, settings)
    assert read_sentence_layout(copy) == SentenceLayout("cls", True, 12, True)
    backbone = _open(copy)
    assert (backbone.default_pooling, backbone.normalize, backbone.limit) == (
        "cls",
        True,
        12,
    )
    upper, lower = _items(backbone, ["THE CAT", "the cat"])
    assert _ids(upper[0]) == _ids(lower[0])
    # More than it was trained on, but not more than there are positions.
    assert _items(backbone, [LONG], max_length=48)[0][0].length == 48


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "mean+max"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling_modes(tmp_path, config, pooling):
    sentence_layout(tmp_path, {"Pooling": "1_Pooling"}, config)
    assert read_sentence_layout(tmp_path) == SentenceLayout(pooling)


def test_what_is_left_out_is_said(tmp_path):
    sentence_layout(tmp_path, {"Pooling": "1_Pooling", "Dense": "2_Dense"}, {"pooling_mode_mean_tokens": True})
    with pytest.warns(SkembedWarning, match="Dense module, which skembed does not support"):
        assert read_sentence_layout(tmp_path).pooling == "mean"


def test_a_pooling_that_is_not_ours_is_said(tmp_path):
    sentence_layout(tmp_path, {"Pooling": "1_Pooling"}, {"pooling_mode_weightedmean_tokens": True})
    with pytest.warns(SkembedWarning, match="pooling_mode_weightedmean_tokens"):
        assert read_sentence_layout(tmp_path).pooling == "mean"


def test_a_directory_of_another_kind_says_nothing(tmp_path):
    assert read_sentence_layout(tmp_path) == SentenceLayout()


def test_calls_leave_the_tokenizer_as_it_was(copy):
    """Cache keys depend on it, and threads share it."""
    tokenizer = tf.AutoTokenizer.from_pretrained(copy)
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    tokenizer.save_pretrained(copy)
    backbone = _open(copy)
    backend = backbone.tokenizer.backend_tokenizer
    before = backend.to_str()
    texts = [*TEXTS, LONG]
    options = [{"max_length": 12}, {"max_length": 9, "long_text": "chunk"}, {}] * 4
    expected = [[[_ids(i) for i in windows] for windows in _items(backbone, texts, **o)] for o in options]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda o: _items(backbone, texts, **o), options))
    assert [[[_ids(i) for i in windows] for windows in items] for items in found] == expected
    assert max(len(ids) for windows in expected[0] for ids in windows) == 12
    assert backend.to_str() == before
    assert backbone.tokenizer.deprecation_warnings == {}
