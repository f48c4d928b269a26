"""SpecAugment: masks over spans of time and bands of frequency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from skembed.augment.operation import Operation, check_number

if TYPE_CHECKING:
    from skembed.backbones.base import Item

__all__ = ["SpecAugment", "draw_spans"]


class _Layout(NamedTuple):
    """Layout of a spectrogram: its axis of time, and frames per unit of `Item.length`."""

    time_axis: int
    frames_per_position: int


#: By the name in `Item.data`. Whisper's encoder halves time.
_LAYOUTS = {"mel": _Layout(1, 2), "spectrogram": _Layout(0, 1)}
#: Channels that a waveform's frequencies are divided into, evenly on the mel scale, as in the paper.
_CHANNELS = 80


@dataclass(frozen=True, repr=False, kw_only=True)
class SpecAugment(Operation):
    """Mask spans of time and bands of frequency [1]_.

    Widths are shares, as in [2]_, so that they suit clips and front ends of any size. The paper's time warping, which
    had the smallest effect, is left out. Masked parts of a spectrogram get the mean of the clip's real frames, which
    corresponds to the paper's zero. Padding is never masked, so the silence behind a clip stays as in pre-training.

    For networks that read raw waveforms, a span of time becomes silence, and a band of frequencies is filtered out, as
    in [3]_.

    Parameters
    ----------
    n_time_masks : int, default=2
        Number of spans of time, from 0 to 20. They may overlap.
    time_share : float, default=0.1
        Largest width of a span as a share of the clip, from 0 to 1. Widths are drawn uniformly.
    n_frequency_masks : int, default=2
        Number of bands of frequency, from 0 to 20.
    frequency_share : float, default=0.2
        Largest width of a band as a share of the mel channels, from 0 to 1. Widths are drawn uniformly. The paper uses
        27 of 80 channels, 0.34.

    References
    ----------
    .. [1] Park et al. (2019), SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition.
    .. [2] Park et al. (2020), SpecAugment on Large Scale Datasets.
    .. [3] Kharitonov et al. (2021), Data Augmenting Contrastive Learning of Speech Representations in the Time Domain.

    Examples
    --------
    >>> SpecAugment(n_time_masks=1).describe()
    'spec_augment(n_time_masks=1)'
    """

    name: ClassVar[str] = "spec_augment"
    modality: ClassVar[str] = "audio"
    n_time_masks: int = 2
    time_share: float = 0.1
    n_frequency_masks: int = 2
    frequency_share: float = 0.2

    def __post_init__(self):
        for count, share in (("n_time_masks", "time_share"), ("n_frequency_masks", "frequency_share")):
            check_number(self, count, 0, 20, whole=True)
            check_number(self, share, 0, 1)
            if getattr(self, count) * getattr(self, share) >= 1:
                raise ValueError(
                    f"{self.name}: {count}={getattr(self, count)} masks of {share}={getattr(self, share)} can leave "
                    "nothing to hear. Their product must be below 1."
                )

    def on_item(self, item, rng, backbone) -> Item:
        for key, layout in _LAYOUTS.items():
            if key in item.data:
                return replace(item, data={**item.data, key: self._mask(item, key, layout, rng)})
        if "waveform" in item.data:
            waveform = self._mask_waveform(item.data["waveform"], rng, backbone.sampling_rate)
            return replace(item, data={**item.data, "waveform": waveform})
        raise ValueError(
            f"{self.name}: {backbone.spec.name} makes items of {sorted(item.data)}, which it cannot mask. "
            "It masks 'mel' (channels, frames), 'spectrogram' (frames, channels) and 'waveform' (samples)."
        )

    def _mask(self, item: Item, key: str, layout: _Layout, rng: np.random.Generator) -> np.ndarray:
        spectrogram = item.data[key].copy()
        frames = np.moveaxis(spectrogram, layout.time_axis, 0)[: item.length * layout.frames_per_position]
        mean = frames.mean()
        for span in draw_spans(self.n_frequency_masks, self.frequency_share, frames.shape[1], rng):
            frames[:, span] = mean
        for span in draw_spans(self.n_time_masks, self.time_share, len(frames), rng):
            frames[span] = mean
        return spectrogram

    def _mask_waveform(self, waveform: np.ndarray, rng: np.random.Generator, rate: int) -> np.ndarray:
        bands = draw_spans(self.n_frequency_masks, self.frequency_share, _CHANNELS, rng)
        changed = _without_bands(waveform, [band for band in bands if band.start < band.stop], rate)
        for span in draw_spans(self.n_time_masks, self.time_share, len(waveform), rng):
            changed[span] = 0
        return changed


def draw_spans(n_spans: int, share: float, length: int, rng: np.random.Generator) -> list[slice]:
    """Draw spans within a length, each of a whole width up to a share of the length.

    Examples
    --------
    >>> draw_spans(2, 0.2, 50, np.random.default_rng(0))
    [slice(26, 35, None), slice(12, 17, None)]
    """
    spans = []
    for _ in range(n_spans):
        width = int(rng.integers(0, int(share * length) + 1))
        start = int(rng.integers(0, length - width + 1))
        spans.append(slice(start, start + width))
    return spans


def _without_bands(waveform: np.ndarray, bands: list[slice], rate: int) -> np.ndarray:
    """Return the waveform without the frequencies of some mel channels."""
    if not bands:
        return waveform.copy()
    spectrum = np.fft.rfft(waveform)
    channel = _mel(np.arange(len(spectrum)) * rate / len(waveform)) / _mel(rate / 2) * _CHANNELS
    for band in bands:
        spectrum[(channel >= band.start) & (channel < band.stop)] = 0
    return np.fft.irfft(spectrum, len(waveform)).astype(np.float32)


def _mel(hertz):
    """Return the mel scale of Stevens, Volkmann & Newman, in O'Shaughnessy's formula."""
    return 2595 * np.log10(1 + hertz / 700)
