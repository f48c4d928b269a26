"""Parameters that are misspelt: the nearest name is offered, and only what is accepted is listed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from sklearn.utils import estimator_checks as checks

import skembed
from skembed import AudioEmbedder, FineTuneClassifier, FineTuneRegressor, ImageEmbedder, TextEmbedder
from skembed.strategies import STRATEGIES, parse_strategy
from skembed.testing import ArrayEmbedder
from skembed.utils.naming import did_you_mean, nearest

SAMPLES = [[0.0, 1.0], [1.0, 0.0]] * 5


@pytest.mark.parametrize(("parameter", "given", "meant"), [
    ("strategy", "progresive", "progressive"),
    ("strategy", "loar", "lora"),
    ("strategy", "LoRA", "lora"),
    ("strategy", "partial+loar", "partial+lora"),
    ("schedule", "slanted-triangular", "slanted_triangular"),
    ("mixup_on", "feature", "features"),
    ("class_weight", "balance", "balanced"),
    ("backbone_factor", "autos", "auto"),
])  # fmt: skip
def test_the_nearest_value_is_offered(parameter, given, meant):
    with pytest.raises(
        ValueError,
        match=rf"The '{parameter}' parameter .* Got '{given}' instead\. Did you mean '{meant}'\?".replace("+", r"\+"),
    ):
        FineTuneClassifier(ArrayEmbedder(), **{parameter: given}).fit(SAMPLES, [0, 1] * 5)


@pytest.mark.parametrize(("embedder", "meant"), [
    (TextEmbedder(pooling="means"), "mean"),
    (ImageEmbedder(precision="float_32"), "float32"),
    (AudioEmbedder(on_error="raises"), "raise"),
    (TextEmbedder(long_text="chunks"), "chunk"),
])  # fmt: skip
def test_embedders_offer_it_too(embedder, meant):
    with pytest.raises(ValueError, match=rf"instead\. Did you mean '{meant}'\?"):
        embedder.fit(["text"])


@pytest.mark.parametrize(("given", "meant"), [("fp16", "float16"), ("half", "float16"), ("BF16", "bfloat16")])
def test_precisions_by_their_short_names(given, meant):
    with pytest.raises(ValueError, match=rf"The 'precision' parameter .*Did you mean '{meant}'\?"):
        TextEmbedder(precision=given).fit(["text"])


def test_what_a_cache_may_be_is_named():
    with pytest.raises(ValueError, match=r"Got 5 instead\. Use 'auto', 'memory', a directory, an EmbeddingCache"):
        TextEmbedder(cache=5).fit(["text"])


def test_layers_may_not_be_empty():
    with pytest.raises(ValueError, match=r"layers=\[\] is empty\. Give at least one"):
        ArrayEmbedder(layers=[]).fit(SAMPLES)


def test_words_are_listed_in_alphabetical_order():
    """Fails when they come as a set holds them, which is another order in each process."""
    with pytest.raises(ValueError, match="strategy") as caught:
        FineTuneClassifier(ArrayEmbedder(), strategy="zzz").fit(SAMPLES, [0, 1] * 5)
    listed = re.findall(r"'([a-z_+]+)'", str(caught.value).partition("{")[2].partition("}")[0])
    assert listed == sorted({*STRATEGIES, "auto"})


def test_what_is_far_from_everything_is_not_guessed_at():
    with pytest.raises(ValueError, match=r"instead\.$"):
        FineTuneRegressor(ArrayEmbedder(), strategy="zzz").fit(SAMPLES, range(10))


@pytest.mark.parametrize("depth", ["partial", "progressive"])
def test_a_prompt_has_no_depth_and_is_not_listed_with_one(depth):
    assert f"{depth}+prompt" not in STRATEGIES
    assert all(parse_strategy(strategy) for strategy in STRATEGIES)
    with pytest.raises(ValueError, match=r'no depth to choose.*Use "prompt" alone'):
        FineTuneClassifier(ArrayEmbedder(), strategy=f"{depth}+prompt").fit(SAMPLES, [0, 1] * 5)
    with pytest.raises(ValueError, match="The 'strategy' parameter") as caught:
        FineTuneClassifier(ArrayEmbedder(), strategy="zzz").fit(SAMPLES, [0, 1] * 5)
    assert "+prompt" not in str(caught.value)


@pytest.mark.parametrize("estimator", [
    FineTuneClassifier(ArrayEmbedder(), max_epochs=0), FineTuneRegressor(ArrayEmbedder(), max_epochs=0),
])  # fmt: skip
def test_scikit_learn_s_own_check_of_parameters(estimator):
    checks.check_param_validation(type(estimator).__name__, estimator)


def test_nearest():
    assert nearest("Querry", ["query", "key", "value"]) == ["query"]
    assert nearest("zzz", ["query"]) == []
    assert did_you_mean("keys", ["query", "key"]) == " Did you mean 'key'?"
    assert did_you_mean("zzz", ["query", "key"]) == ""


def test_completion_offers_the_public_names_and_no_others():
    assert dir(skembed) == sorted(skembed.__all__)
    code = (
        "import sys, skembed; names = dir(skembed);"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules;"
        "from skembed import FineTuneClassifier; assert dir(skembed) == names, set(dir(skembed)) - set(names);"
        "assert all(hasattr(skembed, name) for name in names)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
