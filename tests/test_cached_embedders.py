"""Every distinct sample is embedded once: in a call, across folds, candidates, threads, processes and runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from joblib import parallel_backend
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder, TextEmbedder, config_context
from skembed.backbones.loading.load import loaded
from skembed.exceptions import DecodeWarning, TruncationWarning
from skembed.testing import ArrayEmbedder
from tests.backbones import tiny
from tests.counting import counting_backbone, counts

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
y = np.arange(40) % 2


@pytest.fixture
def counted(tmp_path, monkeypatch):
    path = tmp_path / "counts"
    path.touch()
    monkeypatch.setenv("SKEMBED_COUNTS", str(path))
    # Nobody has met the backbone before, here or in another process.
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    loaded.clear()
    return path


def _search(cache, n_jobs=None):
    pipeline = make_pipeline(ArrayEmbedder(counting_backbone, cache=cache), LogisticRegression())
    grid = {"logisticregression__C": np.logspace(-3, 3, 8)}
    return GridSearchCV(pipeline, grid, cv=5, n_jobs=n_jobs).fit(X, y)


@pytest.mark.parametrize("where", ["memory", "disk", "shared", "setting"])
def test_a_search_embeds_each_sample_once_and_loads_once(counted, tmp_path, where):
    caches = {"memory": "memory", "disk": tmp_path / "c", "shared": EmbeddingCache(), "setting": "auto"}
    with config_context(cache=EmbeddingCache() if where == "setting" else None):
        cached = _search(caches[where])
    # A process's own memory cache may know these rows from another test, but never more of them.
    loads, samples, _ = counts(counted)
    assert loads == 1
    assert samples == 40 + 1  # and the probe that tells the width
    counted.write_text("")
    plain = _search(None)
    assert counts(counted)[1] > 40 * 8 * 5
    np.testing.assert_allclose(cached.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


def test_processes_load_once_share_the_disk_and_the_cores(counted, tmp_path):
    with parallel_backend("loky", n_jobs=2):
        _search(tmp_path / "c", n_jobs=2)
    loads, samples, lines = counts(counted)
    processes = {line[1] for line in lines}
    assert loads <= len(processes)
    assert len(processes) <= 3
    # Both workers may begin with the same samples; from then on one finds what the other has embedded.
    assert samples <= 2 * 40 + len(processes)
    workers = [int(line[2]) for line in lines if line[0] == "sample" and line[1] != str(os.getpid())]
    assert max(workers, default=1) <= max(1, (os.cpu_count() or 1) // 2)
    counted.write_text("")
    _search(tmp_path / "c")
    assert counts(counted)[1] == 0


def test_threads_wait_for_what_another_embeds(counted):
    with parallel_backend("threading", n_jobs=4):
        _search(EmbeddingCache(), n_jobs=4)
    loads, samples, _ = counts(counted)
    assert loads == 1
    # Each of the four may have probed the width before one of them knew it.
    assert 41 <= samples <= 44


def _png(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


MODALITIES = {
    "text": (TextEmbedder, {}, ["a", "b c", "a"], 2),
    "image": (ImageEmbedder, {}, [_png("red"), _png("blue"), _png("red")], 2),
    "audio": (AudioEmbedder, {"sampling_rate": 16_000, "pad_to_window": False}, [np.sin(np.arange(4000) / k)
              for k in (5, 9, 5)], 2),
}  # fmt: skip


@pytest.mark.bundled
@pytest.mark.parametrize("modality", MODALITIES)
def test_warm_is_cold(modality, tmp_path):
    cls, parameters, samples, n_distinct = MODALITIES[modality]
    cache = EmbeddingCache(tmp_path / "c")
    plain = cls(device="cpu", cache=None, **parameters).fit_transform(samples)
    cold = cls(device="cpu", cache=cache, **parameters).fit_transform(samples)
    warm = cls(device="cpu", cache=cache, **parameters).fit_transform(samples)
    assert cache.info().entries == n_distinct
    np.testing.assert_array_equal(cold, warm)
    np.testing.assert_allclose(cold, plain, atol=0.02)
    np.testing.assert_array_equal(warm[0], warm[2])


@pytest.mark.parametrize("modality", ["text", "image", "audio"])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_rows_depend_on_neither_batches_nor_order_nor_what_was_known(modality, batch_size, tmp_path):
    family = {"text": "bert", "image": "timm_vit", "audio": "wav2vec2_stable"}[modality]
    tiny.BUILDERS[family](tmp_path)
    samples, rng = _of_many_lengths(modality, 40), np.random.default_rng(1)
    cls = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}[modality]
    rate = {"sampling_rate": 16000} if modality == "audio" else {}

    def rows(where, size, cache):
        embedder = cls(str(tmp_path), device="cpu", precision="float32", batch_size=size, cache=cache, **rate)
        return embedder.fit(samples).transform([samples[i] for i in where])

    alone = np.concatenate([rows([i], 1, None) for i in range(40)])
    order = rng.permutation(40)
    np.testing.assert_allclose(rows(order, batch_size, None), alone[order], atol=2e-5)
    # Every third is known from batches of another size; all of them the time after.
    cache = EmbeddingCache()
    rows(order[::3], 5, cache)
    np.testing.assert_allclose(rows(np.arange(40), batch_size, cache), alone, atol=2e-5)
    misses = cache.info().misses
    np.testing.assert_allclose(rows(order, batch_size, cache), alone[order], atol=2e-5)
    assert cache.info().misses == misses


def _of_many_lengths(modality, n):
    rng = np.random.default_rng(0)
    if modality == "text":
        return [f"{i} " + " ".join(rng.choice(["cat", "moon", "over"], size=rng.integers(1, 6))) for i in range(n)]
    if modality == "image":
        return [rng.integers(0, 256, size=(20 + i, 40, 3), dtype=np.uint8) for i in range(n)]
    return [(0.1 * rng.normal(size=2000 + 300 * int(rng.integers(20)))).astype(np.float32) for i in range(n)]


@pytest.mark.bundled
def test_every_setting_that_changes_a_row_changes_its_place():
    cache, samples = EmbeddingCache(), ["one text of some length", "another"]
    variants = [
        {}, {"layers": -2}, {"layers": [-2, -1]}, {"pooling": "max"}, {"max_length": 4}, {"prompt": "query: "},
        {"max_length": 4, "long_text": "chunk"}, {"precision": "float32"}, {"precision": "bfloat16"},
    ]  # fmt: skip
    for n, variant in enumerate(variants, 1):
        embedder = TextEmbedder(device="cpu", cache=cache, **variant)
        if variant == {"max_length": 4}:
            with pytest.warns(TruncationWarning):
                embedder.fit_transform(samples)
        else:
            embedder.fit_transform(samples)
        assert cache.info().entries == 2 * n, variant
    # These change what is made of a row, or how it is computed, and not the row.
    for variant in (
        {"truncate_dim": 5},
        {"normalize": False},
        {"batch_size": 1},
        {"on_error": "nan"},
        {"revision": None},
    ):
        rows = TextEmbedder(device="cpu", cache=cache, **variant).fit_transform(samples)
        assert cache.info().entries == 2 * len(variants), variant
        assert rows.shape == (2, variant.get("truncate_dim", 384))


@pytest.mark.bundled
def test_other_weights_under_the_same_name_miss(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny.bert(directory := tmp_path)
    cache = EmbeddingCache()
    first = TextEmbedder(str(directory), device="cpu", cache=cache).fit_transform(["a"])
    state = load_file(directory / "model.safetensors")
    save_file({name: 1.5 * value for name, value in state.items()}, directory / "model.safetensors", {"format": "pt"})
    second = TextEmbedder(str(directory), device="cpu", cache=cache).fit_transform(["a"])
    assert cache.info().entries == 2
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.bundled
def test_warnings_and_errors_are_the_same_from_a_warm_cache(tmp_path, monkeypatch):
    embedder = TextEmbedder(device="cpu", max_length=4, cache=EmbeddingCache(tmp_path), on_error="warn")
    for _ in range(2):
        monkeypatch.setattr("skembed.utils.warnings._given", set())  # as in a new process
        with pytest.warns(TruncationWarning, match="2 of 4"), pytest.warns(DecodeWarning, match="1 of 4"):
            embedder.fit_transform(["a text of more than four tokens", None, "a", "a text of more than four tokens"])


@pytest.mark.bundled
def test_a_warm_run_in_a_new_process_never_touches_torch(tmp_path):
    code = """
import sys
from skembed import TextEmbedder
X = TextEmbedder(cache=sys.argv[1]).fit_transform([f"text number {i}" for i in range(50)])
loaded = {"torch", "transformers"} & set(sys.modules)
print(X.shape, float(X.sum()), sorted(loaded))
"""
    cold = TextEmbedder(cache=tmp_path).fit_transform([f"text number {i}" for i in range(50)])
    command = [sys.executable, "-c", code, str(tmp_path)]
    warm = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert warm.stdout.strip() == f"{cold.shape} {float(cold.sum())} []"


def test_a_cache_survives_clone_and_search_parameters():
    cache = EmbeddingCache()
    embedder = ArrayEmbedder(cache=cache)
    assert clone(embedder).cache is cache
    assert clone(embedder).set_params(cache=None).cache is None
    with pytest.raises(ValueError, match="'cache' parameter"):
        ArrayEmbedder(cache=3).fit(X)
