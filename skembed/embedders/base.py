"""Base class of the embedders: fit, transform, tags and feature names."""

from __future__ import annotations

import os
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skembed.backbones.loading.registry import resolve
from skembed.backbones.spec import POOLINGS, TunedWeights
from skembed.cache import EmbeddingCache, resolve_cache
from skembed.config import get_config
from skembed.exceptions import TruncationWarning, WeightsMismatchError
from skembed.inference.reading import Reading
from skembed.inputs import as_samples, warn_unreadable
from skembed.utils.identity import digest
from skembed.utils.parameters import HintingParametersMixin, check_path
from skembed.utils.progress import is_showing
from skembed.utils.sklearn_private import Interval, StrOptions, fit_context
from skembed.utils.warnings import warn_once

if TYPE_CHECKING:
    from skembed.backbones.base import Backbone
    from skembed.backbones.loading.card import Card

__all__ = ["BaseEmbedder"]

#: Raised when what a row means changes without its backbone or parameters: no old row is taken for a new one.
_SCHEMA = 1
#: Chunks of decoded samples whose keys are looked up at a time.
_CHUNKS_A_LOOKUP = 8
#: What other libraries call them.
_PRECISIONS = {"fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


class BaseEmbedder(
    HintingParametersMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, metaclass=ABCMeta
):
    """Transformer of raw samples into one float32 row each.

    A subclass adds the parameters of its modality and four small methods that define how a sample is read. Whatever is
    added here becomes part of every embedder.
    """

    #: What is read: "image", "text" or "audio".
    _modality: ClassVar[str]
    #: Features whose length is scaled to one, where they are not those that are kept. Older pickles have no such entry.
    _n_scaled: int | None = None
    #: Decoded samples held in memory at a time.
    _chunk_size: ClassVar[int] = 1024

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "backbone": [str, os.PathLike, callable, TunedWeights],
        "revision": [str, None],
        "layers": [Integral, "array-like", StrOptions({"all"})],
        "pooling": [StrOptions({"auto", *POOLINGS, "layer_attention"})],
        "normalize": ["boolean", StrOptions({"auto"})],
        "truncate_dim": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "device": [str],
        "precision": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "cache": [str, os.PathLike, EmbeddingCache, None],
        "on_error": [StrOptions({"raise", "warn", "nan"})],
        "verbose": ["verbose"],
    }

    # Parameters that every subclass stores in its own explicit __init__.
    backbone: str | os.PathLike | Callable
    revision: str | None
    layers: Any
    pooling: str
    normalize: bool | str
    truncate_dim: int | None
    batch_size: int | str
    device: str
    precision: str
    cache: Any
    on_error: str
    verbose: bool | int

    # -- what a subclass says ---------------------------------------------------------------------------

    @abstractmethod
    def _reader(self, backbone: Backbone) -> Callable[[Any], tuple[Any, bool]]:
        """Return a function that decodes one raw sample for the backbone, or raises DecodeError.

        The function returns the decoded sample and True if it was truncated. Several threads call it.
        """

    @abstractmethod
    def _key(self) -> Callable[[Any], bytes | None]:
        """Return a function that digests a raw sample without decoding it."""

    def _decoding(self) -> tuple[Any, ...]:
        """Return the parameters that change how a sample is decoded; ValueError if one is invalid."""
        return ()

    @abstractmethod
    def _probe(self) -> Any:
        """Return a small valid sample, decoded, which shows the width of a row."""

    def _options(self, card: Card) -> Any:
        """Return the preprocessing options, with the backbone's values instead of None."""
        return None

    def _network_identity(self, card: Card) -> tuple[tuple[str, Any], ...]:
        """Return the options of the network, with the backbone's values instead of None."""
        return self.spec_.options

    def _network_options(self) -> tuple[tuple[str, Any], ...]:
        """Return the options that change the network itself."""
        return ()

    def _samples(self, X, *, reset: bool) -> list[Any]:
        """Return the raw samples of X, one per row."""
        return as_samples(X)

    def _hint(self, name: str, value: Any) -> str:
        if name == "precision" and isinstance(value, str) and value.lower() in _PRECISIONS:
            return f" Did you mean {_PRECISIONS[value.lower()]!r}?"
        if name == "cache":
            return " Use 'auto', 'memory', a directory, an EmbeddingCache that embedders share, or None for no cache."
        return super()._hint(name, value)

    # -- scikit-learn -----------------------------------------------------------------------------------

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None) -> Self:
        """Find the backbone and check the parameters against it.

        Nothing is trained, so nothing leaks from test samples.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples. `fit` does not read their content.
        y : None
            Ignored, present for API consistency.

        Returns
        -------
        self : object
            The fitted embedder.

        Raises
        ------
        BackboneNotFoundError
            If the weights of `backbone` are neither on this machine nor on the hub.
        ValueError
            If `layers`, `truncate_dim` or another parameter is outside of the backbone's range.
        """
        for name in ("backbone", "cache"):
            check_path(getattr(self, name), name)
        self._samples(X, reset=True)
        self.spec_ = resolve(self.backbone, self._modality, revision=self.revision, options=self._network_options())
        decoding = self._decoding()
        if self.device not in ("auto", "cpu"):
            from skembed.utils.device import resolve_device

            resolve_device(self.device)
        card = self._card()
        self.fingerprint_ = card.fingerprint
        self.n_blocks_ = card.n_blocks
        self._reading = reading = Reading(
            layers=_resolve_layers(self.layers, card.n_blocks, self.spec_.name),
            pooling=_resolve_pooling(self.pooling, card, self.spec_.name),
            options=self._options(card),
        )
        self._normalized = card.normalize if self.normalize == "auto" else self.normalize
        self._width = width = self._probe_width(card, reading)
        if self.truncate_dim is not None and self.truncate_dim > width:
            raise ValueError(
                f"truncate_dim={self.truncate_dim} is more than the {width} features that "
                f"{self.spec_.name} gives here. Use a value up to {width}, or None."
            )
        self._n_features_out, self._n_scaled = self._columns(card, width)
        # Device and batch size are not part of it: they change a row by no more than rounding. Of the precision
        # only what was asked for is, since "auto" stays within the same tolerance everywhere.
        network = (self._network_identity(card), self.fingerprint_)
        self._namespace = digest((_SCHEMA, self._modality, *network, reading, decoding, self.precision))
        return self

    def transform(self, X) -> np.ndarray:
        """Embed raw samples.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.

        Returns
        -------
        X_out : ndarray of shape (n_samples, n_features), float32
            One row per sample, in order.

        Raises
        ------
        DecodeError
            If a sample cannot be read and ``on_error="raise"``; the error names its index and path. It is a
            `NonFiniteRowError` if the network returns NaN or infinite numbers for the sample.
        WeightsMismatchError
            If the installed weights differ from those that the embedder was fitted with.
        """
        return self.embed(X)

    def embed(self, X) -> np.ndarray:
        """Embed raw samples as an ndarray, whatever output container is configured.

        Code that computes with the rows calls this method: `transform` returns a dataframe after
        ``set_output(transform="pandas")`` or ``sklearn.set_config(transform_output="pandas")``.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            One row per sample, in order.

        Raises
        ------
        DecodeError, WeightsMismatchError
            As `transform` does.
        """
        return self._transformed(X, self._compute)

    if TYPE_CHECKING:  # scikit-learn's own has no types

        def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> np.ndarray: ...

    def _transformed(self, X, compute) -> np.ndarray:
        """Return finished rows; those that are not cached come from `compute`, such as `_compute`."""
        from skembed.inference.lookup import embed

        check_is_fitted(self)
        samples = self._samples(X, reset=False)
        self._check_weights()
        verbose = self.verbose or is_showing()
        result = embed(
            samples,
            compute,
            key=self._key(),
            n_features=self._width,
            cache=self._resolve_cache(),
            namespace=self._namespace,
            chunk_size=_CHUNKS_A_LOOKUP * self._chunk_size,
            progress=type(self).__name__ if verbose else None,
            load=(self.spec_.name, self._load) if verbose else None,
        )
        if result.errors and self.on_error == "warn":
            warn_unreadable(result.errors, len(samples))
        if result.n_truncated:
            message = self._truncation_message(result.n_truncated, len(samples))
            warn_once(f"{message} This is said once per process and setting.", TruncationWarning, self._namespace)
        return self._finished(result.embeddings)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Return the names of the features of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Ignored, present for API consistency.

        Returns
        -------
        ndarray of str
            Names such as "textembedder17", or "textembedder_layer0_17" if the rows of several layers are concatenated.
        """
        check_is_fitted(self, "_n_features_out")
        layers = self._reading.layers
        if len(layers) == 1 or self._reading.pooling == "layer_attention":
            return super().get_feature_names_out(input_features)
        prefix = type(self).__name__.lower()
        names = [f"{prefix}_layer{layer}_{i}" for layer in layers for i in range(self._layer_width(layer))]
        return np.asarray(names[: self._n_features_out], dtype=object)

    def _layer_width(self, layer: int) -> int:
        """Return the number of features of one layer, which differs between convolutional stages."""
        return self._probe_width(self._card(), replace(self._reading, layers=(layer,)))

    def _finished(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as `transform` does: truncated, and normalized if configured."""
        if self._normalized:
            rows = _unit_length(rows[:, : self._n_scaled or self._n_features_out])
        return np.ascontiguousarray(rows[:, : self._n_features_out])

    def _truncation_message(self, n_truncated: int, n_samples: int) -> str:
        return f"{n_truncated} of {n_samples} samples were longer than the backbone reads, and were truncated."

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = self._modality == "text"
        # Rows are float32 whatever comes in.
        tags.transformer_tags.preserves_dtype = []
        return tags

    # -- inside -----------------------------------------------------------------------------------------

    def _compute(self, samples, *, positions, advance=None):
        """Return batches of rows as they are computed, by the network, which is loaded here."""
        from skembed.inference.extract import extract

        backbone = self._load()
        return extract(
            backbone,
            samples,
            self._reading,
            read=self._reader(backbone),
            positions=positions,
            batch_size=None if self.batch_size == "auto" else int(self.batch_size),
            chunk_size=self._chunk_size,
            on_error=self.on_error,
            advance=advance,
        )

    def _resolve_cache(self) -> EmbeddingCache | None:
        return resolve_cache(get_config()["cache"] if self.cache == "auto" else self.cache)

    def _load(self) -> Backbone:
        from skembed.backbones.loading.load import load
        from skembed.utils.device import resolve_device

        return load(self.spec_, resolve_device(self.device), self.precision)

    def _columns(self, card: Card, width: int) -> tuple[int, int | None]:
        """Return the number of features to keep, and of those to normalize if it differs."""
        if self.truncate_dim is not None:
            return int(self.truncate_dim), None
        # What the backbone was trained to be cut to is its own row, not that of another layer or pooling.
        own_row = (card.n_blocks - 1,), card.default_pooling
        if card.truncate_dim is None or (self._reading.layers, self._reading.pooling) != own_row:
            return width, None
        # As sentence-transformers, which cuts what the normalization of the backbone gives.
        return min(card.truncate_dim, width), width if self.normalize == "auto" else None

    def _found_fingerprint(self) -> str:
        """Return the digest of the installed weights, which are loaded only if necessary."""
        from skembed.backbones.loading.card import identify

        located = identify(self.spec_)
        return self._load().fingerprint if located is None else located.fingerprint

    def _check_weights(self) -> None:
        found = self._found_fingerprint()
        if found != self.fingerprint_:
            raise WeightsMismatchError(
                f"The weights of {self.spec_.name!r} found here (fingerprint {found[:12]}) are not "
                f"those that this {type(self).__name__} was fitted with ({self.fingerprint_[:12]}). Later steps were "
                "fitted on its old rows and would be wrong. Install the weights it was fitted with, or fit again."
            )

    def _card(self) -> Card:
        """Return the properties of the backbone, which is loaded if they are not on record."""
        from skembed.backbones.loading.card import describe, read_card, write_card

        card = read_card(self.spec_, self._found_fingerprint())
        if card is None:
            card = describe(self._load())
            write_card(self.spec_, card)
        return card

    def _probe_width(self, card: Card, reading: Reading) -> int:
        """Return the number of features of a row, measured on a small sample."""
        key = digest(reading)[:16]
        if key not in card.widths:
            from skembed.backbones.loading.card import write_card
            from skembed.inference.extract import probe_width

            card.widths[key] = probe_width(self._load(), self._probe(), reading)
            write_card(self.spec_, card)
        return card.widths[key]


def _resolve_layers(layers, n_blocks: int, name: str) -> tuple[int, ...]:
    """Return layers as positions from 0 to n_blocks - 1, in the given order."""
    if isinstance(layers, str):
        return tuple(range(n_blocks))
    asked = [layers] if isinstance(layers, Integral) else list(layers)
    if not asked:
        raise ValueError(f"layers={layers!r} is empty. Give at least one of the {n_blocks} blocks of {name}, or 'all'.")
    if not all(isinstance(layer, Integral) and -n_blocks <= int(layer) < n_blocks for layer in asked):
        raise ValueError(
            f"layers={layers!r} is out of range: {name} has {n_blocks} blocks, stem included. "
            f"Use whole numbers from {-n_blocks} to {n_blocks - 1}, or 'all'."
        )
    return tuple(int(layer) % n_blocks for layer in asked)


def _resolve_pooling(pooling: str, card: Card, name: str) -> str:
    if pooling == "auto":
        return card.default_pooling
    if pooling == "cls" and not card.class_token:
        raise ValueError(f"pooling='cls': {name} has no class token. Use 'auto', 'mean' or 'max'.")
    return pooling


def _unit_length(rows: np.ndarray) -> np.ndarray:
    """Return rows scaled to Euclidean length one; rows of zeros stay zeros."""
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if np.isinf(norms).any():
        # Squares of numbers beyond 1e19 overflow in float32.
        rows = rows.astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)
    return rows / np.where(norms == 0, 1, norms)
