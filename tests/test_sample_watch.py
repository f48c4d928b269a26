"""A bar names the sample that takes long, and expects the time that the lengths of samples tell."""

from __future__ import annotations

import io
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from skembed import AudioEmbedder, ImageEmbedder
from skembed.embedders import image as image_module
from skembed.inference import extract as extract_module
from skembed.inputs.describing import describe
from skembed.utils import progress, sample_watch
from skembed.utils.sample_watch import SampleWatch
from tests.finetune import tuning


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def quick(monkeypatch):
    """Name samples after a tenth of a second."""
    monkeypatch.setattr(sample_watch, "SLOW_AFTER", 0.1)
    monkeypatch.setattr(sample_watch, "_INTERVAL", 0.02)
    monkeypatch.setattr(progress, "DELAY", 0.0)


def _wait_for(words: str, stream: io.StringIO) -> None:
    """Wait until something is shown, at most for some seconds."""
    deadline = time.monotonic() + 10
    while words not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)


def _embedded_slowly(monkeypatch, stream, *, seconds=0.0, **parameters) -> str:
    """Return what is shown while the third of four images is read until it is named, and some seconds longer."""
    read = image_module.read_image

    def read_slowly(sample, **options):
        if sample.getvalue().endswith(b"slow") and parameters.get("verbose", True):
            _wait_for("sample 2 has taken", stream)
            time.sleep(seconds)
        return read(sample, **options)

    with monkeypatch.context() as patch:
        patch.setattr(image_module, "read_image", read_slowly)
        patch.setattr("sys.stderr", stream)
        images = [io.BytesIO(_png() + bytes([i]) + (b"slow" if i == 2 else b"")) for i in range(4)]
        options = {"device": "cpu", "precision": "float32", "cache": None, "verbose": True, **parameters}
        ImageEmbedder(tuning.directory("timm_vit"), **options).fit_transform(images)
    return stream.getvalue()


def test_a_sample_that_is_slow_to_read_is_named_on_the_bar(monkeypatch, quick):
    monkeypatch.setattr("skembed.inputs.describing._described", lambda sample: "a PNG image of 64 x 48 pixels")
    shown = _embedded_slowly(monkeypatch, Terminal())
    assert "sample 2 has taken 0 s: a PNG image of 64 x 48 pixels" in shown
    assert "4/4" in shown.split("\r")[-1]
    assert "sample 2" not in shown.split("\r")[-1], "it is named after it was read"


def test_a_file_that_is_no_terminal_gets_one_line_for_a_slow_sample(monkeypatch, quick):
    lines = _embedded_slowly(monkeypatch, io.StringIO(), seconds=0.2).splitlines()
    assert sum("sample 2 has taken" in line for line in lines) == 1


def test_nobody_watches_without_a_bar(monkeypatch, quick):
    names = []
    run = extract_module._run_batch
    watch = lambda *args, **keys: names.extend(thread.name for thread in threading.enumerate()) or run(*args, **keys)  # noqa: E731
    monkeypatch.setattr(extract_module, "_run_batch", watch)
    assert _embedded_slowly(monkeypatch, Terminal(), verbose=False) == ""
    assert "skembed-watch" not in names
    assert "has taken" in _embedded_slowly(monkeypatch, Terminal())
    assert "skembed-watch" in names
    assert "skembed-watch" not in [thread.name for thread in threading.enumerate()]


def test_a_recording_that_is_slow_to_compute_is_named_by_its_position(monkeypatch, quick):
    run, stream = extract_module._run_batch, Terminal()

    def run_slowly(backbone, items, reading):
        if items[0].data["slow"]:
            _wait_for("sample 2 has taken", stream)
        return run(backbone, items, reading)

    monkeypatch.setattr("sys.stderr", stream)
    clips = [np.random.default_rng(i).normal(size=4000).astype(np.float32) / 9 for i in range(3)]
    clips[1] = np.tile(clips[1], 10)
    options = {"sampling_rate": 16_000, "pad_to_window": False, "device": "cpu", "precision": "float32"}
    embedder = AudioEmbedder(
        tuning.directory("whisper"), cache=None, verbose=True, batch_size=1, window=0.25, **options
    )
    embedder.fit(clips)
    preprocess = type(embedder._load()).preprocess

    def mark(self, samples, reading):
        windows = preprocess(self, samples, reading)
        for own in windows:
            for item in own:
                item.data["slow"] = len(own) > 1
        return windows

    monkeypatch.setattr(type(embedder._load()), "preprocess", mark)
    monkeypatch.setattr(extract_module, "_run_batch", run_slowly)
    embedder.transform([clips[0], clips[0], clips[1], clips[2]])
    assert "sample 2 has taken 0 s: an array of shape (40000,)" in stream.getvalue()


def test_samples_are_described_by_their_headers(tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.zeros(16_000), 8000)
    (tmp_path / "picture").write_bytes(_png())
    expected = {
        "a PNG image of 64 x 48 pixels": [_png(), tmp_path / "picture", str(tmp_path / "picture"), {"bytes": _png()}],
        "a recording of 2 s": [path, path.read_bytes(), {"bytes": None, "path": str(path)}],
        "an array of shape (2000,)": [np.zeros(2000), (np.zeros(2000), 8000), {"array": np.zeros(2000)}],
        "an image of 3 x 2 pixels": [Image.new("L", (3, 2))],
        "a text of 100,000 characters": ["x" * 100_000],
        "": [b"neither", tmp_path, tmp_path / "missing", None, object(), {}, ()],
    }
    for phrase, samples in expected.items():
        assert [describe(sample) for sample in samples] == [phrase] * len(samples)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until a test sets it."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(sample_watch.time, "monotonic", lambda: now.seconds)
    return now


def test_expected_time_counts_lengths_and_preparation(clock):
    bar = SimpleNamespace(total=30, n=0)
    watch = SampleWatch(bar, describe)
    watch.begin()
    clock.seconds += 2  # 0.2 s per sample
    watch.prepared(range(10), [100] * 5 + [20] * 5)
    assert watch.seconds_left() is None
    clock.seconds += 50  # 0.1 s per token
    watch.computed(range(5))
    bar.n = 5
    # 10 s for the five short ones, and for 20 more samples 0.2 s each and 60 tokens each.
    assert watch.seconds_left() == pytest.approx(10 + 20 * 0.2 + 20 * 60 * 0.1)
    clock.seconds += 10
    watch.computed(range(5, 10))
    bar.n = 30  # the rest was cached
    assert watch.seconds_left() == 0


def test_a_bar_shows_the_time_that_is_expected(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress.sample_progress(100, "texts") as bar:
        bar.update(50)
        assert bar.format_dict["rate"] is None or bar.format_dict["rate"] > 1000
        bar.seconds_left = lambda: 25.0
        assert bar.format_dict["rate"] == 2.0
        assert "<00:25" in str(bar)
        bar.seconds_left = lambda: None
        assert "<00:25" not in str(bar)
