"""Interface to other libraries that every pre-trained network implements.

Nothing here imports torch, so that identities and options are cheap to hold, compare and pickle.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from skembed.backbones.spec import BackboneSpec

__all__ = [
    "AudioOptions",
    "Backbone",
    "Block",
    "Item",
    "TextOptions",
    "Tokens",
    "check_waveform_options",
    "split_windows",
]


@dataclass(frozen=True)
class TextOptions:
    """Options for the preparation of texts.

    Parameters
    ----------
    max_length : int, optional
        Tokens per sequence, special tokens included; None takes the backbone's own limit.
    long_text : {"truncate", "chunk"}
        "truncate" cuts longer texts. "chunk" splits them into windows and averages their embeddings.
    prompt : str
        Text to put before every text, as instruction-tuned models expect.
    pool_prompt : bool
        True to pool the positions of the prompt and of the special tokens before it. They are always read.
    """

    max_length: int | None = None
    long_text: str = "truncate"
    prompt: str = ""
    pool_prompt: bool = True


@dataclass(frozen=True)
class AudioOptions:
    """Options for the preparation of recordings.

    Parameters
    ----------
    window : float, optional
        Length in seconds of the windows that longer recordings are split into. Their embeddings are averaged. None
        takes the longest input of the backbone.
    pad_to_window : bool
        True to pad every clip to the fixed input that a network was trained on (30 s for Whisper), False to run the
        network on the clip's own length.
    """

    window: float | None = None
    pad_to_window: bool = True


@dataclass
class Item:
    """Input of the network: a whole sample, or one window of a long one.

    Parameters
    ----------
    data : dict
        Values that `Backbone.collate` turns into tensors.
    length : int
        Number of tokens, frames or samples without padding. Batches are planned and windows are weighted by it.
    truncated : bool
        True if part of the sample was cut off.
    """

    data: dict[str, Any]
    length: int
    truncated: bool = False


@dataclass(eq=False, repr=False)
class Tokens:
    """Output of a block for a batch.

    Parameters
    ----------
    values : Tensor of shape (batch, time, width)
        Features at each position. Convolutional maps are flattened to (batch, height * width, channels).
    mask : Tensor of shape (batch, time), bool
        True where a position is real and not padding.
    n_prefix : int
        Number of leading class, distillation or register tokens, which "mean" and "max" leave out.
    pooled : Tensor of shape (batch, width), optional
        The network's own summary, if it was trained with one (timm's pre-logits features, the poolers of CLIP and
        SigLIP). Only the last block has it.
    """

    values: Tensor
    mask: Tensor
    n_prefix: int = 0
    pooled: Tensor | None = None

    @property
    def content(self) -> Tensor:
        """Mask of real positions behind the leading tokens, of shape (batch, time - n_prefix)."""
        return self.mask[:, self.n_prefix :]

    def sum(self) -> Tensor:
        """Return the sum of the content's values, of shape (batch, width), float32."""
        values = self.values[:, self.n_prefix :].float()
        return (values * self.content.unsqueeze(-1)).sum(1)

    def at(self, positions: Tensor) -> Tensor:
        """Return the values at one position per sample, of shape (batch, width), float32."""
        return self.values.gather(1, positions.view(-1, 1, 1).expand(-1, 1, self.values.shape[2])).squeeze(1).float()


class Block(NamedTuple):
    """Step of depth: a name, and the prefixes of the parameters that belong to it."""

    name: str
    prefixes: tuple[str, ...]

    def owns(self, parameter: str) -> bool:
        """Return True if the parameter or buffer of that dotted name is part of this block."""
        return any(parameter == p or parameter.startswith(p + ".") for p in self.prefixes)


@dataclass
class Observations:
    """Facts about a network that are known only after it has run.

    Parameters
    ----------
    largest_batch : int, optional
        Number of items of the largest batch that fits into memory; None while every batch did.
    layers_ran : bool
        True if `beside` is known.
    beside : int, optional
        Number of empty places behind the hidden state in the tuple that a layer returns; None without a tuple.
    """

    largest_batch: int | None = None
    layers_ran: bool = False
    beside: int | None = None


@dataclass
class Backbone(ABC):
    """Pre-trained network with its preprocessing and its ordered depth.

    Parameters
    ----------
    spec : BackboneSpec
        Identity of the backbone.
    module : nn.Module
        The network, in eval mode and without a classification head.
    width : int
        Number of features of the last block.
    blocks : tuple of Block
        Blocks from the stem to the top. Every parameter belongs to exactly one of them. Layer i is the output of
        ``blocks[i]``: layer 0 is the input of the first block proper, and layer -1 the output of the network, final
        normalization included.
    fingerprint : str
        Hex digest of weights and configuration. Give equal networks equal digests: cached rows are found by it.
    default_pooling : str
        Meaning of ``pooling="auto"``: "pooled", "mean", "cls" or "last".
    pads : bool
        True if items of unequal length may share a batch without changing each other's result.
    sampling_rate : int, optional
        Samples per second (Hz) that an audio network expects.
    keeps_in_half : bool
        True if rows in bfloat16 keep a cosine of 0.999 to those in float32, as ``precision="auto"`` promises.
    class_token : bool
        True if the first position is a class token. ``pooling="cls"`` raises an error otherwise.
    normalize : bool
        True if ``normalize="auto"`` scales rows to length one.
    prompt : str
        Text that the network's own configuration puts before every text.
    pool_prompt : bool
        True if that configuration pools the positions of a prompt.
    truncate_dim : int, optional
        Number of leading features that the configuration keeps.
    tokenizer : object, optional
        Tokenizer of a text network.
    prefix, suffix : sequence of int
        Special tokens before and after every text.
    layer_names : sequence of str
        Dotted names of the modules of all blocks but the stem, if each block is one module.
    observed : Observations
        Facts from running the network, shared with its copies.
    """

    spec: BackboneSpec
    module: nn.Module
    width: int
    blocks: tuple[Block, ...]
    fingerprint: str
    default_pooling: str = "mean"
    pads: bool = True
    sampling_rate: int | None = None
    class_token: bool = False
    keeps_in_half: bool = True
    normalize: bool = False
    prompt: str = ""
    pool_prompt: bool = True
    truncate_dim: int | None = None
    tokenizer: Any = None
    prefix: Sequence[int] = ()
    suffix: Sequence[int] = ()
    layer_names: Sequence[str] = ()
    observed: Observations = field(default_factory=Observations)

    #: Largest number of positions (items times longest item) in a batch that "auto" plans on a CPU.
    token_budget: ClassVar[int] = 4096
    #: Most items in a batch that "auto" plans on a CPU.
    batch_limit: ClassVar[int] = 32
    #: True if one call for many samples is faster (tokenizers) than a call for each in threads.
    prepares_together: ClassVar[bool] = False
    #: True if `AudioOptions.pad_to_window` changes rows.
    uses_pad_to_window: ClassVar[bool] = True

    @property
    def default_size(self) -> float | None:
        """Input size that an embedder's None stands for.

        Tokens (`max_length`), seconds (`window`) or pixels (`image_size`); None if no number gives the same rows.
        """
        return None

    @property
    def least_size(self) -> tuple[int, int] | None:
        """Smallest width and height to decode an image file at; None for its own size."""
        return None

    def prepare_inference(self) -> None:  # noqa: B027, most networks have nothing to find out
        """Prepare faster inference; called once, after the network was read in float32."""

    @abstractmethod
    def preprocess(self, samples: Sequence[Any], options: Any) -> list[list[Item]]:
        """Turn decoded samples into items.

        Parameters
        ----------
        samples : sequence
            RGB images, strings, or mono waveforms at `sampling_rate`.
        options : object
            Preprocessing options of the embedder, such as `TextOptions` and `AudioOptions`.

        Returns
        -------
        list of lists of Item
            One list per sample, in order: a single item, or the windows of a long sample.
        """

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Stack and pad items into the tensors of one batch.

        Parameters
        ----------
        items : sequence of Item
            Items of one or several samples.

        Returns
        -------
        dict of str to Tensor
            Tensors on the CPU, of float32, int64 or bool.
        """

    @abstractmethod
    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        """Run the network and return the outputs of blocks.

        Parameters
        ----------
        batch : mapping of str to Tensor
            Items from `collate`, on the device of the network.
        layers : iterable of int
            Blocks to return, from 0 to n - 1.

        Returns
        -------
        list of Tokens
            One per block, in the order of `layers`.
        """

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        """Run the network up to a block; return items that `forward_blocks` resumes from.

        For several blocks, one run returns the items of each.

        Parameters
        ----------
        items : sequence of Item
            Inputs of the network.
        batch : mapping of str to Tensor
            The same inputs, collated, on the device of the network.
        blocks : sequence of int
            Blocks to store the outputs of. The network runs up to the highest.

        Returns
        -------
        list of lists of Item
            One list per block, in the order of `blocks`, with the items in their order.

        Raises
        ------
        NotImplementedError
            If the network cannot resume behind a block.
        """
        raise NotImplementedError(f"{self.spec.name} cannot resume behind a block.")


def check_waveform_options(options: AudioOptions, limit: float | None) -> float | None:
    """Return the seconds per window: the option, limited by what the network reads at once."""
    if options.window is None:
        return limit
    if options.window < 0.1:
        raise ValueError(f"window={options.window} s is too short. Use at least 0.1.")
    if limit is not None and options.window > limit:
        raise ValueError(
            f"window={options.window} is longer than the {limit:g} s that this backbone reads at once. "
            f"Use a value up to {limit:g}, or None."
        )
    return options.window


def split_windows(waveform: np.ndarray, size: int | None) -> list[np.ndarray]:
    """Return consecutive windows of at most `size` samples and nearly equal length."""
    if size is None or len(waveform) <= size:
        return [waveform]
    n = -(-len(waveform) // size)
    edges = [round(i * len(waveform) / n) for i in range(n + 1)]
    return [waveform[a:b] for a, b in itertools.pairwise(edges)]
