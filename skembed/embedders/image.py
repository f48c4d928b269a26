"""ImageEmbedder: embeddings of images."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageColor

from skembed.embedders.base import BaseEmbedder
from skembed.inputs import content_key, read_image
from skembed.utils.sklearn_private import Interval, StrOptions

__all__ = ["ImageEmbedder"]


class ImageEmbedder(BaseEmbedder):
    """Embed images with a pre-trained vision model.

    The embedder is a transformer for pipelines, searches and ``ColumnTransformer``: one image gives one row of numbers
    that linear models, nearest neighbors and clustering work well on. Nothing is trained. Samples are paths, bytes,
    PIL images, or arrays of shape (height, width) or (height, width, channels).

    Parameters
    ----------
    backbone : str, PathLike or callable, default="tf_efficientnet_lite0.in1k"
        Pre-trained network: a timm name, an id on the hub (of timm or transformers), a local directory with config.json
        and safetensors weights, or a module-level function (itself or as "package.module:function") that returns a
        `skembed.backbones.base.Backbone`. ResNet, EfficientNet, ConvNeXt, ViT, DINOv2, Swin, and the vision towers of
        CLIP and SigLIP are supported; most other timm models work as well. The default is small and fast on a CPU.
        Larger backbones are slower and often more accurate; `skembed.rank_backbones` compares candidates on your data.
    revision : str, default=None
        Branch, tag or commit of the repository on the hub. Give a commit to pin the weights. None takes the default
        branch.
    layers : int, list of int or "all", default=-1
        Blocks of the network to read, from 0 for the stem (the input of the first block proper) to -1 for the last
        block, final normalization included. The default suits most tasks. Try a lower layer if your data differ much
        from the training data of the backbone; `skembed.displays.LayerProbeDisplay` compares layers. The rows of
        several layers are concatenated, except with ``pooling="layer_attention"``.
    pooling : {"auto", "pooled", "cls", "mean", "max", "mean+max", "last", "layer_attention"}, default="auto"
        Reduction of a sample's positions to one vector. "auto" takes what the backbone was trained with: its own
        pooled features, or the class token.
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
    image_size : int, default=None
        Side of the square that the network sees, in pixels, at most 8192. None takes the size that the backbone was
        trained for. A larger side shows smaller details and costs time in proportion to its square.
    background : str or tuple of 3 int, default="white"
        Color behind transparent pixels: a name or code that Pillow knows, or red, green and blue from 0 to 255.
    max_pixels : int or "auto", default="auto"
        Largest number of pixels per image. Larger images raise an error before they are decoded, since small files can
        contain huge images (decompression bombs). "auto" limits memory instead: it refuses images whose decoding takes
        more than 512 MB, which are 25 million pixels in a WEBP file. JPEG files, and PNG, BMP and TIFF files that are
        neither interlaced nor compressed in another way, are reduced while they are read, and are refused from 268
        million pixels on. Set a number to accept larger images that you trust.
    engine : {"torch", "openvino"}, default="torch"
        Library that computes the network. Choose "openvino" for many images on a CPU: it compiles the network at
        the first batch, which takes seconds, and is faster afterwards. It needs ``pip install "skembed[compiled]"``.

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
    AudioEmbedder : Embed recordings.
    FineTuneClassifier : Train the backbone on labels, beyond frozen embeddings.
    skembed.selection.rank_backbones : Compare backbones on labeled data.

    References
    ----------
    .. [1] Kornblith, Shlens & Le (2019), Do Better ImageNet Models Transfer Better?

    Examples
    --------
    >>> import numpy as np
    >>> from skembed import ImageEmbedder
    >>> images = [np.zeros((32, 32, 3), dtype=np.uint8), np.full((48, 32), 255, dtype=np.uint8)]
    >>> ImageEmbedder(device="cpu").fit_transform(images).shape
    (2, 1280)
    """

    _modality = "image"
    _chunk_size = 128

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEmbedder._parameter_constraints,
        "image_size": [Interval(Integral, 1, 8192, closed="both"), None],
        "background": [str, tuple, list],
        "max_pixels": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "engine": [StrOptions({"torch", "openvino"})],
    }

    def __init__(
        self,
        backbone="tf_efficientnet_lite0.in1k",
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
        image_size=None,
        background="white",
        max_pixels="auto",
        engine="torch",
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
        self.image_size = image_size
        self.background = background
        self.max_pixels = max_pixels
        self.engine = engine

    def _network_options(self):
        options: dict[str, int | str] = {} if self.image_size is None else {"image_size": int(self.image_size)}
        if self.engine != "torch":
            options["engine"] = str(self.engine)
        return tuple(options.items())

    def _network_identity(self, card):
        options = dict(self.spec_.options)
        if card.default_size is not None:
            options.setdefault("image_size", card.default_size)
        return tuple(sorted(options.items()))

    def _reader(self, backbone):
        background = _colour(self.background)
        return lambda sample: (
            read_image(sample, background=background, max_pixels=self.max_pixels, at_least=backbone.least_size),
            False,
        )

    def _key(self):
        return content_key

    def _decoding(self):
        # Not `max_pixels`, which refuses an image or changes nothing of its row.
        return (_colour(self.background),)

    def _probe(self) -> Image.Image:
        return Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8))


def _colour(background) -> tuple[int, int, int]:
    """Return red, green and blue of the parameter `background`."""
    try:
        colour = ImageColor.getrgb(background)[:3] if isinstance(background, str) else tuple(background)
    except ValueError as error:
        raise ValueError(
            f"background={background!r} is not a color. Use a name such as 'white', or '#rrggbb'."
        ) from error
    if len(colour) != 3 or not all(isinstance(part, Integral) and 0 <= int(part) <= 255 for part in colour):
        raise ValueError(f"background={background!r} is not a color. Use three whole numbers from 0 to 255.")
    return colour[0], colour[1], colour[2]
