"""Names of files given to an embedder of texts: told of once, and ordinary texts are not taken for them."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skembed import FineTuneClassifier, TextEmbedder, advise, rank_backbones
from skembed.exceptions import DecodeError, InputWarning
from skembed.inputs import read_text
from skembed.inputs.text import file_names
from skembed.selection import BackboneSelector
from tests.backbones.tiny_texts import bert

LABELS = ["cat", "dog"] * 12
IMAGES = [f"images/{label}/{i}.JPG" for i, label in enumerate(LABELS)]
RECORDINGS = [f"C:\\calls\\{label}\\take {i}.wav" for i, label in enumerate(LABELS)]
ORDINARY = {
    "sentences": [f"the {label} number {i} sat on the mat" for i, label in enumerate(LABELS)],
    "a word on pictures": [f"see image{i}.png for details of the {label}" for i, label in enumerate(LABELS)],
    "documents": [f"report{i}.pdf" for i in range(24)],
    "addresses": [f"https://example.org/{label}/{i}.jpg" for i, label in enumerate(LABELS)],
    "a few names": [*IMAGES[:12], *[f"a {label}" for label in LABELS]],
    "a last line": [f"What is this {label}?\n{i}.jpg" for i, label in enumerate(LABELS)],
    "words": [*[".jpg", ".png", ".wav", ".mp3"], *LABELS],
    "no strings": [None, 3.5, b"cat.jpg", "cat.jpg"],
}


@pytest.fixture
def embedder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    bert(directory)
    return TextEmbedder(str(directory), precision="float32")


@pytest.mark.parametrize("texts", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_texts_are_no_names_of_files(texts):
    assert file_names(texts) is None


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (IMAGES, "image"),
        (["a.heic", "b.avif"], "image"),
        (["a.wma", "b.amr"], "audio"),
        (RECORDINGS, "audio"),
        ([*IMAGES[:20], "a title"], "image"),
    ],
)
def test_names_are_known_by_what_they_end_in(names, kind):
    assert file_names(names) == (kind, names[0])


def test_files_that_are_there_are_known_whatever_they_end_in(tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / f"scan{i}").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert file_names([f"scan{i}" for i in range(4)]) == ("", "scan0")
    assert file_names([f"scan{i}" for i in range(4, 8)]) is None
    os.mkdir("folder")
    assert file_names(["folder"]) is None


def test_a_few_of_many_texts_are_looked_at(monkeypatch):
    """Fails when all are: 100,000 questions to a network's file system take minutes."""
    asked = []
    monkeypatch.setattr("os.path.isfile", lambda name: asked.append(name) or False)
    texts = [f"text {i}" for i in range(100_000)]
    start = time.perf_counter()
    assert file_names(texts) is None
    assert len(asked) <= 64
    assert time.perf_counter() - start < 1
    # From all over: sorted by class, the first thousand may be of one kind.
    assert int(asked[-1].split()[1]) > 90_000


@pytest.mark.parametrize(("names", "right"), [(IMAGES, "ImageEmbedder()"), (RECORDINGS, "AudioEmbedder()")])
@pytest.mark.parametrize("container", [list, pd.Series, lambda values: np.array(values, dtype=object)])
def test_the_warning_names_the_first_and_what_to_use(names, right, container, embedder):
    with pytest.warns(InputWarning) as told:
        embedder.fit(container(names)).transform(container(names))
    assert len(told) == 1
    message = str(told[0].message)
    assert repr(names[0]) in message
    assert right in message
    assert "embedder=" in message
    assert told[0].filename == __file__


@pytest.mark.parametrize("texts", list(ORDINARY.values())[:-1], ids=list(ORDINARY)[:-1])
def test_ordinary_texts_are_embedded_without_a_word(texts, embedder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.fit_transform(texts)


def _fit(embedder):
    FineTuneClassifier(embedder, strategy="auto", max_epochs=1, batch_size=4, random_state=0).fit(IMAGES, LABELS)


def _select(embedder):
    BackboneSelector([embedder], layers=[0, -1], criterion="linear_probe", max_samples=20).fit(IMAGES, LABELS)


# A tiny vocabulary has no piece of a path.
@pytest.mark.filterwarnings("ignore:The embeddings of 24:skembed.exceptions.FitWarning")
@pytest.mark.parametrize(
    "use",
    [
        _fit,
        _select,
        lambda embedder: advise(IMAGES, LABELS, embedder),
        lambda embedder: rank_backbones(IMAGES, LABELS, [embedder], layers=[0, 1, -1], scores=["linear_probe"]),
    ],
    ids=["fit", "select", "advise", "rank"],
)
def test_one_warning_whoever_fits_the_embedder(use, embedder):
    with pytest.warns(InputWarning) as told:
        use(embedder)
    told = [each for each in told if issubclass(each.category, InputWarning)]
    assert len(told) == 1
    assert told[0].filename == __file__


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Path("cats/1.jpg"), r"got a path.*ImageEmbedder\(\)"),
        (b"RIFF", r"got bytes.*AudioEmbedder\(\)"),
        (np.zeros((4, 4, 3), dtype=np.uint8), r"got ndarray.*ImageEmbedder\(\)"),
        (Image.new("RGB", (4, 4)), r"got Image.*ImageEmbedder\(\)"),
        ((np.zeros(9), 16_000), r"got tuple.*AudioEmbedder\(\)"),
        ({"array": np.zeros(9), "sampling_rate": 16_000}, r"got dict.*AudioEmbedder\(\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_an_image_or_a_recording_is_sent_to_its_embedder(sample, message):
    """To convert it with str() would make the path a text, which is the fault itself."""
    with pytest.raises(DecodeError, match=message) as raised:
        read_text(sample)
    assert "str()" not in str(raised.value)
