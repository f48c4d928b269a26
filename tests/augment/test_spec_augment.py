"""SpecAugment: masks counted, where they may be, and what a masked place holds; in both layouts, and in waveforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skembed.augment import SpecAugment
from skembed.augment.spec_augment import draw_spans
from skembed.backbones.base import AudioOptions, Item
from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from tests.augment.cases import RATE, mel_item, sure, token_backbone
from tests.backbones import tiny

RNG = np.random.default_rng


def _runs(flags):
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]).astype(int)))
    return (edges[1::2] - edges[::2]).tolist()


def _time_first(item):
    """The same clip as AST's front end lays it out: time first, a frame a position."""
    mel = item.data["mel"]
    return Item({"spectrogram": mel.T.copy()}, length=2 * item.length)


def _apply(item, seed, **parameters):
    return SpecAugment(**parameters).on_item(item, RNG(seed), token_backbone())


@pytest.mark.parametrize("layout", ["mel", "spectrogram"])
def test_masks_are_as_many_and_as_wide_as_asked_and_hold_the_mean(layout):
    item = mel_item(n_real=50, n_frames=120)
    mean = item.data["mel"][:, :100].mean()
    item = item if layout == "mel" else _time_first(item)
    times, bands = [], []
    for seed in range(200):
        changed = _apply(item, seed, n_time_masks=2, time_share=0.2, n_frequency_masks=1, frequency_share=0.25)
        new, old = changed.data[layout], item.data[layout]
        assert new.dtype == np.float32
        assert new.shape == old.shape
        assert (changed.length, changed.truncated) == (item.length, item.truncated)
        new, old = (new, old) if layout == "mel" else (new.T, old.T)
        masked = new != old
        assert np.allclose(new[masked], mean)
        assert not masked[:, 100:].any()  # padding
        columns, rows = masked.all(axis=0), masked[:, :100].all(axis=1)
        assert np.array_equal(masked[:, :100], columns[None, :100] | rows[:, None])  # whole columns and rows
        times.append(_runs(columns))
        bands.append(_runs(rows))
    assert {len(runs) for runs in times} - {0} == {1, 2}
    assert {len(runs) for runs in bands} == {0, 1}
    assert max(sum(runs) for runs in times) in range(30, 41)
    widths = [sum(runs) for runs in bands]
    assert (min(widths), max(widths)) == (0, 20)
    assert np.mean(widths) == pytest.approx(10, abs=1.2)


def test_spans_lie_everywhere_and_are_of_any_width():
    spans = [draw_spans(1, 0.3, 20, RNG(seed))[0] for seed in range(2000)]
    widths = [span.stop - span.start for span in spans]
    assert set(widths) == set(range(7))
    for span in spans:
        assert 0 <= span.start <= span.stop <= 20
    covered = np.zeros(20)
    for span in spans:
        covered[span] += 1
    assert covered.min() > 0
    assert {span.stop for span in spans} >= {20}


def test_counts_multiply():
    item = mel_item(n_real=500, n_frames=1000)
    parameters = {"time_share": 0.02, "n_frequency_masks": 0}

    def counts(n_masks):
        views = [_apply(item, seed, n_time_masks=n_masks, **parameters).data["mel"] for seed in range(30)]
        return [len(_runs((mel != item.data["mel"]).all(axis=0))) for mel in views]

    assert max(counts(1)) == 1
    assert 6 < np.mean(counts(10)) <= 10


def test_a_spectrogram_that_was_whisper_s_is_left_with_its_other_entries():
    item = mel_item()
    assert _apply(item, 0).data["attended"] == item.data["attended"]


def _waveform_item(n_samples=16_000):
    waveform = RNG(0).normal(size=n_samples).astype(np.float32)
    return Item({"waveform": waveform}, length=n_samples)


def test_of_a_waveform_spans_of_time_are_silent():
    item = _waveform_item()
    for seed in range(40):
        changed = _apply(item, seed, n_time_masks=3, time_share=0.1, n_frequency_masks=0)
        new, old = changed.data["waveform"], item.data["waveform"]
        silent = new == 0
        assert len(_runs(silent)) <= 3
        assert max([0, *_runs(silent)]) <= 3 * 1600
        assert np.array_equal(new[~silent], old[~silent])
        assert (new.dtype, new.shape, changed.length) == (np.float32, old.shape, item.length)


def test_of_a_waveform_bands_of_frequency_are_gone_and_the_rest_is_as_it_was():
    item, widths = _waveform_item(), []
    hertz = np.fft.rfftfreq(16_000, 1 / RATE)
    mels = 2595 * np.log10(1 + hertz / 700)
    before = np.abs(np.fft.rfft(item.data["waveform"]))
    for seed in range(60):
        new = _apply(item, seed, n_time_masks=0, n_frequency_masks=1, frequency_share=0.2).data["waveform"]
        after = np.abs(np.fft.rfft(new))
        gone = after < 1e-2
        assert len(_runs(gone)) <= 1
        assert np.allclose(after[~gone], before[~gone], atol=1e-2)
        widths.append(np.ptp(mels[gone]) / mels[-1] if gone.any() else 0)
        assert new.dtype == np.float32
    assert 0.15 < max(widths) <= 0.2


def test_an_item_that_it_cannot_read_is_named():
    words = r"spec_augment: tiny makes items of \['features'\], which it cannot mask.*'mel' \(channels, frames\)"
    with pytest.raises(ValueError, match=words):
        sure("spec_augment").on_item(Item({"features": np.zeros(3)}, length=1), RNG(0), token_backbone())


@pytest.mark.parametrize("item", [mel_item(1, 2), _waveform_item(1), _waveform_item(2)])
def test_the_shortest_items(item):
    for seed in range(20):
        for values in sure("spec_augment").on_item(item, RNG(seed), token_backbone()).data.values():
            assert np.isfinite(values).all()


@pytest.mark.parametrize("family", ["whisper", "ast", "wav2vec2"])
def test_masked_items_of_real_front_ends_run_through_their_networks(family, tmp_path):
    getattr(tiny, family)(tmp_path)
    backbone = open_spec(BackboneSpec("audio", str(tmp_path)))
    clip = (0.1 * RNG(0).normal(size=8000)).astype(np.float32)
    item = backbone.preprocess([clip], AudioOptions())[0][0]
    views = [sure("spec_augment").on_item(item, RNG(seed), backbone) for seed in range(3)]
    top = len(backbone.blocks) - 1
    plain, *rows = (backbone.forward_blocks(backbone.collate([one]), [top])[0].values for one in (item, *views))
    assert all(row.shape == plain.shape and torch.isfinite(row).all() for row in rows)
    assert all((row - plain).abs().max() > 1e-3 for row in rows)
