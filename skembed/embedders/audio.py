"""AudioEmbedder: recordings to embeddings."""

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

    Recordings are averaged to mono and resampled to the rate that the backbone was trained with. Floating samples are
    in [-1, 1] or a little beyond; integers stored as floats are refused.

    Parameters
    ----------
    backbone : str, PathLike or callable, default="openai/whisper-tiny.en"
        Hub id, torchaudio bundle such as "WAV2VEC2_BASE", local directory with a config.json and
        safetensors weights, or a module-level function (itself or as "package.module:function") that returns a
        `skembed.backbones.base.Backbone`. wav2vec 2.0, HuBERT, WavLM, the Whisper encoder, and AST.
    revision : str, default=None
        Branch, tag or commit on the hub. Give a commit to pin the weights.
    layers : int, list of int or "all", default=-1
        Blocks to read: 0 is the stem (what enters the first block proper), -1 the last block, final
        normalisation included. Several are put side by side (see `pooling` for another way).
    pooling : {"auto", "pooled", "cls", "mean", "max", "mean+max", "last", "layer_attention"}, default="auto"
        How positions become one vector. "auto" is what the backbone was trained with, or the mean. "pooled" is
        the network's own summary, "mean" and "max" run over real positions only, "cls" is the class token,
        "last" the last real position. "layer_attention" pools each of `layers` as "auto" does and averages
        them, weighted for each sample by scaled dot-product attention with the last of them as the query; it
        trains nothing.
    normalize : bool or "auto", default="auto"
        Scale rows to Euclidean length one; "auto" does what the backbone's own configuration says.
    truncate_dim : int, default=None
        Keep only so many leading features, for backbones trained to allow it (Matryoshka embeddings).
    batch_size : int or "auto", default="auto"
        Samples that are computed together. Halved when memory runs out. Has no influence on the result.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", "mps", "xpu"; "auto" takes an accelerator if there is one.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Precision of the network; "auto" is half precision on devices that compute faster in it (GPUs, CPUs with
        AMX or AVX-512's bfloat16 products), but on a CPU not for convolutional image networks, which lose too
        much by it, and float32 elsewhere. Rows are float32 always.
    cache : "auto", "memory", str, PathLike, EmbeddingCache or None, default="auto"
        Where rows are kept, so that no sample is embedded twice: "memory" for this process, bounded; a directory
        for all processes and runs; an `EmbeddingCache` that several embedders share; None for nowhere. "auto" is
        what `skembed.set_config` says, "memory" at first.
    on_error : {"raise", "warn", "nan"}, default="raise"
        What happens to a sample that cannot be read or embedded: an error that names its index and path, a row of NaN
        and a warning that counts and names them, or a silent row of NaN.
    verbose : bool, default=False
        Show a progress bar for what takes longer than half a second; without a terminal, a line every 30 seconds.
        A sample that takes longer than 5 seconds is named.
    sampling_rate : int, default=None
        Samples per second (Hz) of raw arrays in X. Files carry their own rate; an array without a rate is an error.
    max_duration : float, default=None
        Seconds to read from the start of each recording, with a warning that counts the recordings that were
        longer. None reads them whole, and refuses recordings of more than 30 minutes (1800 s), which small files can
        contain; a larger `max_duration` allows longer ones.
    window : float, default=None
        Recordings longer than so many seconds are split into windows whose embeddings are averaged, weighted by
        their length. None takes what the backbone reads at once.
    pad_to_window : bool, default=True
        Only for Whisper, which was trained on 30 s: pad each clip to that, as it was trained, or run it on the
        clip's own length, which is several times faster and gives different features (compare their accuracy).
        Padding is never pooled.

    Attributes
    ----------
    spec_ : BackboneSpec
        Identity of the backbone.
    fingerprint_ : str
        Digest of its weights and configuration; `transform` refuses others.
    n_blocks_ : int
        Blocks that `layers` can choose from.

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
        # Noise: silence has no variance to normalise by.
        return np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)

    def _truncation_message(self, n_truncated: int, n_samples: int) -> str:
        longer = f"longer than max_duration={self.max_duration} s"
        return f"{n_truncated} of {n_samples} recordings were {longer}, and were cut."
