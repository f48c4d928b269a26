"""Clips of unequal length in one batch: nobody sees a neighbour, whatever is computed together."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from skembed.backbones import attention, audio_packed
from skembed.backbones.audio_packed import Packing, attend, pad_rows
from skembed.backbones.base import AudioOptions
from skembed.backbones.models import audio_waveform
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
    monkeypatch.setattr(audio_packed, "_prefers_one_group", lambda device: request.param == "one group")


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

    def across(query, key, value, n_heads, packing, **kwargs):
        whole = Packing([len(key)], key.device)
        return attend(query, key, value, n_heads, whole, **{**kwargs, "queries": None, "bias": None})

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


# -- packing itself ---------------------------------------------------------------------------------------


def rows_of(lengths, width=8, dtype=torch.float32):
    return torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("lengths", [[3, 5, 5, 1], [4, 4], [7]])
def test_joining_undoes_splitting(lengths, together):
    packing, rows = Packing(lengths, torch.device("cpu"), together=together), rows_of(lengths)
    assert torch.equal(packing.join(packing.split(rows)), rows)
    assert sum(clips for clips, _ in packing.groups) == len(lengths)
    assert len(packing.groups) == (1 if together else len(set(lengths)))


def test_padding_is_zeros_behind_the_clips():
    values, mask = pad_rows(rows_of([2, 3, 1]), [2, 3, 1])
    assert mask.tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    assert torch.equal(values[mask], rows_of([2, 3, 1]))
    assert not values[~mask].any()


@pytest.fixture
def without_matrix_units(monkeypatch):
    """As on a CPU whose fused attention has no bfloat16 of its own; counts how often products are taken."""
    calls, products = [], attention._by_products
    monkeypatch.setattr(attention, "_has_matrix_units", lambda: False)
    monkeypatch.setattr(attention, "_by_products", lambda *heads: calls.append(1) or products(*heads))
    return calls


@pytest.mark.parametrize("scores", [10**7, 50_000])
def test_attention_by_products_is_attention(without_matrix_units, monkeypatch, scores):
    monkeypatch.setattr(attention, "_SCORES", scores)
    lengths = [330, 150, 150, 20]
    packing = Packing(lengths, torch.device("cpu"))
    query, key, value = (rows_of(lengths, 48, torch.bfloat16) * scale for scale in (1.0, 2.0, 0.5))
    found = attend(query, key, value, 2, packing).float()
    # 330, both of 150 together, and 20.
    assert len(without_matrix_units) == 3
    expected = [
        scaled_dot_product_attention(*(x.unflatten(-1, (2, -1)).transpose(1, 2).float() for x in heads))
        for heads in zip(packing.split(query), packing.split(key), packing.split(value), strict=True)
    ]
    expected = packing.join(out.transpose(1, 2).flatten(2) for out in expected)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=1).min() > 0.9999


def test_gradients_do_not_go_through_products(without_matrix_units):
    packing, rows = Packing([200], torch.device("cpu")), rows_of([200], 16, torch.bfloat16).requires_grad_()
    attend(rows, rows, rows, 2, packing).sum().backward()
    assert not without_matrix_units
    assert rows.grad.isfinite().all()
