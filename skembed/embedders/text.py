"""TextEmbedder: texts to embeddings."""

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

    Parameters
    ----------
    backbone : str, PathLike or callable, default="sentence-transformers/all-MiniLM-L6-v2"
        Hub id, local directory with a config.json and safetensors weights, or a module-level function (itself or as
        "package.module:function") that returns a `skembed.backbones.base.Backbone`. Encoders (BERT, RoBERTa,
        DeBERTa, sentence-transformers, XLM-R, T5's, CLIP's text tower) and decoders (GPT-2, Llama, Qwen).
    revision : str, default=None
        Branch, tag or commit on the hub. Give a commit to pin the weights.
    layers : int, list of int or "all", default=-1
        Blocks to read: 0 is the stem (what enters the first block proper), -1 the last block, final
        normalisation included. Several are put side by side (see `pooling` for another way).
    pooling : {"auto", "pooled", "cls", "mean", "max", "mean+max", "last", "layer_attention"}, default="auto"
        How positions become one vector. "auto" is what the backbone was trained with: its sentence-transformers
        configuration, else "last" for decoders and "mean" for encoders. "pooled" is the network's own summary,
        "mean" and "max" run over real positions only, "cls" is the class token, "last" the last real position.
        "layer_attention" pools each of `layers` as "auto" does and averages them, weighted for each sample by
        scaled dot-product attention with the last of them as the query; it trains nothing.
    normalize : bool or "auto", default="auto"
        Scale rows to Euclidean length one; "auto" does what the backbone's own configuration says.
    truncate_dim : int, default=None
        Keep only so many leading features, for backbones trained to allow it (Matryoshka embeddings). None keeps what
        the backbone's sentence-transformers configuration says, for its last layer and own pooling, else all. That cut
        is made after the backbone's own normalization, as sentence-transformers does; yours is made before `normalize`.
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
    max_length : int, default=None
        Tokens a text, special tokens included. None takes the backbone's own limit.
    long_text : {"truncate", "chunk"}, default="truncate"
        Texts longer than `max_length` are cut, with a warning that counts them, or split into windows whose
        embeddings are averaged, weighted by their tokens. Of a text that is cut no more than 1,000,000 characters
        are tokenized.
    prompt : str, default=None
        Text put before every text, as instruction-tuned models want: "query: " for E5, for instance. None takes the
        default prompt of the backbone's sentence-transformers configuration, if it has one; "" puts nothing. Where
        that configuration leaves prompts out of the pooling, yours is left out too. A prompt that fills `max_length`
        is an error.

    Attributes
    ----------
    spec_ : BackboneSpec
        Identity of the backbone.
    fingerprint_ : str
        Digest of its weights and configuration; `transform` refuses others.
    n_blocks_ : int
        Blocks that `layers` can choose from.
    prompt_ : str
        Text that is put before every text.

    Notes
    -----
    `fit` looks at a few of the texts, and gives an `InputWarning` where they are names of files, as of images that were
    meant for `ImageEmbedder`: here a name is a text like any other, and a class that is part of a path is easily told
    from it.

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
        """Text that is put before every text: `prompt`, or the backbone's own."""
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
            f"{n_truncated} of {n_samples} texts had more tokens than max_length, and were cut. "
            "long_text='chunk' reads them whole; a larger max_length may fit the backbone."
        )
