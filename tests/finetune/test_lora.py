"""LoRA against its formula, where it looks for layers, how small its pickle is, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.layers import Conv2dSame
from transformers.pytorch_utils import Conv1D

from skembed import FineTuneClassifier, FineTuneRegressor, LoRA, Progressive, find_learning_rate
from skembed.backbones.base import Block
from skembed.backbones.loading.load import load, loaded
from skembed.backbones.spec import TunedWeights
from skembed.backbones.tuning.lora import low_rank_change, split_factor
from skembed.backbones.tuning.targets import find_targets
from skembed.exceptions import FitWarning
from skembed.finetune.loop import Pull
from skembed.testing import ArrayEmbedder
from tests.finetune import tuning

CPU = torch.device("cpu")
BLOCKS = [Block("all", ("0",))]
FAMILIES = ("bert", "timm_vit", "timm_resnet", "timm_efficientnet", "gpt2")


def _module(embedder):
    return load(embedder.spec_, CPU, "float32").module


def _factors(tuned):
    """A and B of each layer, by hand from the stored names."""
    tensors = tuned.tensors()
    hosts = {name.partition(".lora_")[0] for name in tensors}
    return {host: [tensors[f"{host}.lora_{which}.added_0.weight"] for which in "AB"] for host in hosts}


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights_are_those_of_the_formula(family):
    classifier = tuning.fit(family, "full", "lora", method__rank=3, method__alpha=5)
    tuned = classifier.embedder_.backbone
    assert tuned.added == {"added_0": {"method": "lora", "scale": 5 / 3}}
    base, merged = (_module(embedder) for embedder in (tuning.embedder(family).fit(tuning.samples(family)[0][:1]),
                                                       classifier.embedder_))  # fmt: skip
    moved = 0
    for host, (a, b) in _factors(tuned).items():
        weight = base.get_submodule(host).weight
        change = 5 / 3 * torch.einsum("or,ri->oi", b.flatten(1), a.flatten(1))
        # GPT-2 keeps its weights the other way round.
        change = change.T if family == "gpt2" else change.reshape(weight.shape)
        torch.testing.assert_close(merged.get_submodule(host).weight, weight + change, atol=1e-6, rtol=1e-6)
        moved += bool(change.abs().max() > 1e-5)
    assert moved > 0.8 * len(_factors(tuned))
    assert not [name for name, _ in merged.named_modules() if "lora" in name]


@pytest.mark.parametrize(("layer", "shape"), [
    (lambda: torch.nn.Linear(6, 5), (2, 3, 6)), (lambda: Conv1D(5, 6), (2, 3, 6)),
    (lambda: torch.nn.Conv2d(6, 5, 3, stride=2, padding=1), (2, 6, 9, 8)),
    (lambda: torch.nn.Conv2d(6, 5, (1, 3), bias=False), (2, 6, 9, 8)),
    (lambda: Conv2dSame(6, 5, 3, stride=2), (2, 6, 9, 8)), (lambda: torch.nn.Conv2d(6, 5, 1, stride=2), (2, 6, 9, 8)),
])  # fmt: skip
def test_factors_beside_a_layer_compute_what_its_merged_weight_does(layer, shape):
    torch.manual_seed(0)
    network = torch.nn.Sequential(layer())
    plain, x = copy.deepcopy(network[0]), torch.randn(shape)
    assert find_targets(network, BLOCKS, None, "it") == ["0"]
    LoRA(rank=2, alpha=3.0).attach(
        SimpleNamespace(module=network, spec=SimpleNamespace(name="it")), BLOCKS, "added_0", {}
    )
    factors = {split_factor(name)[1]: value for name, value in network.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        torch.nn.init.normal_(factors["B"])
        plain.weight += low_rank_change(plain, factors["A"], factors["B"], 1.5)
        torch.testing.assert_close(network(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "timm_resnet"])
def test_the_pickle_holds_the_factors_and_little_else(family, monkeypatch):
    """A rank that outweighs the names of the tensors, as ranks do in networks that are not tiny."""
    monkeypatch.setattr("skembed.backbones.tuning.lora._check_rank", lambda *_: None)
    classifier = tuning.fit(family, "full", "lora", method__rank=64)
    factors = sum(value.nbytes for value in classifier.embedder_.backbone.tensors().values())
    assert factors == sum(a.nbytes + b.nbytes for a, b in _factors(classifier.embedder_.backbone).values())
    assert len(pickle.dumps(classifier)) < 1.2 * factors


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_every_fast_path_is_open_to_what_was_trained(method):
    """Half precision, and a compiler that folds and fuses."""
    X, _ = tuning.samples("bert")
    tuned = tuning.fit("bert", "full", method).embedder_
    rows, half = tuned.transform(X), tuning.embedder("bert", backbone=tuned.backbone, precision="bfloat16")
    cosines = (rows * half.fit_transform(X)).sum(1) / np.linalg.norm(rows, axis=1)
    assert (cosines / np.linalg.norm(half.transform(X), axis=1)).min() > 0.999
    pytest.importorskip("openvino")
    X, _ = tuning.samples("timm_resnet")
    tuned = tuning.fit("timm_resnet", "full", method).embedder_
    compiled = tuning.embedder("timm_resnet", backbone=tuned.backbone, engine="openvino").fit_transform(X)
    np.testing.assert_allclose(compiled, tuned.transform(X), atol=1e-3 * np.abs(compiled).max())


def test_blocks_that_never_trained_are_not_stored():
    X, _ = tuning.samples("bert")
    classifier = tuning.fit("bert", "progressive", "lora", strategy__stage_epochs=1, max_epochs=2)
    assert {name.split(".")[2] for name in classifier.embedder_.backbone.tensors()} == {"2"}
    assert [record["stage"] for record in classifier.history_] == ["head", "top block, lora"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict(X), classifier.predict(X))


def test_merged_estimators_hold_whole_weights():
    classifier, (X, _) = tuning.fit("bert", "full", "lora"), tuning.samples("bert")
    merged = classifier.merged()
    tuned = merged.embedder_.backbone
    assert tuned.added == {}
    assert all(name.endswith(".weight") and ".lora_" not in name for name in tuned.tensors())
    np.testing.assert_allclose(merged.predict_proba(X), classifier.predict_proba(X), atol=1e-6)
    assert ".lora_" in str(classifier.embedder_.backbone.tensors().keys()), "the estimator is as it was"
    frozen = tuning.fit("bert", "partial")
    assert frozen.merged().embedder_ is frozen.embedder_


def test_a_second_fit_goes_on_from_the_first():
    X, y = tuning.samples("bert")
    first = tuning.fit("bert", "full", "lora", warm_start=True)
    rows = first.transform(X)
    first.set_params(learning_rate=1e-9).fit(X, y)
    tuned = first.embedder_.backbone
    assert list(tuned.added) == ["added_0", "added_1"]
    np.testing.assert_allclose(first.transform(X), rows, atol=1e-5)
    first.set_params(method="weights", learning_rate=1e-6).fit(X, y)
    # What was merged into weights that trained since is in them.
    assert first.embedder_.backbone.added == {}
    np.testing.assert_allclose(first.transform(X), rows, atol=1e-3)
    first.set_params(method="adapter").fit(X, y)
    assert list(first.embedder_.backbone.added) == ["added_0"]


def test_kinds_of_additions_stand_on_one_another():
    X, y = tuning.samples("bert")
    classifier = tuning.fit("bert", "full", "adapter", warm_start=True)
    for method in ("lora", "prefix", "prompt", "adapter", "lora"):
        strategy = "partial" if method == "adapter" else "full"
        classifier.set_params(strategy=strategy, method=method).fit(X, y)
        # Adapted once: what is handed on past the blocks below has gone through their adapters.
        assert classifier.history_[0]["replayed"] == (strategy == "partial"), classifier.report_
    records = [record["method"] for record in classifier.embedder_.backbone.added.values()]
    assert records == ["adapter", "lora", "prefix", "prompt", "adapter", "lora"]
    expected = classifier.predict_proba(X)
    loaded.clear()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(X), expected)


# -- regularization, guard, checkpoint ------------------------------------------------------------------


def test_the_pull_is_the_distance_of_the_changed_weights():
    built = tuning.network("timm_resnet", "lora", rank=2, alpha=3)
    built.unfreeze(2)
    with torch.no_grad():
        for value in built.parameters():
            value.add_(0.1)
    pairs = {name: value for name, value in built.named_parameters() if ".lora_" in name}
    hosts = {name.partition(".lora_")[0] for name in pairs}
    expected = sum(
        (1.5 * pairs[f"{h}.lora_B.added_0.weight"].flatten(1) @ pairs[f"{h}.lora_A.added_0.weight"].flatten(1))
        .square().sum()
        for h in hosts
    )  # fmt: skip
    torch.testing.assert_close(Pull(built, 2.0)(), expected)
    assert len(hosts) > 2


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit"])
def test_a_killed_fit_ends_at_the_same_result(method, tmp_path):
    X, _ = tuning.samples("bert")
    parameters = {"max_epochs": 3, "optimization__ema": 0.9, "optimization__l2_sp": 0.01, "checkpoint_dir": tmp_path}
    whole = tuning.fit("bert", "partial", method, **parameters)

    calls = []

    def killed(*_):
        calls.append(1)
        if len(calls) == 2:
            raise SystemExit

    from skembed.finetune import recipe as recipe_module

    original = recipe_module.Recipe._record
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_module.Recipe, "_record", lambda self, *a: killed() or original(self, *a))
        with pytest.raises(SystemExit):
            tuning.fit("bert", "partial", method, **parameters)
    again = tuning.fit("bert", "partial", method, **parameters)
    np.testing.assert_array_equal(again.predict_proba(X), whole.predict_proba(X))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "prompt", "bitfit", "norms"])
def test_what_does_harm_is_not_kept(method):
    """Judged by what the probe knows by heart: of a few new samples a ruined network may get more right by luck."""
    X, y = tuning.samples("bert")
    classifier = FineTuneClassifier(
        tuning.embedder("bert"), strategy="full", method=method, learning_rate=100.0, max_epochs=2, random_state=0
    )
    with pytest.warns(FitWarning, match="copies of training samples"):
        classifier.fit(X, y, X_val=X, y_val=y)
    assert classifier.kept_ == "probe"
    np.testing.assert_array_equal(classifier.transform(X), tuning.embedder("bert").fit_transform(X))


def test_refit_regression_and_the_search_for_a_rate():
    X, _ = tuning.samples("bert")
    regressor = FineTuneRegressor(
        tuning.embedder("bert"), strategy=Progressive(stage_epochs=2), method="lora", max_epochs=4, random_state=0
    )
    regressor.fit(X, np.linspace(0, 1, len(X)))
    assert regressor.predict(X).shape == (len(X),)
    curve = find_learning_rate(regressor, X, np.linspace(0, 1, len(X)), n_steps=10)
    assert 1e-6 <= curve.suggestion <= 1


# -- what is refused ------------------------------------------------------------------------------------


def test_unknown_targets_name_the_nearest():
    with pytest.raises(ValueError, match=r"target_modules names 'queri'.*Nearest are 'query'"):
        tuning.fit("bert", "full", "lora", method__target_modules=["queri"])
    # A piece of a name is no ending of it.
    with pytest.raises(ValueError, match="names 'uery'"):
        tuning.fit("bert", "full", "lora", method__target_modules=["uery"])


@pytest.mark.parametrize(("family", "target", "kind"), [
    ("bert", "LayerNorm", "LayerNorm"), ("timm_efficientnet", "conv_dw", "Conv2d"),
])  # fmt: skip
def test_targets_that_cannot_be_changed_are_named(family, target, kind):
    with pytest.raises(ValueError, match=rf"target_modules names '{target}': .* is a {kind}"):
        tuning.fit(family, "full", "lora", method__target_modules=[target])


def test_a_network_without_linear_maps_is_refused():
    X = np.random.default_rng(0).normal(size=(20, 4))
    from skembed import FineTuneClassifier

    for method, message in (("lora", "no linear map"), ("bitfit", "has no biases"), ("norms", "no normaliz")):
        with pytest.raises(ValueError, match=message):
            FineTuneClassifier(ArrayEmbedder(), strategy="full", method=method).fit(X, np.arange(20) % 2)


def test_without_peft_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install skembed\[peft\]"):
        tuning.fit("bert", "full", "lora")


def test_predictions_need_no_peft(monkeypatch):
    classifier = tuning.fit("bert", "full", "lora")
    data, expected = pickle.dumps(classifier), classifier.predict_proba(tuning.TEXTS)
    loaded.clear()
    # Without its modules as well, which a pickle would find by their own names.
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(tuning.TEXTS), expected)


def test_skops_and_the_fingerprint_know_of_additions():
    from skops.io import dumps, get_untrusted_types
    from skops.io import loads as load_skops

    embedder = tuning.fit("bert", "full", "lora").embedder_
    data = dumps(embedder)
    again = load_skops(data, trusted=get_untrusted_types(data=data))
    np.testing.assert_array_equal(again.transform(tuning.TEXTS), embedder.transform(tuning.TEXTS))
    tuned = embedder.backbone
    assert again.backbone == tuned
    assert "fine-tuned, lora, " in repr(tuned)
    other = {"added_0": {"method": "lora", "scale": 1.0}}
    assert TunedWeights(tuned.base, tuned.base_fingerprint, tuned.data, added=other) != tuned
