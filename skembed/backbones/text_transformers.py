"""Language models of transformers: encoders, sentence-transformers directories, T5's encoder, decoders, CLIP's tower."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from skembed.backbones.base import Backbone, BackboneSpec, Item, TextOptions, Tokens
from skembed.backbones.blocks import blocks_from_layers, record_blocks
from skembed.backbones.transformers_loading import layer_names, load_pretrained, quiet
from skembed.backbones.weights import read_json
from skembed.exceptions import SkembedWarning

__all__ = ["TextBackbone", "open_backbone"]

#: Networks whose class is not the one AutoModel would take: only their text side is wanted.
_CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
}
#: Positions are counted from the padding index on, so that many of the position embeddings are never used.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm"}
#: Positions are relative: any length can be read, though none beyond 512 was trained.
_RELATIVE_POSITIONS = {"t5", "mt5", "umt5"}
_DECODERS = {
    "gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text",
    "phi", "phi3", "opt", "bloom", "falcon", "olmo", "olmo2", "stablelm", "smollm3",
}  # fmt: skip
#: More characters than so many a token are not tokenised when a text is cut anyway.
_CHARACTERS_PER_TOKEN = 12


class TextBackbone(Backbone):
    """A language model and its tokenizer."""

    def preprocess(self, samples: Sequence[str], options: TextOptions) -> list[list[Item]]:
        room = self._room(options)
        texts = [options.prompt + text for text in samples]
        if options.long_text == "truncate":
            ids = self._tokenize([_leading(text, room * _CHARACTERS_PER_TOKEN) for text in texts])
            # Cutting by characters is only a short cut: where it left too little, the whole text is read.
            short = [i for i, text in enumerate(texts) if len(ids[i]) <= room and len(text) > room * _CHARACTERS_PER_TOKEN]
            for i, whole in zip(short, self._tokenize([texts[i] for i in short]), strict=True):
                ids[i] = whole
            return [[self._item(tokens[:room], truncated=len(tokens) > room)] for tokens in ids]
        return [
            [self._item(tokens[start : start + room]) for start in range(0, max(len(tokens), 1), room)]
            for tokens in self._tokenize(texts)
        ]

    def _room(self, options: TextOptions) -> int:
        """Tokens of the text itself that fit beside the special ones."""
        limit, hard = self.extra["limit"], self.extra["hard_limit"]
        length = options.max_length or limit
        special = len(self.extra["prefix"]) + len(self.extra["suffix"])
        if hard is not None and length > hard:
            raise ValueError(f"max_length={length} is more than the {hard} positions of {self.spec.name}.")
        if length <= special:
            raise ValueError(f"max_length={length} leaves no room beside {special} special tokens. Use at least {special + 1}.")
        return length - special

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        with quiet():  # about texts longer than the model's limit, which are cut or split here
            return self.extra["tokenizer"](texts, add_special_tokens=False)["input_ids"]

    def _item(self, ids: list[int], truncated: bool = False) -> Item:
        tokens = [*self.extra["prefix"], *ids, *self.extra["suffix"]]
        # Decoders put nothing around a text, and nothing has no embedding: the empty text is one end-of-text token.
        tokens = tokens or [self.extra["filler"]]
        return Item({"ids": tokens}, length=len(tokens), truncated=truncated)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        longest = max(item.length for item in items)
        ids = torch.full((len(items), longest), self.extra["filler"], dtype=torch.int64)
        mask = torch.zeros(len(items), longest, dtype=torch.int64)
        for row, item in enumerate(items):
            ids[row, : item.length] = torch.tensor(item.data["ids"])
            mask[row, : item.length] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        top = len(self.blocks) - 1
        stack = [self.module.get_submodule(name) for name in self.extra["layers"]]
        arguments = {} if self.extra["cacheless"] else {"use_cache": False}
        with record_blocks(stack, layers) as found:
            output = self.module(**batch, **arguments)
        found[top] = output.last_hidden_state
        mask = batch["attention_mask"].bool()
        pooled = output.pooler_output if self.default_pooling == "pooled" else None
        return [Tokens(found[i], mask, pooled=pooled if i == top else None) for i in layers]


def _leading(text: str, characters: int) -> str:
    """The start of a text up to a space, so that no word is cut; all of it where there is no space."""
    if len(text) <= characters:
        return text
    end = max(text.rfind(" ", 0, characters), text.rfind("\n", 0, characters))
    return text[:end] if end > 0 else text


def open_backbone(spec: BackboneSpec, directory: Path, fingerprint: str) -> TextBackbone:
    """Read a language model and its tokenizer from a directory.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity.
    directory : Path
        As `save_pretrained` or sentence-transformers write it.
    fingerprint : str
        Digest of the directory.

    Raises
    ------
    BackboneNotFoundError
        If weights are missing or are no safetensors.
    """
    with quiet():
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if hasattr(tokenizer, "backend_tokenizer"):
        # Some files switch these on; then every call would switch them back and forth.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    module = _load_module(config, directory)
    text_config = getattr(module.config, "text_config", module.config)
    names = layer_names(module, text_config.num_hidden_layers)
    prefix, suffix = _special_tokens(tokenizer)
    layout = _sentence_transformers_layout(directory)
    default = layout.get("pooling") or _own_pooling(config)
    limit, hard = _limits(text_config, tokenizer, layout)
    return TextBackbone(
        spec=spec,
        module=module,
        width=text_config.hidden_size,
        # DeBERTa registers its relative positions behind the layers, which all read them.
        blocks=blocks_from_layers(module, names, stem=("encoder.rel_embeddings", "encoder.LayerNorm")),
        fingerprint=fingerprint,
        default_pooling=default,
        class_token=default not in ("last", "pooled"),
        extra={
            "tokenizer": tokenizer,
            "prefix": prefix,
            "suffix": suffix,
            "filler": _filler(tokenizer),
            "limit": limit,
            "hard_limit": hard,
            "layers": names,
            "normalize": layout.get("normalize", False),
            "cacheless": config.model_type not in _DECODERS,
        },
    )


def _load_module(config, directory: Path):
    name = _CLASSES.get(config.model_type)
    if name is not None:
        return load_pretrained(getattr(transformers, name), directory)
    try:
        # BERT's pooler belongs to its pre-training task; few checkpoints have a useful one.
        return load_pretrained(AutoModel, directory, add_pooling_layer=False)
    except TypeError:
        return load_pretrained(AutoModel, directory)


def _special_tokens(tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    with_them, without = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (True, False))
    start = next(i for i in range(len(with_them) + 1) if with_them[i : i + len(without)] == without)
    return with_them[:start], with_them[start + len(without) :]


def _filler(tokenizer) -> int:
    """A token for padding, which is masked, and for the empty text of decoders."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
    return next(token for token in candidates if token is not None)


def _own_pooling(config) -> str:
    if config.model_type in ("clip", "clip_text_model", "siglip", "siglip_text_model"):
        return "pooled"
    return "last" if config.model_type in _DECODERS else "mean"


def _limits(config, tokenizer, layout: dict[str, Any]) -> tuple[int, int | None]:
    """Tokens read by default, and at most (None: no absolute positions)."""
    hard = getattr(config, "max_position_embeddings", None)
    if hard is not None and config.model_type in _OFFSET_POSITIONS:
        hard -= config.pad_token_id + 1
    if config.model_type in _RELATIVE_POSITIONS or not getattr(config, "position_biased_input", True):
        hard = None
    known = [layout.get("max_length"), hard, tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else None]
    return min((length for length in known if length), default=512), hard


def _sentence_transformers_layout(directory: Path) -> dict[str, Any]:
    """Pooling, normalisation and length of a sentence-transformers directory; {} for any other."""
    if not (directory / "modules.json").is_file():
        return {}
    layout: dict[str, Any] = {"max_length": read_json(directory / "sentence_bert_config.json").get("max_seq_length")}
    for module in read_json(directory / "modules.json"):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            layout["pooling"] = _pooling_mode(read_json(directory / module["path"] / "config.json"))
        elif kind == "Normalize":
            layout["normalize"] = True
        elif kind != "Transformer":
            warnings.warn(
                f"{directory} ends in a {kind} module, which is left out: rows are what comes before it.",
                SkembedWarning,
                stacklevel=2,
            )
    return layout


def _pooling_mode(config: dict[str, Any]) -> str:
    modes = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
    keys = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_lasttoken": "lasttoken",
    }
    named = config.get("pooling_mode") or next((mode for key, mode in keys.items() if config.get(key)), "mean")
    return modes.get(named, "mean")
