"""Texts to embeddings with all-MiniLM-L6-v2."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import data
from benchmarks.common import Goal, Run, Way, Work
from benchmarks.flops import count_text
from benchmarks.measure import cosine_of, ratio_to, share_of
from benchmarks.ours import AUTO, FLOAT32, our_way
from benchmarks.peers import peer, skrub_encoder

__all__ = ["GOALS", "works"]

SHORT = "short texts, MiniLM"
LONG = "long-tailed texts, MiniLM"
DEFAULT = "sentence-transformers, float32"
HALF = "sentence-transformers, bfloat16"

# -- ways -------------------------------------------------------------------------------------------------


def sentence_transformers(work: Work, **model_arguments) -> Run:
    """encode() in its default settings."""
    model = peer("sentence_transformers").SentenceTransformer(
        str(work.backbone), device="cpu", model_kwargs=model_arguments
    )
    return lambda: model.encode(work.samples)


def feature_extraction(work: Work) -> Run:
    """The transformers pipeline; what it returns, tokens as lists of floats, is averaged."""
    import transformers

    pipeline = transformers.pipeline("feature-extraction", model=str(work.backbone), device="cpu")
    return lambda: np.stack([np.mean(tokens[0], axis=0) for tokens in pipeline(work.samples)])


def embetter(work: Work) -> Run:
    """embetter's SentenceEncoder."""
    encoder = peer("embetter.text").SentenceEncoder(str(work.backbone))
    return lambda: encoder.transform(work.samples)


def skrub(work: Work) -> Run:
    """skrub's encoder, called TextEncoder before 0.11: it keeps 30 principal components."""
    import pandas as pd

    encoder = skrub_encoder(work.backbone)
    column = pd.Series(work.samples, name="text")
    encoder.fit(column)
    return lambda: encoder.transform(column).to_numpy()


_WAYS = (
    Way(DEFAULT, sentence_transformers),
    Way(HALF, partial(sentence_transformers, dtype="bfloat16"), precision="bfloat16"),
    Way("transformers pipeline", feature_extraction),
    Way("embetter", embetter),
    Way("skrub", skrub, comparable=False),
    our_way(FLOAT32, "TextEmbedder", precision="float32"),
    our_way(AUTO, "TextEmbedder", precision="auto"),
)


def works(n: int) -> list[tuple[Work, str]]:
    """Works over n texts each, and what the texts are."""
    return [_work(SHORT, data.texts(n)), _work(LONG, data.long_texts(n))]


def _work(name: str, texts: data.Samples) -> tuple[Work, str]:
    counts = data.token_counts(texts.samples)
    source = f"{texts.source}, mean {np.mean(counts):.0f} and 95th percentile {np.percentile(counts, 95):.0f} tokens"
    return Work(name, texts.samples, data.minilm(), _flops(data.minilm(), counts), _WAYS), source


def _flops(directory: Path, counts: list[int]) -> float:
    return sum(times * count_text(directory, length) for length, times in Counter(counts).items())


GOALS = (
    Goal(f"{SHORT}, precision auto", DEFAULT, ratio_to(SHORT, AUTO, DEFAULT), share=share_of(SHORT, AUTO)),
    Goal(f"{SHORT}, precision auto", HALF, ratio_to(SHORT, AUTO, HALF), share=share_of(SHORT, AUTO)),
    Goal(f"{LONG}, precision auto", DEFAULT, ratio_to(LONG, AUTO, DEFAULT), share=share_of(LONG, AUTO)),
    Goal(
        f"{SHORT}, float32", DEFAULT, ratio_to(SHORT, FLOAT32, DEFAULT), 1.7, digits=2, share=share_of(SHORT, FLOAT32)
    ),
    Goal(f"{LONG}, float32", DEFAULT, ratio_to(LONG, FLOAT32, DEFAULT), 1.25, digits=2, share=share_of(LONG, FLOAT32)),
    *cosine_of(SHORT, AUTO, DEFAULT),
    *cosine_of(LONG, AUTO, DEFAULT),
)
