"""Language models: encoders, sentence-transformers, decoders, CLIP's text tower."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoTokenizer

from skembed.backbones.accelerate.memory import LARGEST_KEPT
from skembed.backbones.attention import allow_packing, is_packable, pack_inputs, plan_packing, read_packed
from skembed.backbones.base import Backbone, Block, Item, TextOptions, Tokens, split_windows
from skembed.backbones.blocks import blocks_from_layers, enter_behind, observe_layers, record_blocks
from skembed.backbones.models import text_tokens
from skembed.backbones.models.resuming import advance_each, collate_advanced, join_advanced
from skembed.backbones.models.sentence_layout import read_sentence_layout
from skembed.backbones.models.transformers_loading import layer_names, load_pretrained, read_config, read_part
from skembed.backbones.packing import Packed, PackedTokens
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights.json_files import invalid_entry
from skembed.backbones.weights.sentence_modules import network_directory
from skembed.exceptions import BackboneNotFoundError

__all__ = ["TextBackbone", "open_backbone"]

#: Networks of which only the text side is wanted: their class is not the one that AutoModel takes.
_TEXT_SIDES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
}
#: Trained with a summary of their own.
_SUMMARISED = {"clip", "clip_text_model", "siglip", "siglip_text_model"}
#: Trained on texts padded to one length, without a mask, and summarized at the last position of it.
_UNMASKED = {"siglip", "siglip_text_model"}
#: Every position sees only those before it, so that the last one has read the whole text.
_DECODERS = {
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2",
    "gemma3_text", "phi", "phi3", "opt", "bloom", "falcon", "olmo", "olmo2", "stablelm", "smollm3",
}  # fmt: skip
#: Registered behind the layers by DeBERTa and MPNet, but read by every one of them.
_RELATIVE_TABLES = ("encoder.rel_embeddings", "encoder.LayerNorm", "encoder.relative_attention_bias")
#: How many times as wide as a position are the values inside a layer, in nearly all of them.
_FEED_FORWARD = 4
#: Characters per token that are tokenized at most of a text that is cut.
_CHARACTERS_PER_TOKEN = 12
#: The last tokens of a text that was cut by characters may differ from the whole text's (runs of spaces do):
#: they are never used. Inside of a word more of them may: BERT's tokenizer makes up to 100 of its rest.
_MARGIN, _MARGIN_IN_WORD = 16, 128
#: Factor by which more characters are read of a text whose start had too few tokens.
_GROWTH = 8
#: Characters of a text that is cut beyond which nothing is read, whatever they become: 10^8 without a space took 6 GB.
_MAX_CHARACTERS = 1_000_000


@dataclass(kw_only=True)
class TextBackbone(Backbone):
    """Language model with its tokenizer.

    Special tokens are put around a text here and not by the tokenizer, which is only ever asked for plain
    tokens: asking it to cut or pad would leave its state changed, for all threads that share it.

    Parameters
    ----------
    filler : int
        Token that stands for an empty text without special tokens.
    padding : int
        Token that pads a batch.
    limit : int
        Tokens read of a text by default, special ones included.
    n_positions : int, optional
        Most tokens that the network reads; None if it has no table of positions.
    padded_length : int, optional
        Tokens that every text is padded to, for networks that were trained so and have no mask.
    inputs : tuple of str
        Names of the tensors of a batch that the network takes.
    forward_options : dict
        Other arguments of its forward pass.
    has_summary : bool
        True if it was trained with a pooled output.
    lowercase : bool
        True if texts are lowercased first.
    first_virtual_token : int, optional
        Tokens from this one on are those of a trained prompt.
    """

    filler: int
    padding: int
    limit: int
    n_positions: int | None
    padded_length: int | None = None
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    forward_options: dict[str, Any] = field(default_factory=dict)
    has_summary: bool = False
    lowercase: bool = False
    first_virtual_token: int | None = None

    # Short texts fill the budget only if their number has next to no limit.
    batch_limit: ClassVar[int] = 1024
    prepares_together: ClassVar[bool] = True

    @property
    def token_budget(self) -> int:  # type: ignore[override]
        """Number of tokens per batch that "auto" plans."""
        # Measured on a CPU, packed: against 2048, 4096 gain 2 to 8 % with MiniLM in either precision and 2 % with BERT
        # base in bfloat16, and lose 1 % in float32, where the widest values are no longer kept when they are free.
        # Padded, they gain a little on texts of like length and lose more on mixed ones.
        weight = next(self.module.parameters())
        widest = _FEED_FORWARD * self.width * weight.element_size()
        packed = weight.device.type == "cpu" and is_packable(self.module)
        return 4096 if packed and 4096 * widest <= LARGEST_KEPT else 2048

    @property
    def default_size(self) -> int:
        return self.limit

    def preprocess(self, samples: Sequence[str], options: TextOptions) -> list[list[Item]]:
        """Tokenize texts.

        Parameters
        ----------
        samples : sequence of str
            Texts.
        options : TextOptions
            With ``long_text="chunk"`` a text of more than `max_length` tokens becomes the fewest windows that
            hold it. They do not overlap and are of nearly equal length, so that none is a mere rest. The
            prompt, part of the text, is in the first.

        Returns
        -------
        list of list of Item
            `length` counts tokens, special ones included.

        Raises
        ------
        ValueError
            If `max_length` is more than the network has positions for, or leaves no room for text.
        """
        room = self.room(options)
        self._check_prompt(options, room)
        texts = [self._lower(options.prompt + text) for text in samples]
        unpooled = self._count_unpooled(options)
        if options.long_text == "chunk":
            return [self._windows(ids, room, unpooled) for ids in self._tokenize(texts)]
        return [
            [self._item(ids[:room], truncated=not whole or len(ids) > room, unpooled=unpooled)]
            for ids, whole in self._tokenize_start(texts, room)
        ]

    def _count_unpooled(self, options: TextOptions) -> int:
        """Count the leading tokens that are not pooled: special ones and the prompt's, or none."""
        if options.pool_prompt or not options.prompt:
            return 0
        # As sentence-transformers counts: the prompt's own tokens, which those of prompt and text need not begin with.
        (ids,) = self._tokenize([self._lower(options.prompt)])
        suffix = self._without_prompt(self.suffix)
        tokens = [*self.prefix, *ids.tolist(), *suffix]
        return len(tokens) - (tokens[-1:] != [] and tokens[-1] in self.tokenizer.all_special_ids)

    def _windows(self, ids: np.ndarray, room: int, unpooled: int) -> list[Item]:
        """Split the tokens of a text into windows, without windows of an unpooled prompt alone."""
        n_special = len(self.prefix)
        left = max(unpooled - n_special, 0)
        items: list[Item] = []
        for part in split_windows(ids, room):
            if left < len(part):
                is_first = unpooled and not items
                items.append(self._item(part, unpooled=n_special + left if is_first else 0))
            left = max(left - len(part), 0)
        return items or [self._item(ids[-room:], unpooled=unpooled)]

    def _check_prompt(self, options: TextOptions, room: int) -> None:
        """Refuse a prompt that leaves no room for text, so that all rows would be equal."""
        if not options.prompt or options.long_text == "chunk":
            return
        ((ids, _),) = self._tokenize_start([self._lower(options.prompt)], room)
        if len(ids) >= room:
            raise ValueError(
                f"The prompt has {len(ids)} tokens or more, and max_length={self.length_read(options)} leaves room for "
                f"{room}: nothing of the texts would be read. Use a shorter prompt ('' for none), a larger "
                "max_length, or long_text='chunk'."
            )

    def _lower(self, text: str) -> str:
        return text.lower() if self.lowercase else text

    def length_read(self, options: TextOptions) -> int:
        """Return the number of tokens that are read per sequence, special ones included."""
        return self.default_size if options.max_length is None else options.max_length

    def room(self, options: TextOptions) -> int:
        """Return the room for tokens of the text itself, beside special ones and a prompt.

        Raises
        ------
        ValueError
            If there are none, or fewer positions than tokens.
        """
        positions, length = self.n_positions, self.length_read(options)
        n_special = len(self.prefix) + len(self.suffix)
        n_virtual = len(self.suffix) - len(self._without_prompt(self.suffix))
        if positions is not None and length > positions:
            raise ValueError(
                f"max_length={length} is out of range: {self.spec.name} has {positions} positions. "
                f"Use a value up to {positions}, or None; long_text='chunk' reads longer texts in windows."
            )
        if length <= n_special:
            raise ValueError(
                f"max_length={length} leaves no room for text: {self.spec.name} puts {n_special - n_virtual} special "
                f"tokens around it{f', and the {n_virtual} of a trained prompt behind it' if n_virtual else ''}. "
                f"Use a value from {n_special + 1}, or None."
            )
        return length - n_special

    def _without_prompt(self, tokens: Sequence[int]) -> list[int]:
        first = self.first_virtual_token
        return [token for token in tokens if first is None or token < first]

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        """Return the plain tokens of each text."""
        if not texts:
            return []
        # verbose=False: no advice on texts beyond the model's limit, which are cut or split by us.
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(tokens, dtype=np.int64) for tokens in ids]

    def _tokenize_start(self, texts: list[str], room: int) -> list[tuple[np.ndarray, bool]]:
        """Tokenize only as much of each text as its first `room` tokens need.

        Returns
        -------
        list of (ndarray, bool)
            Tokens, of which the first `room` are those of the whole text, and whether the whole text was read.
        """
        result: list[tuple[np.ndarray, bool]] = [(np.empty(0, np.int64), True)] * len(texts)
        left, characters = list(range(len(texts))), (room + _MARGIN) * _CHARACTERS_PER_TOKEN
        limit = max(characters, _MAX_CHARACTERS)
        while left:
            starts = [text_tokens.leading_part(texts[i], characters) for i in left]
            for i, start, ids in zip(left, starts, self._tokenize(starts), strict=True):
                result[i] = ids, len(start) == len(texts[i])
            if characters >= limit:
                break
            left = [
                i
                for i, start in zip(left, starts, strict=True)
                if not self._is_enough(texts[i], start, result[i][0], room)
            ]
            characters = min(characters * _GROWTH, limit)
        return result

    @staticmethod
    def _is_enough(text: str, start: str, ids: np.ndarray, room: int) -> bool:
        """Return True if the first `room` tokens of the start of a text are those of the text."""
        if len(start) == len(text):
            return True
        return len(ids) >= room + (_MARGIN if text[len(start)] == " " else _MARGIN_IN_WORD)

    def _item(self, ids: np.ndarray, truncated: bool = False, unpooled: int = 0) -> Item:
        tokens = np.concatenate([self.prefix, ids, self.suffix]).astype(np.int64)
        if not len(tokens):
            # Decoders put nothing around a text, and nothing has no embedding: "" is one end-of-text token.
            tokens = np.array([self.filler], dtype=np.int64)
        data = {"ids": tokens, "unpooled": min(unpooled, len(tokens))} if unpooled else {"ids": tokens}
        return Item(data, length=len(tokens), truncated=truncated)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Pad to the longest item on the right, where it affects neither positions nor decoders.

        Stored outputs of a block, "hidden", are joined end to end, unless the network sees padding.
        """
        lengths = np.array([item.length for item in items])
        width = self.padded_length or lengths.max()
        mask = np.arange(width) < lengths[:, None]
        ids = np.full(mask.shape, self.padding, dtype=np.int64)
        ids[mask] = np.concatenate([item.data["ids"] for item in items])
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        if any("unpooled" in item.data for item in items):
            batch["unpooled"] = torch.tensor([item.data.get("unpooled", 0) for item in items])
        return batch | (collate_advanced if self.padded_length else join_advanced)(items)

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        observe_layers(self, lambda: self.forward_blocks(batch, blocks))
        read = self.forward_blocks(batch, blocks)
        # What lies behind a text is left out, but for networks that are trained to see it.
        width = self.padded_length
        lengths = [width or item.length for item in items]
        cut = ([row[:length] for row, length in zip(tokens.values, lengths, strict=True)] for tokens in read)
        return advance_each(items, dict(zip(blocks, cut, strict=True)))

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        """Run the network and read blocks; the last one has the summary as `pooled`, if any.

        Tokens of a batch are padded. Where the network can be packed nothing else is, until somebody asks for
        ``values`` of what is returned.
        """
        layers, top = list(layers), len(self.blocks) - 1
        stack = [self.module.get_submodule(name) for name in self.layer_names]
        mask = batch["attention_mask"].bool()
        packed = plan_packing(self.module, mask)
        if packed is None:
            inputs: dict[str, Any] = {name: batch[name] for name in self.inputs}
        else:
            inputs = pack_inputs(self.module, batch["input_ids"], packed, entered="hidden" in batch)
        output = None
        with self._entered(stack, batch, packed), record_blocks(stack, layers, stop=top not in layers) as found:
            output = self.module(**inputs, **self.forward_options)
        if output is not None:
            found[top] = output.last_hidden_state
        pooled = output.pooler_output if output is not None and self.has_summary else None
        if self.first_virtual_token is not None:
            mask = mask & (batch["input_ids"] < self.first_virtual_token)
        if "unpooled" in batch:
            mask = mask & (torch.arange(mask.shape[1], device=mask.device) >= batch["unpooled"].unsqueeze(1))
        summaries = [pooled if i == top else None for i in layers]
        if packed is None:
            return [Tokens(found[i], mask, pooled=own) for i, own in zip(layers, summaries, strict=True)]
        rows = [read_packed(found[i], packed) for i in layers]
        return [PackedTokens(each, packed, mask, own) for each, own in zip(rows, summaries, strict=True)]

    def _entered(self, stack, batch: Mapping[str, Tensor], packed: Packed | None):
        if "hidden" not in batch:
            return nullcontext()
        hidden = batch["hidden"]
        if packed is not None:
            hidden = packed.fill(hidden).unsqueeze(0)
        elif not self.padded_length:
            hidden = Packed(batch["attention_mask"].sum(1).tolist(), hidden.device).pad(hidden)
        return enter_behind(stack, int(batch["block"]), hidden, beside=self.observed.beside)


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

    Returns
    -------
    TextBackbone
        float32, in eval mode, on the CPU, without gradients.

    Raises
    ------
    BackboneNotFoundError
        If weights are missing or are no safetensors, if there is no tokenizer, or if the family is none that
        is read.
    """
    layout = read_sentence_layout(directory)
    directory = network_directory(directory)
    config = read_config(directory)
    tokenizer = read_part(AutoTokenizer, directory, "tokenizer")
    if isinstance(tokenizer.model_max_length, bool) or not isinstance(tokenizer.model_max_length, int | float):
        path = directory / "tokenizer_config.json"
        raise invalid_entry(path, "model_max_length", tokenizer.model_max_length, "a number")
    module: Any = _load_module(config, directory)
    allow_packing(module)
    # What was loaded knows its own part: config.json of a whole CLIP describes two towers.
    kind, config = config.model_type, module.config.get_text_config()
    names = layer_names(module, config.num_hidden_layers)
    prefix, suffix = text_tokens.special_tokens(tokenizer, directory)
    positions = text_tokens.count_positions(module)
    vocabulary = module.get_input_embeddings().num_embeddings
    eos, bos, pad = tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id
    return TextBackbone(
        spec=spec,
        module=module,
        width=config.hidden_size,
        blocks=_order_blocks(module, names),
        fingerprint=fingerprint,
        default_pooling=layout.pooling or _trained_pooling(kind),
        class_token=tokenizer.cls_token_id is not None and prefix[:1] == [tokenizer.cls_token_id],
        normalize=layout.normalize,
        tokenizer=tokenizer,
        prefix=prefix,
        suffix=suffix,
        layer_names=names,
        filler=text_tokens.first_within(vocabulary, eos, bos, pad),
        padding=text_tokens.first_within(vocabulary, pad, eos),
        limit=text_tokens.default_length(config, tokenizer, positions, layout.max_length),
        n_positions=positions,
        padded_length=positions if kind in _UNMASKED else None,
        inputs=("input_ids",) if kind in _UNMASKED else ("input_ids", "attention_mask"),
        forward_options={"use_cache": False} if kind in _DECODERS else {},
        has_summary=kind in _SUMMARISED,
        lowercase=layout.lowercase,
        prompt=layout.prompt,
        pool_prompt=layout.pool_prompt,
        truncate_dim=layout.truncate_dim,
    )


def _load_module(config, directory: Path) -> nn.Module:
    if config.model_type in _TEXT_SIDES:
        return load_pretrained(getattr(transformers, _TEXT_SIDES[config.model_type]), directory)
    cls = transformers.MODEL_MAPPING.get(type(config), None)
    if not isinstance(cls, type) or config.is_encoder_decoder:
        raise BackboneNotFoundError(
            f"{directory} holds a {config.model_type!r} network, which is not a text backbone. "
            "Use an encoder (BERT and its kin, T5), a decoder (GPT-2, Llama, Qwen) or CLIP."
        )
    # BERT's pooler belongs to a task of its pre-training: many checkpoints lack it, few have a useful one.
    poolable = "add_pooling_layer" in inspect.signature(cls).parameters
    return load_pretrained(cls, directory, **({"add_pooling_layer": False} if poolable else {}))


def _order_blocks(module: nn.Module, names: list[str]) -> tuple[Block, ...]:
    blocks = list(blocks_from_layers(module, names, stem=_RELATIVE_TABLES))
    convolution = "encoder.conv"
    if any(block.owns(f"{convolution}.conv.weight") for block in blocks) and len(names) > 1:
        # DeBERTa v2's, registered last, mixes the stem's output into what enters the second layer.
        top, second = blocks[-1], 2
        blocks[-1] = Block(top.name, tuple(p for p in top.prefixes if not p.startswith(convolution)))
        blocks[second] = Block(blocks[second].name, (*blocks[second].prefixes, convolution))
    return tuple(blocks)


def _trained_pooling(kind: str) -> str:
    if kind in _SUMMARISED:
        return "pooled"
    return "last" if kind in _DECODERS else "mean"
