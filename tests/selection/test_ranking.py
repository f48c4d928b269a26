"""The table: what is in it, what order it has, and what becomes of candidates that fail."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder, TextEmbedder
from skembed.exceptions import SkembedWarning
from skembed.selection import (
    BackboneSelector,
    h_score,
    knn_score,
    linear_probe_score,
    logme,
    nleep,
    rank_backbones,
    transrate,
)
from skembed.testing import ArrayBackbone, ArrayEmbedder, array_backbone

X, y = load_iris(return_X_y=True)
SCORES = ["logme", "h_score", "nleep", "transrate", "knn", "linear_probe"]


def wide_backbone(n_features: int = 4) -> ArrayBackbone:
    return array_backbone(n_features, width=32)


def broken_backbone(n_features: int = 4) -> ArrayBackbone:
    raise RuntimeError("out of luck")


def _noise(rows):
    return np.random.default_rng(0).normal(size=(len(rows), 3))


def test_every_cell_is_what_the_functions_say():
    """Fails when scores are swapped, layers are not set, or a candidate gets another's rows."""
    table = rank_backbones(X, y, [ArrayEmbedder(), ArrayEmbedder(wide_backbone)], layers=[0, [0, -1]], scores=SCORES)
    assert list(table.columns) == [
        "candidate", *SCORES, "layers", "pooling", "load_seconds", "embedding_seconds", "n_embedded",
        *[f"{score}_seconds" for score in SCORES], "width", "megabytes", "error",
    ]  # fmt: skip
    assert len(table) == 4
    functions = dict(zip(SCORES, (logme, h_score, nleep, transrate, knn_score, linear_probe_score), strict=True))
    for _, line in table.iterrows():
        backbone = {"array_backbone": array_backbone, "wide_backbone": wide_backbone}[line["candidate"]]
        rows = ArrayEmbedder(backbone, layers=line["layers"]).fit_transform(X)
        assert line["width"] == rows.shape[1]
        assert {score: line[score] for score in SCORES} == pytest.approx({s: f(rows, y) for s, f in functions.items()})
        assert (line[[f"{score}_seconds" for score in SCORES]] > 0).all()
        assert line["error"] == ""
    assert table["layers"].tolist().count(0) == 2


def test_layers_stand_as_they_were_asked_for():
    """Beside a candidate that has none, pandas would make 1 to 1.0."""
    table = rank_backbones(X, y, {"rows": ArrayEmbedder(pooling="max"), "plain": StandardScaler()}, layers=[1])
    asked = table.set_index("candidate").loc[["rows", "plain"], ["layers", "pooling"]].to_numpy().tolist()
    assert asked == [[1, "max"], [None, None]]
    assert isinstance(asked[0][0], int)


def test_the_first_score_sorts():
    """Fails for an ascending table, and for one sorted by whatever comes last."""
    candidates = {"noise": FunctionTransformer(_noise), "same": StandardScaler()}
    for scores in (["logme", "transrate"], ["transrate", "logme"], ["knn"]):
        table = rank_backbones(X, y, candidates, scores=scores)
        assert table[scores[0]].is_monotonic_decreasing
    assert table["candidate"].tolist() == ["same", "noise"]


def test_weights_are_counted_in_megabytes():
    """4 x 8 and 2 x 8 x 8 weights of four bytes; nothing for what has none."""
    table = rank_backbones(X, y, [ArrayEmbedder(), StandardScaler()]).set_index("candidate")
    assert table.loc["array_backbone", "megabytes"] == pytest.approx((4 * 8 + 2 * 64) * 4 / 1e6)
    assert np.isnan(table.loc["StandardScaler", "megabytes"])


def test_a_failing_candidate_is_a_line_and_stops_nothing():
    """Its error is there to read, it comes last whatever the order, and there is one warning for all."""
    candidates = [ArrayEmbedder(broken_backbone), ArrayEmbedder(layers=9), "no/such-model", ArrayEmbedder()]
    with pytest.warns(SkembedWarning, match=r"3 of 4 candidates failed.*broken_backbone.*out of luck") as caught:
        table = rank_backbones(X, y, candidates, scores=["logme", "knn"])
    assert len([each for each in caught if issubclass(each.category, SkembedWarning)]) == 1
    assert caught[0].filename == __file__
    assert table["candidate"].tolist() == ["array_backbone", "broken_backbone", "array_backbone", "no/such-model"]
    assert table["error"][0] == ""
    assert table["error"][1] == "RuntimeError: out of luck"
    assert "layers=9 is out of range" in table["error"][2]
    assert "embedder=" in table["error"][3]
    assert table.loc[1:, ["logme", "knn", "width", "megabytes", "embedding_seconds"]].isna().all(axis=None)


def test_a_failing_score_leaves_the_others():
    def fussy(rows, y):
        if rows.shape[1] > 8:
            raise ValueError("too wide")
        return 1.0

    with pytest.warns(SkembedWarning, match=r"1 of 2 candidates lack a score, .*too wide\)\. See the column"):
        table = rank_backbones(X, y, [ArrayEmbedder(), ArrayEmbedder(wide_backbone)], scores=["logme", fussy])
    wide = table[table["candidate"] == "wide_backbone"].iloc[0]
    assert np.isfinite(wide["logme"])
    assert np.isnan(wide["fussy"])
    assert wide["error"] == "fussy: ValueError: too wide"


def test_rows_that_are_not_numbers_are_named():
    """Unreadable samples would be scored away silently, or fail with a word about X that the user never gave."""
    holes = FunctionTransformer(lambda rows: np.where(np.arange(len(rows))[:, None] % 50 == 7, np.nan, rows))
    texts = [f"text {i}" for i in range(150)]
    with pytest.raises(ValueError, match="3 of 150 rows are not finite, first the row of sample 7"):
        rank_backbones(X, y, {"holes": holes})
    with pytest.raises(ValueError, match=r"returns a sparse matrix instead of dense rows of numbers\. .*TruncatedSVD"):
        rank_backbones(texts, y, {"sparse": TfidfVectorizer()})


def test_candidates_are_left_as_they_are():
    embedder = ArrayEmbedder(layers=0)
    for layers in ([-1], None):
        rank_backbones(X, y, [embedder], layers=layers)
    assert embedder.layers == 0
    assert not hasattr(embedder, "spec_")


def test_candidates_say_what_sets_them_apart():
    """Two lines with the same words would be of no use."""
    candidates = [ArrayEmbedder(), ArrayEmbedder(normalize=True), ArrayEmbedder(truncate_dim=4, batch_size=7)]
    names = set(rank_backbones(X, y, candidates)["candidate"])
    assert names == {"array_backbone", "array_backbone, normalize=True", "array_backbone, truncate_dim=4"}


def test_names_are_read_by_the_embedder_given():
    name = "skembed.testing.double:array_backbone"
    table = rank_backbones(X, y, [name], embedder=ArrayEmbedder(layers=0, normalize=True))
    assert table.loc[0, ["layers"]].tolist() == [0]
    rows = ArrayEmbedder(layers=0, normalize=True).fit_transform(X)
    assert table["logme"][0] == pytest.approx(logme(rows, y))


def test_names_that_stand_for_two_modalities_are_asked_about():
    with pytest.raises(ValueError, match=r"image and text.*Pass embedder="):
        rank_backbones(X, y, ["openai/clip-vit-base-patch32"])


def test_seconds_are_those_of_the_samples_that_were_computed():
    """Fails when hits of the cache, or the second of two equal samples, are told as if they had been computed."""
    embedder = ArrayEmbedder(cache=EmbeddingCache())
    half = np.concatenate([X[:50], X[:50], X[50:]])
    first = rank_backbones(half, np.concatenate([y[:50], y[:50], y[50:]]), [embedder], scores=["knn"]).iloc[0]
    assert first["n_embedded"] == len(np.unique(X, axis=0))
    assert first["embedding_seconds"] > 0
    assert first["load_seconds"] > 0
    again = rank_backbones(X, y, [embedder], scores=["knn"]).iloc[0]
    assert again["n_embedded"] == 0
    assert np.isnan(again["embedding_seconds"])
    more = rank_backbones(np.concatenate([X, X[:9] + 1]), [*y, *y[:9]], [embedder], scores=["knn"]).iloc[0]
    assert more["n_embedded"] == 9
    plain = rank_backbones(X, y, [StandardScaler()], scores=["knn"]).iloc[0]
    assert plain["embedding_seconds"] > 0
    assert np.isnan(plain[["load_seconds", "n_embedded"]].to_numpy(dtype=float)).all()


def test_loading_is_no_part_of_the_embedding(monkeypatch):
    """Fails when the first candidate's embedding carries what is read and imported once."""

    def slow_backbone(n_features: int = 4) -> ArrayBackbone:
        time.sleep(0.3)
        return array_backbone(n_features)

    monkeypatch.setattr(sys.modules[__name__], "slow_backbone", slow_backbone, raising=False)
    slow_backbone.__qualname__ = "slow_backbone"
    line = rank_backbones(X, y, [ArrayEmbedder(slow_backbone)], scores=["knn"]).iloc[0]
    assert line["load_seconds"] >= 0.3
    assert line["embedding_seconds"] < 0.3
    assert line["n_embedded"] == len(np.unique(X, axis=0))


@pytest.mark.bundled
def test_images_and_recordings_are_timed_like_texts():
    """A recording without a rate is refused, be it the small one that the weights are first run with."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(8)]
    recordings = [(rng.normal(size=4000).astype(np.float32), 16_000) for _ in range(8)]
    for samples, embedder in ((images, ImageEmbedder()), (recordings, AudioEmbedder(pad_to_window=False))):
        line = rank_backbones(samples, ["a", "b"] * 4, [embedder], scores=["logme"]).iloc[0]
        assert line["n_embedded"] == 8
        assert line["embedding_seconds"] > 0


@pytest.mark.parametrize("scores", [["logme"], ["knn", "logme"]])
def test_when_all_fail_the_reasons_are_the_error(scores):
    bad = [ArrayEmbedder(broken_backbone), ArrayEmbedder(layers=9), "no/such-model"]
    with pytest.raises(ValueError, match=r"none of the 3.*\n.*out of luck\n.*layers=9.*\n.*embedder=") as raised:
        rank_backbones(X, y, bad, scores=scores)
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert len(str(raised.value).splitlines()) == 4


def test_one_reason_of_all_is_told_once():
    with pytest.raises(ValueError, match=r"none of the 3.*\n  all of them: RuntimeError: out of luck$"):
        rank_backbones(X, y, [ArrayEmbedder(broken_backbone)], layers=[0, 1, -1])


def test_small_classes_have_as_many_folds_as_they_can():
    """The default scores of data with a class of three: five folds would be an error for every candidate."""
    kept = np.r_[0:50, 50:53, 100:150]
    table = rank_backbones(X[kept], y[kept], [ArrayEmbedder()], scores=["knn", "linear_probe"])
    rows = ArrayEmbedder().fit_transform(X[kept])
    assert table["knn"][0] == pytest.approx(knn_score(rows, y[kept], cv=3))
    assert table["linear_probe"][0] == pytest.approx(linear_probe_score(rows, y[kept], cv=3))
    few = rank_backbones(X[48:52], y[48:52], [ArrayEmbedder()], scores=["knn"])
    assert 0 <= few["knn"][0] <= 1
    with pytest.raises(ValueError, match=r"smallest class has 1 sample, .*\. Leave out classes"):
        rank_backbones(X[:51], y[:51], [ArrayEmbedder()], scores=["knn"])


def test_missing_classes_are_named():
    missing = np.array(["a", "b", None] * 50, dtype=object)
    with pytest.raises(ValueError, match=r"Input y contains missing values: y\[2\] is None, the first of 50"):
        rank_backbones(X, missing, [ArrayEmbedder()])


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_nan_among_strings_is_no_class(task):
    """Fails when a list is made an array of strings before it is looked at: its NaN is "nan" then."""
    missing = ["a", "b", np.nan] * 50
    with pytest.raises(ValueError, match=r"Input y contains NaN: y\[2\] is nan, the first of 50"):
        rank_backbones(X, missing, [ArrayEmbedder()], task=task)
    with pytest.raises(ValueError, match=r"Input y contains NaN: y\[2\] is nan, the first of 50"):
        BackboneSelector([ArrayEmbedder()], task=task).fit(X, missing)
    with pytest.raises(ValueError, match=r"Input y contains NaN: y\[2\] is nan"):
        knn_score(X, missing, task=task)


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_numbers_among_strings_are_no_classes(task):
    """Fails when NumPy makes strings of them: "1" and 1 are two classes to whoever wrote them."""
    with pytest.raises(ValueError, match=r"y mixes strings with other values: y\[0\] is 'a' and y\[1\] is 1"):
        rank_backbones(X, ["a", 1, "b"] * 50, [ArrayEmbedder()], task=task)
    with pytest.raises(ValueError, match="y mixes strings"):
        logme(X, ["a", 1, "b"] * 50, task=task)


@pytest.mark.parametrize(
    ("given", "meant"), [("hscore", "h_score"), ("LogMe", "logme"), ("linear-probe", "linear_probe")]
)
def test_a_score_that_is_misspelt(given, meant):
    with pytest.raises(ValueError, match=rf"scores holds '{given}', which is unknown\. Did you mean '{meant}'\?"):
        rank_backbones(X, y, [ArrayEmbedder()], scores=[given])


@pytest.mark.parametrize("rank", [rank_backbones, lambda X, y, candidates: BackboneSelector(candidates).fit(X, y)])
def test_what_reads_paths_is_not_ranked_beside_what_reads_texts(rank):
    """Fails when a text network is scored on the letters of paths whose images the other one opens."""
    paths = [f"{animal}/{i}.jpg" for animal in ("cat", "dog") for i in range(5)]
    candidates = [FunctionTransformer(_noise), ImageEmbedder(), TextEmbedder()]
    with pytest.raises(ValueError, match=r"ImageEmbedder .* reads X as image and TextEmbedder .* as text"):
        rank(paths, ["cat"] * 5 + ["dog"] * 5, candidates)


def test_of_an_error_of_many_lines_the_first_is_told():
    def fussy(rows, y):
        raise ValueError("no such thing\n  and more of it")

    with pytest.raises(ValueError, match=r"ValueError: no such thing$"):
        rank_backbones(X, y, [ArrayEmbedder()], scores=[fussy])


def test_candidates_without_a_finite_score_are_no_ranking():
    with pytest.raises(ValueError, match="array_backbone: no finite score"):
        rank_backbones(X, y, [ArrayEmbedder()], scores=[lambda rows, y: float("nan")])
    table = rank_backbones(X, y, [ArrayEmbedder()], scores=[lambda rows, y: float("nan"), "knn"])
    assert table["knn"][0] > 0.5


@pytest.mark.parametrize(
    ("name", "embedder", "near"),
    [
        ("sentence-transformers/all-MiniLM-L6-v3", None, "all-MiniLM-L6-v2"),
        ("resnet50.a1_in1", None, r"resnet50\.a1_in1k"),
        ("sentence-transformers/all-MiniLM-L6-v3", TextEmbedder(), "all-MiniLM-L6-v2"),
        ("openai/whisper-tinyen", AudioEmbedder(), r"whisper-tiny\.en"),
        ("resnet50.a1_in1", ImageEmbedder(), r"resnet50\.a1_in1k"),
    ],
)
def test_names_that_are_nearly_right_are_answered_with_the_right_ones(name, embedder, near):
    with pytest.raises(ValueError, match=rf"{name}: .*Did you mean '.*{near}'.*$") as raised:
        rank_backbones(X, y, [name], embedder=embedder)
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.bundled
def test_a_known_name_finds_its_embedder():
    texts = [f"{animal} number {i}" for animal in ("cat", "dog") for i in range(5)]
    name = "sentence-transformers/all-MiniLM-L6-v2"
    table = rank_backbones(texts, ["cat"] * 5 + ["dog"] * 5, [name, TextEmbedder(layers=0)])
    assert set(table["candidate"]) == {name}
    assert table["megabytes"].tolist() == pytest.approx([90.87] * 2, abs=0.01)


def test_samples_are_drawn_in_proportion():
    """Fails when the draw is not stratified, or X and y are drawn apart."""
    seen = []
    spy = FunctionTransformer(lambda rows: seen.append(rows) or rows)

    def classes(rows, y):
        seen.append(np.bincount(y).tolist())
        return logme(rows, y)

    table = rank_backbones(X, y, [spy], scores=[classes, "knn"], max_samples=60)
    assert len(seen[0]) == 60
    assert seen[-1] == [20, 20, 20]
    assert table["knn"][0] > 0.9
    assert rank_backbones(X, y, [spy], max_samples=1000).shape[0] == 1


@pytest.mark.parametrize("container", [list, pd.Series, pl.Series, lambda values: np.array(values, dtype=object)])
def test_containers_of_samples_and_classes(container):
    texts, classes = [f"text {i} {i % 3}" for i in range(30)], ["abc"[i % 3] for i in range(30)]
    lengths = FunctionTransformer(lambda samples: np.array([[len(s), int(s[-1])] for s in list(samples)], dtype=float))
    table = rank_backbones(container(texts), container(classes), [lengths], max_samples=24)
    assert table["knn"][0] == 1.0


def test_numbers_are_regressed():
    target = X[:, 0] + X[:, 1] / 7
    table = rank_backbones(X, target, [ArrayEmbedder()], scores=["logme", "knn", "linear_probe"])
    rows = ArrayEmbedder().fit_transform(X)
    expected = [logme(rows, target), knn_score(rows, target), linear_probe_score(rows, target)]
    assert table.loc[0, ["logme", "knn", "linear_probe"]].tolist() == pytest.approx(expected)
    assert min(expected[1:]) > 0.5


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, y[:-1], [ArrayEmbedder()]), {}, ValueError, "inconsistent numbers of samples"),
        ((X, y * 0, [ArrayEmbedder()]), {}, ValueError, "y holds 1 class"),
        ((X, y, []), {}, ValueError, "candidates is empty"),
        ((X, y, "resnet50"), {}, TypeError, "candidates='resnet50' is a single one"),
        ((X, y, ArrayEmbedder()), {}, TypeError, "is a single one"),
        ((X, y, [3]), {}, TypeError, "candidates holds 3, which is no"),
        ((X, y, {"a": ArrayEmbedder}), {}, TypeError, "for 'a', which is no"),
        ((X, y, 3), {}, TypeError, "candidates is a int"),
        ((X, y, [ArrayEmbedder()]), {"layers": -1}, TypeError, "layers=-1 must be a list of values"),
        ((X, y, [ArrayEmbedder()]), {"scores": "logme"}, ValueError, "scores='logme' must be a list"),
        ((X, y, [ArrayEmbedder()]), {"scores": ["leep"]}, ValueError, "source head.*'nleep'"),
        ((X, y, [ArrayEmbedder()]), {"scores": ["lgme"]}, ValueError, "'lgme', which is unknown"),
        ((X, X[:, 0], [ArrayEmbedder()]), {"scores": ["h_score"]}, ValueError, "defined for classes only"),
        ((X, y, [ArrayEmbedder()]), {"max_samples": 2}, ValueError, "max_samples=2 is fewer than the 3 classes"),
    ],
)
def test_what_no_candidate_can_mend_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        rank_backbones(*arguments, **options)


def test_importing_selection_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, skembed.selection; known = {'torch', 'transformers', 'timm', 'torchaudio', 'matplotlib'};"
        "heavy = known & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        rank_backbones(X, y, [ArrayEmbedder()])
