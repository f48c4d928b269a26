"""Tiny language models beyond those in `tiny`: further families, and details that are easy to get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers as tf
from tokenizers import models, pre_tokenizers, processors, trainers

CORPUS = [
    "a cat sat on the mat and looked at the moon for a while",
    "rates rose again, and again nobody was surprised by it",
    "the quick brown fox jumps over the lazy dog near a river",
    "all the world is a stage; we are players who come and go",
]
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def words(directory: Path, **settings) -> int:
    """WordPiece with BERT's special tokens; returns the size of the vocabulary."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return _save(tokenizer, directory, **names, **settings)


def pieces(directory: Path) -> int:
    """Unigram with T5's end of text and no start."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _save(tokenizer, directory, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def byte_pairs(directory: Path, *, around: bool, **settings) -> int:
    """Byte-level BPE whose special tokens come last, as CLIP and GPT-2 have them."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=310, show_progress=False, initial_alphabet=alphabet)
    # Runs of spaces are tokens of their own, as in vocabularies that were made for code.
    tokenizer.train_from_iterator([*CORPUS, *["and" + " " * 64 + "the"] * 20], trainer)
    tokenizer.add_special_tokens(["<start>", "<end>"])
    if not around:
        return _save(tokenizer, directory, eos_token="<end>", **settings)
    start, end = (tokenizer.token_to_id(token) for token in ("<start>", "<end>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", start), ("<end>", end)]
    )
    settings = {"pad_token": "<end>", **settings}
    return _save(tokenizer, directory, bos_token="<start>", eos_token="<end>", **settings)


def _save(tokenizer, directory: Path, **settings) -> int:
    tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings).save_pretrained(directory)
    return tokenizer.get_vocab_size()


def _network(directory: Path, cls, config, pool: Callable, reload=None, **inputs) -> Callable:
    """Write a network; return a plain loop that reads one text with the libraries' own calls."""
    torch.manual_seed(0)
    module = cls(config).eval()
    with torch.no_grad():
        # Untrained norms and biases are ones and zeros, which would hide one that is left out.
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    module.save_pretrained(directory)
    if reload is not None:
        module = reload.from_pretrained(directory).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(directory)

    def plain(text: str) -> np.ndarray:
        batch = tokenizer(text, return_tensors="pt", **inputs)
        with torch.inference_mode():
            return pool(module(input_ids=batch["input_ids"])).numpy()

    return plain


def _mean(output):
    return output.last_hidden_state[0].mean(0)


def _last(output):
    return output.last_hidden_state[0, -1]


def _pooler(output):
    return output.pooler_output[0]


def distilbert(directory):
    config = tf.DistilBertConfig(vocab_size=words(directory), dim=16, n_layers=3, n_heads=2, hidden_dim=32)
    return _network(directory, tf.DistilBertForSequenceClassification, config, _mean, tf.DistilBertModel)


def electra(directory):
    """Its embeddings are narrower than its layers, with a projection between them."""
    config = tf.ElectraConfig(vocab_size=words(directory), embedding_size=8, **SIZES)
    return _network(directory, tf.ElectraModel, config, _mean)


def mpnet(directory):
    """Registers its relative positions behind the layers that read them."""
    config = tf.MPNetConfig(vocab_size=words(directory), max_position_embeddings=34, pad_token_id=0, **SIZES)
    return _network(directory, tf.MPNetModel, config, _mean)


def modernbert(directory):
    config = tf.ModernBertConfig(
        vocab_size=words(directory), pad_token_id=0, local_attention=8, max_position_embeddings=48, **SIZES
    )
    return _network(directory, tf.ModernBertForMaskedLM, config, _mean, tf.ModernBertModel)


def deberta_v2_with_convolution(directory):
    """The larger v2 models mix neighbours by a convolution between the first layer and the second."""
    config = tf.DebertaV2Config(
        vocab_size=words(directory), relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8,
        norm_rel_ebd="layer_norm", conv_kernel_size=3, conv_act="gelu", type_vocab_size=0,
        max_position_embeddings=64, **SIZES,
    )  # fmt: skip
    return _network(directory, tf.DebertaV2Model, config, _mean)


def mt5(directory):
    config = tf.MT5Config(vocab_size=pieces(directory), d_model=16, d_kv=8, d_ff=32, num_layers=3, num_heads=2)
    return _network(directory, tf.MT5ForConditionalGeneration, config, _mean, tf.MT5EncoderModel)


def qwen2(directory):
    """Its tokenizer pads on the left, as for generation, and never writes the class token that it names."""
    size = byte_pairs(directory, around=False, padding_side="left", pad_token="<end>", cls_token="<start>")
    config = tf.Qwen2Config(vocab_size=size, num_key_value_heads=1, max_position_embeddings=96, **SIZES)
    return _network(directory, tf.Qwen2ForCausalLM, config, _last, tf.Qwen2Model)


def opt(directory):
    size = byte_pairs(directory, around=False)
    config = tf.OPTConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, ffn_dim=32,
        max_position_embeddings=48, word_embed_proj_dim=16, pad_token_id=1,
    )  # fmt: skip
    return _network(directory, tf.OPTForCausalLM, config, _last, tf.OPTModel)


def clip(directory):
    """As published: the padding token is the end of text, the highest id, at which the tower is read."""
    size = byte_pairs(directory, around=True)
    config = tf.CLIPTextConfig(
        vocab_size=size, max_position_embeddings=40, bos_token_id=size - 2, eos_token_id=size - 1, **SIZES
    )
    return _network(directory, tf.CLIPTextModel, config, _pooler)


def siglip(directory):
    """Reads every text padded to 24 tokens, without a mask, at the last of them."""
    size = pieces(directory)
    tower = {**SIZES, "vocab_size": size, "max_position_embeddings": 24, "projection_size": 16}
    config = tf.SiglipConfig(text_config=tower, vision_config={**SIZES, "image_size": 16, "patch_size": 8})
    fixed = {"padding": "max_length", "max_length": 24, "truncation": True}
    return _network(directory, tf.SiglipModel, config, _pooler, tf.SiglipTextModel, **fixed)


FURTHER = {
    "distilbert": distilbert, "electra": electra, "mpnet": mpnet, "modernbert": modernbert,
    "deberta_v2_with_convolution": deberta_v2_with_convolution, "mt5": mt5, "qwen2": qwen2, "opt": opt,
    "clip": clip, "siglip": siglip,
}  # fmt: skip


def bert(directory):
    size = words(directory, model_max_length=48)
    config = tf.BertConfig(vocab_size=size, max_position_embeddings=48, **SIZES)
    return _network(directory, tf.BertForSequenceClassification, config, _mean, tf.BertModel)


def sentence_layout(directory: Path, modules: dict[str, str], pooling: dict, settings: dict | None = None) -> None:
    """The files that sentence-transformers writes beside a network."""
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate({"Transformer": "", **modules}.items())
    ]
    (directory / "modules.json").write_text(json.dumps(listed))
    (directory / "sentence_bert_config.json").write_text(json.dumps(settings or {}))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
