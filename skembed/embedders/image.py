"""ImageEmbedder: images to embeddings."""

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

    Parameters
    ----------
    backbone : str, PathLike or callable, default="tf_efficientnet_lite0.in1k"
        timm name, hub id (of timm or transformers), local directory with a config.json and safetensors weights, or a
        module-level function (itself or as "package.module:function") that returns a
        `skembed.backbones.base.Backbone`. ResNet, EfficientNet, ConvNeXt, ViT, DINOv2, Swin, and the vision
        towers of CLIP and SigLIP; most other timm models work as well.
    revision : str, default=None
        Branch, tag or commit on the hub. Give a commit to pin the weights.
    layers : int, list of int or "all", default=-1
        Blocks to read: 0 is the stem (what enters the first block proper), -1 the last block, final
        normalisation included. Several are put side by side (see `pooling` for another way).
    pooling : {"auto", "pooled", "cls", "mean", "max", "mean+max", "last", "layer_attention"}, default="auto"
        How positions become one vector. "auto" is what the backbone was trained with: its own pooled features,
        or the class token. "pooled" is the network's own summary, "mean" and "max" run over real positions
        only, "cls" is the class token, "last" the last real position. "layer_attention" pools each of `layers`
        as "auto" does and averages them, weighted for each sample by scaled dot-product attention with the last
        of them as the query; it trains nothing.
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
    image_size : int, default=None
        Side in pixels of the square that the network sees, up to 8192. None takes the backbone's own.
    background : str or tuple of 3 int, default="white"
        Colour behind transparent pixels: a name or code that Pillow knows, or red, green and blue from 0 to 255.
    max_pixels : int or "auto", default="auto"
        Largest number of pixels of an image; larger ones are refused before they are decoded (decompression bombs).
        "auto" bounds memory instead: images are refused whose decoding takes more than 512 MB, which are 25 million
        pixels in a WEBP file. JPEG files, and PNG, BMP and TIFF files that are not interlaced or compressed in another
        way, are reduced while they are read, and refused from 268 million pixels on. Set a number to accept larger
        images that you trust.
    engine : {"torch", "openvino"}, default="torch"
        What computes the network. "openvino" compiles it for this CPU at its first batch, which takes seconds, and is
        faster from then on; it needs ``pip install "skembed[compiled]"``.

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
    """Red, green and blue of the `background` parameter."""
    try:
        colour = ImageColor.getrgb(background)[:3] if isinstance(background, str) else tuple(background)
    except ValueError as error:
        raise ValueError(
            f"background={background!r} is no colour. Use a name such as 'white', or '#rrggbb'."
        ) from error
    if len(colour) != 3 or not all(isinstance(part, Integral) and 0 <= int(part) <= 255 for part in colour):
        raise ValueError(f"background={background!r} is no colour. Use three whole numbers from 0 to 255.")
    return colour[0], colour[1], colour[2]
