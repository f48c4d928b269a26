"""Clips of 1 to 6 s to embeddings with Whisper tiny.en, and with wav2vec 2.0 base of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import data
from benchmarks.common import Goal, Run, Way, Work
from benchmarks.flops import count_wav2vec, count_whisper
from benchmarks.measure import cosine_of, ratio_to, share_of
from benchmarks.ours import AUTO, FLOAT32, our_way

__all__ = ["GOALS", "works"]

PADDED = "clips of 1-6 s, Whisper tiny.en padded to 30 s"
OWN = "clips of 1-6 s, Whisper tiny.en on their own length"
WAV2VEC = "clips of 1-6 s, wav2vec 2.0 base"
ONE_PADDED = "one at a time, padded to 30 s"
ONE = "one at a time"
RATE = 16_000
#: Samples a frame: a hop of 160, and a convolution of stride two.
FRAME = 320

# -- ways -------------------------------------------------------------------------------------------------


def whisper_padded(work: Work) -> Run:
    """Read, extract 30 s of features, run, average the real frames."""
    import torch

    model, extractor = _whisper(work.backbone)

    def embed(clip: np.ndarray) -> np.ndarray:
        features = extractor(clip, sampling_rate=RATE, return_tensors="pt").input_features
        return model(features).last_hidden_state[0, : -(-len(clip) // FRAME)].mean(0).numpy()

    return lambda: _one_at_a_time(torch.inference_mode(), embed, work.samples)


def whisper_own_length(work: Work) -> Run:
    """The encoder's own layers over as many frames as there are."""
    import torch

    model, extractor = _whisper(work.backbone)
    gelu = torch.nn.functional.gelu

    def embed(clip: np.ndarray) -> np.ndarray:
        whole = np.pad(clip, (0, -len(clip) % FRAME))
        features = extractor(whole, sampling_rate=RATE, padding=False, return_tensors="pt").input_features
        hidden = gelu(model.conv2(gelu(model.conv1(features)))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
        for layer in model.layers:
            hidden = layer(hidden, None)
        return model.layer_norm(hidden)[0].mean(0).numpy()

    return lambda: _one_at_a_time(torch.inference_mode(), embed, work.samples)


def wav2vec(work: Work) -> Run:
    """Read, normalise, run, average."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    model = Wav2Vec2Model.from_pretrained(work.backbone).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(work.backbone)

    def embed(clip: np.ndarray) -> np.ndarray:
        values = extractor(clip, sampling_rate=RATE, return_tensors="pt").input_values
        return model(values).last_hidden_state[0].mean(0).numpy()

    return lambda: _one_at_a_time(torch.inference_mode(), embed, work.samples)


def _whisper(directory: Path):
    import torch
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    model = WhisperEncoder.from_pretrained(directory, dtype=torch.float32).eval()
    return model, WhisperFeatureExtractor.from_pretrained(directory)


def _one_at_a_time(mode, embed, paths) -> np.ndarray:
    with mode:
        return np.stack([embed(_read(path)) for path in paths])


def _read(path: Path) -> np.ndarray:
    """A mono recording at 16 kHz."""
    import soundfile
    import soxr

    samples, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, rate, RATE)


_PADDED_WAYS = (
    Way(ONE_PADDED, whisper_padded),
    our_way(FLOAT32, "AudioEmbedder", precision="float32"),
    our_way(AUTO, "AudioEmbedder", precision="auto"),
)
_OWN_WAYS = (
    Way(ONE, whisper_own_length),
    Way(ONE_PADDED, whisper_padded),
    our_way(FLOAT32, "AudioEmbedder", precision="float32", pad_to_window=False),
    our_way(AUTO, "AudioEmbedder", precision="auto", pad_to_window=False),
)
_WAV2VEC_WAYS = (
    Way(ONE, wav2vec),
    our_way(FLOAT32, "AudioEmbedder", precision="float32"),
    our_way(AUTO, "AudioEmbedder", precision="auto"),
)


def works(n: int) -> list[tuple[Work, str]]:
    """Works over n clips each, and what the clips are."""
    files = data.clips(n)
    lengths = [len(_read(path)) for path in files.samples]
    whisper, random = data.whisper(), data.random_wav2vec()
    padded = len(lengths) * count_whisper(whisper, 30 * RATE // FRAME)
    own = sum(count_whisper(whisper, -(-length // FRAME)) for length in lengths)
    waveforms = sum(count_wav2vec(random, length) for length in lengths)
    return [
        (Work(PADDED, files.samples, whisper, padded, _PADDED_WAYS), files.source),
        (Work(OWN, files.samples, whisper, own, _OWN_WAYS), files.source),
        (Work(WAV2VEC, files.samples, random, waveforms, _WAV2VEC_WAYS), files.source),
    ]


GOALS = (
    Goal(f"{OWN}, precision auto", ONE_PADDED, ratio_to(OWN, AUTO, ONE_PADDED), share=share_of(OWN, AUTO)),
    Goal(f"{OWN}, float32", ONE_PADDED, ratio_to(OWN, FLOAT32, ONE_PADDED), 8, share=share_of(OWN, FLOAT32)),
    Goal(PADDED, ONE_PADDED, ratio_to(PADDED, AUTO, ONE_PADDED), share=share_of(PADDED, AUTO)),
    Goal(WAV2VEC, ONE, ratio_to(WAV2VEC, AUTO, ONE), share=share_of(WAV2VEC, AUTO)),
    *cosine_of(PADDED, AUTO, ONE_PADDED),
    *cosine_of(OWN, AUTO, ONE),
    *cosine_of(WAV2VEC, AUTO, ONE),
)
