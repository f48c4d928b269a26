"""TextEmbedder: embeddings of texts."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

from skembed.backbones.base import TextOptions
from skembed.embedders.base import BaseEmbedder
from skembed.inputs import read_text, text_key, warn_of_file_names
from skembed.utils.sklearn_private import Interval, StrOptions

__all__ = ["TextEmbedder"]


class TextEmbedder(BaseEmbedder):
    """Embed texts with a pre-trained language model.

    The embedder is a transformer for pipelines, searches and ``ColumnTransformer``: one text gives one row of numbers
    that linear models, nearest neighbors and clustering work well on. Nothing is trained.

    Parameters
    ----------
    backbone : str, PathLike or callable, default="sentence-transformers/all-MiniLM-L6-v2"
        Pre-trained network: an id on the hub, a local directory with config.json and safetensors weights, or a
        module-level function (itself or as "package.module:function") that returns a
        `skembed.backbones.base.Backbone`. Encoders (BERT, RoBERTa, DeBERTa, sentence-transformers, XLM-R, T5's, CLIP's
        text tower) and decoders (GPT-2, Llama, Qwen) are supported. The default is small, fast and made for English
        sentences. Larger backbones are slower and often more accurate; `skembed.rank_backbones` compares candidates on
        your data.
    revision : str, default=None
        Branch, tag or commit of the repository on the hub. Give a commit to pin the weights. None takes the default
        branch.
    layers : int, list of int or "all", default=-1
        Blocks of the network to read, from 0 for the stem (the input of the first block proper) to -1 for the last
        block, final normalization included. The default suits most tasks. Try a lower layer if your data differ much
        from the training data of the backbone; `skembed.displays.LayerProbeDisplay` compares layers. The rows of
        several layers are concatenated, except with ``pooling="layer_attention"``.
    pooling : {"auto", "pooled", "cls", "mean", "max", "mean+max", "last", "layer_attention"}, default="auto"
        Reduction of a sample's positions to one vector. "auto" takes what the backbone was trained with: the
        method of its sentence-transformers configuration, else "last" for decoders and "mean" for encoders.
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
        unless the backbone was trained for it (Matryoshka embeddings). None follows the
        sentence-transformers configuration of the backbone for its last layer and own pooling, and keeps all features
        otherwise. The configured cut follows the backbone's own normalization, as in sentence-transformers; yours
        precedes `normalize`.
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
    max_length : int, default=None
        Number of tokens per text, special tokens included. None takes the limit of the backbone. Lower it to save time
        on long texts whose beginning is enough.
    long_text : {"truncate", "chunk"}, default="truncate"
        Treatment of texts with more than `max_length` tokens. "truncate" keeps their beginning, with a warning that
        counts them, and tokenizes at most 1,000,000 characters. "chunk" splits them into windows and averages the
        embeddings of the windows, weighted by their tokens; choose it if what matters may be anywhere in a text. It
        costs time in proportion to the length.
    prompt : str, default=None
        Text to put before every text, as instruction-tuned models expect, for instance "query: " for E5. None takes the
        default prompt of the backbone's sentence-transformers configuration, if there is one; "" puts nothing. If that
        configuration leaves prompts out of the pooling, yours is left out too. A prompt that fills `max_length` is an
        error.

    Attributes
    ----------
    spec_ : BackboneSpec
        Identity of the backbone.
    fingerprint_ : str
        Digest of the backbone's weights and configuration. `transform` raises an error if it finds other weights.
    n_blocks_ : int
        Number of blocks, stem included, that `layers` can choose from.
    prompt_ : str
        Text that is put before every text: `prompt`, or the default of the backbone.

    See Also
    --------
    ImageEmbedder : Embed images.
    AudioEmbedder : Embed recordings.
    FineTuneClassifier : Train the backbone on labels, beyond frozen embeddings.
    skembed.selection.rank_backbones : Compare backbones on labeled data.

    Notes
    -----
    `fit` gives an `InputWarning` if most texts are names of files, for instance of images that were meant for
    `ImageEmbedder`. This embedder reads the names themselves, and a class that is part of the path makes scores look
    good for the wrong reason.

    References
    ----------
    .. [1] Reimers & Gurevych (2019), Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks.

    Examples
    --------
    >>> from skembed import TextEmbedder
    >>> embedder = TextEmbedder(device="cpu")
    >>> X = embedder.fit_transform(["a cat sat on the mat", "a kitten lay on the rug", "interest rates rose"])
    >>> X.shape
    (3, 384)
    >>> bool(X[0] @ X[1] > X[0] @ X[2])
    True
    """

    _modality = "text"
    _chunk_size = 8192

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEmbedder._parameter_constraints,
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "long_text": [StrOptions({"truncate", "chunk"})],
        "prompt": [str, None],
    }

    def __init__(
        self,
        backbone="sentence-transformers/all-MiniLM-L6-v2",
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
        max_length=None,
        long_text="truncate",
        prompt=None,
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
        self.max_length = max_length
        self.long_text = long_text
        self.prompt = prompt

    def _samples(self, X, *, reset: bool) -> list[Any]:
        samples = super()._samples(X, reset=reset)
        if reset:
            warn_of_file_names(samples)
        return samples

    @property
    def prompt_(self) -> str:
        """Text that is put before every text: `prompt`, or the default of the backbone."""
        return self._reading.options.prompt

    def _options(self, card) -> TextOptions:
        max_length = card.default_size if self.max_length is None else self.max_length
        prompt = card.prompt if self.prompt is None else str(self.prompt)
        # Without a prompt there is nothing to leave out: the same rows have the same key.
        pool_prompt = card.pool_prompt or not prompt
        return TextOptions(max_length=max_length, long_text=self.long_text, prompt=prompt, pool_prompt=pool_prompt)

    def _reader(self, backbone):
        return lambda sample: (read_text(sample), False)

    def _key(self):
        return text_key

    def _probe(self) -> str:
        return "text"

    def _truncation_message(self, n_truncated: int, n_samples: int) -> str:
        return (
            f"{n_truncated} of {n_samples} texts had more tokens than max_length, and were truncated. "
            "Use long_text='chunk' to read them whole, or a larger max_length if the backbone allows it."
        )
