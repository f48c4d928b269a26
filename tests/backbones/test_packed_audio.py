"""Clips of unequal length in one batch: nobody sees a neighbour, whatever is computed together."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from skembed.backbones import packing
from skembed.backbones.base import AudioOptions
from skembed.backbones.models import audio_waveform
from skembed.backbones.packing import Packed, attend
from tests.backbones.tiny import AUDIO
from tests.backbones.tiny_audio import NOISE, PACKED, opened, run

#: Unequal, some equal and side by side, in no order; the last is shorter than one frame.
CLIPS = [NOISE[:9000], NOISE[:20_000], NOISE[3000:23_000], NOISE[:4000], NOISE[1000:10_000], NOISE[:300]]
WAVEFORMS = [family for family in PACKED if family != "whisper"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The backbone of a family, opened once."""
    held = {}

    def get(family):
        if family not in held:
            directory = tmp_path_factory.mktemp(family)
            AUDIO[family](directory)
            held[family] = opened(directory)
        return held[family]

    return get


@pytest.fixture(params=["own groups", "one group"])
def grouping(request, monkeypatch):
    """As on a CPU, and as on an accelerator."""
    monkeypatch.setattr(packing, "_prefers_one_group", lambda device: request.param == "one group")


def alone(backbone, layers, options=None):
    with torch.no_grad():
        return [run(backbone, [clip], layers, options) for clip in CLIPS]


def largest_difference(backbone, layers, expected, options=None):
    """Between a mixed batch and its clips one at a time."""
    with torch.no_grad():
        together = run(backbone, CLIPS, layers, options)
    worst = 0.0
    for row, single in enumerate(expected):
        for ours, theirs in zip(together, single, strict=True):
            assert int(ours.mask[row].sum()) == theirs.values.shape[1]
            worst = max(worst, float((ours.values[row][ours.mask[row]] - theirs.values[0]).abs().max()))
    return worst


@pytest.mark.parametrize(("family", "pad_to_window"), [*((family, True) for family in PACKED), ("whisper", False)])
def test_a_mixed_batch_equals_its_clips_one_at_a_time(tiny, grouping, family, pad_to_window):
    backbone, options = tiny(family), AudioOptions(pad_to_window=pad_to_window)
    layers = range(len(backbone.blocks))
    assert largest_difference(backbone, layers, alone(backbone, layers, options), options) < 1e-5


@pytest.mark.parametrize("family", PACKED)
def test_a_mutant_whose_attention_crosses_clips_is_far_off(tiny, monkeypatch, family):
    backbone, options = tiny(family), AudioOptions(pad_to_window=False)
    expected = alone(backbone, [1], options)

    def across(query, key, value, packed, **kwargs):
        whole = Packed([len(key)], key.device)
        return attend(query, key, value, whole, **{**kwargs, "queries": None, "bias": None})

    monkeypatch.setattr("skembed.backbones.models.audio_whisper.attend", across)
    monkeypatch.setattr(audio_waveform, "attend", across)
    assert largest_difference(backbone, [1], expected, options) > 1e-3


@pytest.mark.parametrize("family", WAVEFORMS)
def test_a_mutant_whose_positions_see_the_neighbours_is_far_off(tiny, monkeypatch, family):
    backbone = tiny(family)
    expected = alone(backbone, [0])
    positions = audio_waveform._positions
    monkeypatch.setattr(audio_waveform, "_positions", lambda module, rows, frames: positions(module, rows, [len(rows)]))
    assert largest_difference(backbone, [0], expected) > 1e-3


@pytest.mark.parametrize("family", PACKED)
def test_a_layer_does_not_depend_on_which_others_are_read(tiny, family):
    """Of the last layer read Whisper computes only what is real, and none computes what lies above."""
    backbone = copy.deepcopy(tiny(family))
    layers = range(len(backbone.blocks))
    with torch.no_grad():
        everything = run(backbone, CLIPS, layers)
        for i in reversed(layers):
            tokens = run(backbone, CLIPS, [i])[0]
            np.testing.assert_allclose(tokens.values.numpy(), everything[i].values.numpy(), atol=1e-5)
            for name, parameter in backbone.module.named_parameters():
                if backbone.blocks[i].owns(name):
                    parameter.fill_(float("nan"))
            if i > 0:
                assert run(backbone, CLIPS, [i - 1])[0].values.isfinite().all()
                assert run(backbone, CLIPS, [i])[0].values.isnan().any()


@pytest.mark.parametrize("family", PACKED)
def test_dropout_is_on_in_training_mode(tiny, family):
    backbone = copy.deepcopy(tiny(family))
    for module in backbone.module.modules():
        for name in ("p", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.5)
    backbone.module.train()
    first, second = (run(backbone, CLIPS[:2], [3])[0].values for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("family", PACKED)
def test_preprocessing_is_the_same_in_threads(tiny, family):
    backbone, options = tiny(family), AudioOptions()

    def prepare(clip):
        return backbone.preprocess([clip], options)[0][0].data

    with ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(pool.map(prepare, CLIPS * 5), map(prepare, CLIPS * 5), strict=True):
            for key, value in theirs.items():
                np.testing.assert_array_equal(ours[key], value)
