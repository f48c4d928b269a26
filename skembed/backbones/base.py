"""The seam to other libraries: what every pre-trained network looks like from inside skembed.

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
        Cut longer texts, or split them into windows whose embeddings are averaged.
    prompt : str
        Put before every text, as instruction-tuned embedding models want.
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
        Longer recordings are split into windows of so many seconds whose embeddings are averaged;
        None takes the backbone's own longest input.
    pad_to_window : bool
        For networks trained on a fixed input (Whisper: 30 s): pad every clip to it, or run the network on
        the clip's own length.
    """

    window: float | None = None
    pad_to_window: bool = True


@dataclass
class Item:
    """One input of the network: a whole sample, or one window of a long one.

    Parameters
    ----------
    data : dict
        What `Backbone.collate` turns into tensors.
    length : int
        Tokens, frames or samples that are real; batches are planned by it, windows are weighted by it.
    truncated : bool
        Whether part of the sample was cut off.
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
        Convolutional maps come flattened to (batch, height * width, channels).
    mask : Tensor of shape (batch, time), bool
        True where a position is real and not padding.
    n_prefix : int
        Leading class, distillation or register tokens.
    pooled : Tensor of shape (batch, width), optional
        The network's own summary, where it was trained with one (timm's pre-logits features, the CLIP
        and SigLIP poolers); only for the last block.
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
        """The sum of the content's values, of shape (batch, width), float32."""
        values = self.values[:, self.n_prefix :].float()
        return (values * self.content.unsqueeze(-1)).sum(1)

    def at(self, positions: Tensor) -> Tensor:
        """The values at one position of each sample, of shape (batch, width), float32; `positions` are (batch,)."""
        return self.values.gather(1, positions.view(-1, 1, 1).expand(-1, 1, self.values.shape[2])).squeeze(1).float()


class Block(NamedTuple):
    """One step of depth: a name and the parameter-name prefixes that belong to it."""

    name: str
    prefixes: tuple[str, ...]

    def owns(self, parameter: str) -> bool:
        """Return True if the parameter or buffer of that dotted name is part of this block."""
        return any(parameter == p or parameter.startswith(p + ".") for p in self.prefixes)


@dataclass
class Observations:
    """Facts about a network that only running it shows.

    Parameters
    ----------
    largest_batch : int, optional
        Items of the largest batch that fits into memory; None while every batch did.
    layers_ran : bool
        Whether `beside` is known.
    beside : int, optional
        Empty places behind the hidden state in the tuple that a layer returns; None if it returns no tuple.
    """

    largest_batch: int | None = None
    layers_ran: bool = False
    beside: int | None = None


@dataclass
class Backbone(ABC):
    """A pre-trained network, its preprocessing, and its ordered depth.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity.
    module : nn.Module
        The network, in eval mode, without a classification head.
    width : int
        Features of the last block.
    blocks : tuple of Block
        Stem first, top last. Every parameter belongs to exactly one of them. Layer i is the output of
        ``blocks[i]``: layer 0 what enters the first block proper, layer -1 the network's own output,
        final normalisation included.
    fingerprint : str
        Hex digest of weights and configuration.
    default_pooling : str
        What ``pooling="auto"`` means: "pooled", "mean", "cls" or "last".
    pads : bool
        Whether items of unequal length may share a batch without changing each other's result.
    sampling_rate : int, optional
        Samples per second that an audio network expects.
    keeps_in_half : bool
        Whether bfloat16 keeps its rows within the cosine to float32 that ``precision="auto"`` promises (0.999).
    class_token : bool
        Whether the first position is a class token, so that ``pooling="cls"`` means something.
    normalize : bool
        Whether ``normalize="auto"`` gives rows of length one.
    prompt : str
        Put before every text by the network's own configuration.
    pool_prompt : bool
        Whether that configuration pools the positions of a prompt.
    truncate_dim : int, optional
        Leading features that it keeps.
    tokenizer : object, optional
        The tokenizer of a text network.
    prefix, suffix : sequence of int
        Special tokens around every text.
    layer_names : sequence of str
        Dotted names of the modules of all blocks but the stem, where each is one module.
    observed : Observations
        Shared with copies of the network.
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
    #: Whether many samples are prepared faster in one call (tokenizers) than each on its own, in threads.
    prepares_together: ClassVar[bool] = False
    #: Whether `AudioOptions.pad_to_window` changes a row.
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
        """Turn decoded samples (RGB images, strings, mono waveforms at `sampling_rate`) into items.

        Returns one list per sample, in order: a single item, or the windows of a long sample.
        """

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Stack (and pad) items into the tensors of one batch, on the CPU, float32 or int64 or bool."""

    @abstractmethod
    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        """Run the network; return the outputs of the asked blocks (0 to n - 1), in the order asked."""

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        """Run the network up to a block; return items from which `forward_blocks` computes only what is above it.

        Of several blocks the items of each, from one run.

        Parameters
        ----------
        items : sequence of Item
            Inputs of the network.
        batch : mapping of str to Tensor
            The same inputs, collated, on the device of the network.
        blocks : sequence of int
            The highest of them is the last block that is run.

        Returns
        -------
        list of lists of Item
            As many as there are blocks, in their order; each has the items in theirs.

        Raises
        ------
        NotImplementedError
            If the network cannot be entered behind a block.
        """
        raise NotImplementedError(f"{self.spec.name} cannot resume behind a block.")


def check_waveform_options(options: AudioOptions, limit: float | None) -> float | None:
    """Seconds of one window: the option, bounded by what the network can read at once."""
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
    """Consecutive windows of at most `size` samples, of nearly equal length so that none is a mere rest."""
    if size is None or len(waveform) <= size:
        return [waveform]
    n = -(-len(waveform) // size)
    edges = [round(i * len(waveform) / n) for i in range(n + 1)]
    return [waveform[a:b] for a, b in itertools.pairwise(edges)]
