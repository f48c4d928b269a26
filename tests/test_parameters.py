"""Parameters that are misspelt: the nearest name is offered, and only what is accepted is listed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from sklearn.utils import estimator_checks as checks

import skembed
from skembed import (
    AudioEmbedder,
    Augmentation,
    CutMix,
    FineTuneClassifier,
    FineTuneRegressor,
    ImageEmbedder,
    LoRA,
    Mixup,
    Optimization,
    Partial,
    Progressive,
    TextEmbedder,
)
from skembed.strategies import STRATEGIES
from skembed.testing import ArrayEmbedder
from skembed.utils.naming import did_you_mean, nearest

SAMPLES = [[0.0, 1.0], [1.0, 0.0]] * 5


@pytest.mark.parametrize(("parameter", "given", "meant"), [
    ("strategy", "progresive", "progressive"),
    ("method", "loar", "lora"),
    ("method", "LoRA", "lora"),
    ("class_weight", "balance", "balanced"),
])  # fmt: skip
def test_the_nearest_value_is_offered(parameter, given, meant):
    with pytest.raises(
        ValueError,
        match=rf"The '{parameter}' parameter .* Got '{given}' instead\. Did you mean '{meant}'\?",
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


@pytest.mark.parametrize(("strategy", "method"), [("partial", "lora"), ("progressive", "bitfit"), ("", "adapter")])
def test_methods_given_as_strategies_are_told_apart(strategy, method):
    given = f"{strategy}+{method}".lstrip("+")
    use = f"use strategy='{strategy or 'full'}', method='{method}'"
    with pytest.raises(ValueError, match=f"'strategy' parameter.*{use}"):
        FineTuneClassifier(ArrayEmbedder(), strategy=given).fit(SAMPLES, [0, 1] * 5)


@pytest.mark.parametrize(("parameters", "said"), [
    ({"strategy": Partial(0)}, "'n_blocks' parameter of Partial must be an int in the range"),
    ({"strategy": Progressive("doubled")}, r"'step' parameter of Progressive .*Did you mean 'double'\?"),
    ({"method": LoRA(rank=0.5)}, "'rank' parameter of LoRA must be an int"),
    ({"optimization": Optimization(schedule="slanted-triangular")}, r"Did you mean 'slanted_triangular'\?"),
    ({"optimization": Optimization(backbone_factor="autos")}, r"Did you mean 'auto'\?"),
    ({"augment": Augmentation(views=0)}, "'views' parameter of Augmentation must be an int"),
    ({"mix": Mixup(alpha=-1)}, "'alpha' parameter of Mixup must be a float"),
    ({"mix": Mixup(on="feature")}, r"'on' parameter of Mixup .*Did you mean 'features'\?"),
    ({"mix": "mixupp"}, r"mix='mixupp': use Mixup\(\), CutMix\(\).* Did you mean 'mixup'\?"),
    ({"mix": [Mixup(), "mixup"]}, "has Mixup twice"),
    ({"mix": CutMix}, r"Give an object, not its class: CutMix\(\)"),
    ({"method": LoRA}, r"Give an object, not its class: LoRA\(\)"),
    ({"strategy": Partial}, r"Give an object, not its class: Partial\(\)"),
], ids=str)  # fmt: skip
def test_parameters_of_objects_are_checked_by_name(parameters, said):
    with pytest.raises(ValueError, match=said):
        FineTuneClassifier(ArrayEmbedder(), **parameters).fit(SAMPLES, [0, 1] * 5)


def test_label_smoothing_is_refused_for_numbers():
    regressor = FineTuneRegressor(ArrayEmbedder(), optimization=Optimization(label_smoothing=0.1))
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1 is for classifiers"):
        regressor.fit(SAMPLES, range(10))


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
