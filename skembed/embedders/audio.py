"""AudioEmbedder: embeddings of recordings."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np

from skembed.backbones.base import AudioOptions
from skembed.embedders.base import BaseEmbedder
from skembed.inputs import content_key, read_audio
from skembed.utils.sklearn_private import Interval

__all__ = ["AudioEmbedder"]


class AudioEmbedder(BaseEmbedder):
    """Embed recordings with a pre-trained speech or sound model.

    The embedder is a transformer for pipelines, searches and ``ColumnTransformer``: one recording gives one row of
    numbers that linear models, nearest neighbors and clustering work well on. Nothing is trained.

    Recordings are averaged to mono and resampled to the rate that the backbone was trained with. Floating-point samples
    must be in [-1, 1], or a little beyond; integers stored as floats raise an error.

    Parameters
    ----------
    backbone : str, PathLike or callable, default="openai/whisper-tiny.en"
        Pre-trained network: an id on the hub, a torchaudio bundle such as "WAV2VEC2_BASE", a local directory with
        config.json and safetensors weights, or a module-level function (itself or as "package.module:function") that
        returns a `skembed.backbones.base.Backbone`. wav2vec 2.0, HuBERT, WavLM, the Whisper encoder and AST are
        supported. The default is small and made for English speech; AST suits other sounds.
        `skembed.rank_backbones` compares candidates on your data.
    revision : str, default=None
        Branch, tag or commit of the repository on the hub. Give a commit to pin the weights. None takes the default
        branch.
    layers : int, list of int or "all", default=-1
        Blocks of the network to read, from 0 for the stem (the input of the first block proper) to -1 for the last
        block, final normalization included. The default suits most tasks. Try a lower layer if your data differ much
        from the training data of the backbone; `skembed.displays.LayerProbeDisplay` compares layers. The rows of
        several layers are concatenated, except with ``pooling="layer_attention"``.
    pooling : {"auto", "pooled", "cls", "mean", "max", "mean+max", "last", "layer_attention"}, default="auto"
        Reduction of a sample's positions to one vector. "auto" takes what the backbone was trained with, else the
        mean.
        The others are for comparison:

        - "pooled": the network's own summary.
        - "mean", "max", "mean+max": mean and maximum over positions without padding; "mean+max" concatenates both.
        - "cls": the class token, if the network has one.
        - "last": the last position without padding, which suits decoders.
        - "layer_attention": one row per layer in `layers`, pooled as by "auto", averaged with weights from scaled
          dot-product attention whose query is the last of them. Nothing is trained for it.
    normalize : bool or "auto", default="auto"
        If True, scale each row to Euclidean length one, so that dot products are cosine similarities. Use it for
        nearest neighbors and clustering. "auto" follows the backbone's own configuration.
    truncate_dim : int, default=None
        Number of leading features to keep. A lower number saves memory and time in later steps, but costs accuracy
        unless the backbone was trained for it (Matryoshka embeddings). None keeps all features.
    batch_size : int or "auto", default="auto"
        Number of samples per batch. "auto" plans batches by length and device. A larger number may be faster on a GPU
        and takes more memory; when memory runs out, it is halved, with a warning. Rows do not depend on it beyond
        rounding.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps" or "xpu". "auto" takes an accelerator if there is one, else the CPU.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Precision of the network's computation; rows are always float32. "auto" chooses half precision on devices that
        compute faster in it (GPUs, and CPUs with AMX or AVX-512 products of bfloat16), except for convolutional image
        networks on a CPU, which lose too much accuracy by it. Choose "float32" for the most exact rows, or if rows are
        not finite.
    cache : "auto", "memory", str, PathLike, EmbeddingCache or None, default="auto"
        Cache of rows, so that no sample is embedded twice. "memory" keeps up to 512 MiB of them until the process ends.
        Choose a directory to share rows between processes and runs, an `EmbeddingCache` to set another limit, and None
        to compute every row each time. "auto" takes the setting of `skembed.set_config`, which is "memory" by default.
    on_error : {"raise", "warn", "nan"}, default="raise"
        Treatment of samples that cannot be read or embedded. "raise" stops with an error that names the index and path
        of the sample. "warn" and "nan" return a row of NaN for it, "warn" with one warning that counts and names such
        samples. Choose "warn" for large collections in which a few files may be damaged.
    verbose : bool, default=False
        If True, show a progress bar for calls of more than half a second (without a terminal, a line every 30 seconds),
        and name samples that take more than 5 seconds.
    sampling_rate : int, default=None
        Samples per second (Hz) of raw arrays in X. It is needed for them, and an array without a rate is an error.
        Files carry their own rate.
    max_duration : float, default=None
        Number of seconds to read from the start of each recording. Longer recordings are truncated, with a warning that
        counts them. None reads recordings whole and refuses those of more than 30 minutes (1800 s), which small files
        can contain; set a larger number to allow them, or a smaller one to save time.
    window : float, default=None
        Length in seconds of the windows that longer recordings are split into. The embeddings of the windows are
        averaged, weighted by their length. None takes the longest input of the backbone.
    pad_to_window : bool, default=True
        Only for Whisper, which was trained on clips of 30 s. True pads each clip to that length. False runs the network
        on the clip's own length, which is several times faster and gives different features: compare the accuracy of
        both. Padding is never pooled.

    Attributes
    ----------
    spec_ : BackboneSpec
        Identity of the backbone.
    fingerprint_ : str
        Digest of the backbone's weights and configuration. `transform` raises an error if it finds other weights.
    n_blocks_ : int
        Number of blocks, stem included, that `layers` can choose from.

    See Also
    --------
    TextEmbedder : Embed texts.
    ImageEmbedder : Embed images.
    FineTuneClassifier : Train the backbone on labels, beyond frozen embeddings.
    skembed.selection.rank_backbones : Compare backbones on labeled data.

    References
    ----------
    .. [1] Radford et al. (2023), Robust Speech Recognition via Large-Scale Weak Supervision.
    .. [2] Baevski et al. (2020), wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed import AudioEmbedder
    >>> tone = np.sin(np.linspace(0, 2 * np.pi * 440, 8000))  # one second of 440 Hz
    >>> AudioEmbedder(sampling_rate=8000, device="cpu").fit_transform([tone]).shape
    (1, 384)
    """

    _modality = "audio"
    _chunk_size = 64

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEmbedder._parameter_constraints,
        "sampling_rate": [Interval(Real, 0, None, closed="neither"), None],
        "max_duration": [Interval(Real, 0, None, closed="neither"), None],
        "window": [Interval(Real, 0, None, closed="neither"), None],
        "pad_to_window": ["boolean"],
    }

    def __init__(
        self,
        backbone="openai/whisper-tiny.en",
        *,
        revision=None,
        layers=-1,
        pooling="auto",
        normalize="auto",
        truncate_dim=None,
        batch_size="auto",
        device="auto",
        precision="auto",
        cache="auto",
        on_error="raise",
        verbose=False,
        sampling_rate=None,
        max_duration=None,
        window=None,
        pad_to_window=True,
    ):
        self.backbone = backbone
        self.revision = revision
        self.layers = layers
        self.pooling = pooling
        self.normalize = normalize
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.cache = cache
        self.on_error = on_error
        self.verbose = verbose
        self.sampling_rate = sampling_rate
        self.max_duration = max_duration
        self.window = window
        self.pad_to_window = pad_to_window

    def _options(self, card) -> AudioOptions:
        window = card.default_size if self.window is None else self.window
        return AudioOptions(window=window, pad_to_window=self.pad_to_window or not card.uses_pad_to_window)

    def _reader(self, backbone):
        return lambda sample: read_audio(
            sample, rate=backbone.sampling_rate, sampling_rate=self.sampling_rate, max_duration=self.max_duration
        )

    def _key(self):
        return content_key

    def _decoding(self):
        return (self.sampling_rate, self.max_duration)

    def _probe(self) -> np.ndarray:
        # Noise: silence has no variance to normalize by.
        return np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)

    def _truncation_message(self, n_truncated: int, n_samples: int) -> str:
        longer = f"longer than max_duration={self.max_duration} s"
        return f"{n_truncated} of {n_samples} recordings were {longer}, and were truncated."
