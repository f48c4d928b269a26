"""What trains under each method, counted and named; what does not, bitwise; and what is stored of it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skembed.backbones.accelerate.linear import multiply_plainly
from skembed.backbones.loading.load import load, loaded
from skembed.backbones.models.image_timm import TimmBackbone
from skembed.backbones.models.text_transformers import TextBackbone
from skembed.backbones.tuning.method import METHODS, find_method
from skembed.exceptions import FitWarning
from skembed.strategies import Progressive
from tests.finetune import tuning

ANYWHERE = ("lora", "ia3", "adapter")
ADDED = (*ANYWHERE, "prefix")
CASES = [
    *(("bert", method) for method in (*ADDED, "bitfit", "norms")),
    *((family, method) for family in ("timm_vit", "timm_resnet") for method in (*ANYWHERE, "bitfit", "norms")),
    *((family, method) for family in ("timm_swin", "gpt2", "wav2vec2", "timm_efficientnet") for method in ANYWHERE),
]
WIDTH, INNER, LAYERS, HEADS = 16, 32, 3, 2


def _trained(built):
    return {name: value.numel() for name, value in built.named_parameters() if name.startswith("backbone.")}


# -- names and parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_found_by_its_own_name(name):
    assert find_method(name).name == name


def test_a_prompt_trains_in_no_stage_but_the_last():
    """It is read below all blocks, so that a stage of some blocks would train nothing but the head."""
    with pytest.raises(
        ValueError, match=r"trains at the input, below all blocks.*Use strategy='full' or 'progressive'"
    ):
        tuning.fit("bert", "partial", "prompt")
    classifier = tuning.fit("bert", Progressive(stage_epochs=1), "prompt")
    assert [record["stage"] for record in classifier.history_] == ["head", "prompt"]


def test_a_method_without_blocks_to_train_warns():
    with pytest.warns(FitWarning, match=r"method=LoRA\(\) has no effect with strategy=Head\(\)"):
        classifier = tuning.fit("bert", "head", "lora")
    assert {record["stage"] for record in classifier.history_} == {"head"}


@pytest.mark.parametrize(("method", "parameters"), [
    ("lora+", {}), ("lora", {"rank": 0}), ("lora", {"alpha": 0}), ("lora", {"dropout": 1.0}), ("adapter", {"width": 0}),
    ("prefix", {"n_tokens": 0}), ("prompt", {"n_tokens": 1.5}),
])  # fmt: skip
def test_parameters_out_of_range_are_named(method, parameters):
    name = next(iter(parameters), "method")
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        tuning.fit("bert", "full", method, **{f"method__{key}": value for key, value in parameters.items()})


def test_the_factor_suits_the_method():
    assert tuning.fit("bert", "partial", "lora", max_epochs=1).history_[0]["rates"].keys() == {
        "head",
        "encoder.layer.2",
    }
    for method, factor in (("weights", 0.1), ("lora", 1.0)):
        rates = tuning.fit("bert", "partial", method, max_epochs=1, optimization__schedule="constant").history_[0][
            "rates"
        ]
        assert rates["encoder.layer.2"] == pytest.approx(factor * rates["head"])


# -- before the first step ------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "method"), CASES)
def test_it_begins_as_the_frozen_network(family, method):
    built, frozen = tuning.network(family, method), tuning.network(family, "weights", 0)
    samples = tuning.prepared(frozen, family)
    with torch.no_grad():
        torch.testing.assert_close(built.features(samples), frozen.features(samples), rtol=0, atol=1e-6)


def test_what_is_added_is_drawn_from_the_seed_and_not_from_the_user_s_state():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (tuning.network("bert", "lora") for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name


# -- what trains ----------------------------------------------------------------------------------------


def _of_layers(base, kind):
    return sum(p.numel() for m in base.modules() if kind(m) for p in m.parameters(recurse=False))


@pytest.mark.parametrize(("method", "settings", "expected"), [
    ("lora", {"rank": 3}, LAYERS * 3 * (4 * 2 * WIDTH + 2 * (WIDTH + INNER))),
    ("lora", {"target_modules": ("query", "value")}, LAYERS * 8 * 2 * 2 * WIDTH),
    ("ia3", {}, LAYERS * (5 * WIDTH + INNER)),
    ("ia3", {"target_modules": ["key", "value"]}, LAYERS * 2 * WIDTH),
    ("adapter", {"width": 5}, LAYERS * (2 * 5 * WIDTH + 5 + WIDTH)),
    ("prefix", {"n_tokens": 4}, LAYERS * (2 * 4 * WIDTH + HEADS)),
    ("prompt", {"n_tokens": 7}, 7 * WIDTH),
    ("norms", {}, (1 + 2 * LAYERS) * 2 * WIDTH),
    ("bitfit", {}, WIDTH + LAYERS * (4 * WIDTH + INNER + WIDTH + 2 * WIDTH)),
])  # fmt: skip
def test_parameters_are_as_many_as_the_closed_form_says(method, settings, expected):
    built = tuning.network("bert", method, **settings)
    built.unfreeze(built.depth)
    assert sum(_trained(built).values()) == expected
    groups = built.optimizer_groups(built.depth, head_rate=1, backbone_rate=1, layer_decay=1, weight_decay=0)
    assert sum(p.numel() for group in groups if group["name"] != "head" for p in group["params"]) == expected


def test_lora_of_a_resnet_is_in_its_convolutions():
    """Its closed form counts every plain convolution by hand: r (in k k + out)."""
    built = tuning.network("timm_resnet", "lora", rank=2)
    built.unfreeze(built.depth)
    base = built.base.module
    convolutions = [m for m in base.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    assert len(convolutions) > 5
    expected = sum(2 * (m.in_channels * m.kernel_size[0] ** 2 + m.out_channels) for m in convolutions)
    assert sum(_trained(built).values()) == expected
    assert not [m for m in built.head.modules() if hasattr(m, "lora_A")]


def test_depthwise_convolutions_are_left_alone():
    built = tuning.network("timm_efficientnet", "lora")
    hosts = {name.partition(".lora_A")[0] for name in _names(built)}
    modules = dict(built.base.module.named_modules())
    depthwise = [name for name, m in modules.items() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert depthwise
    assert not hosts & set(depthwise)
    assert any(name.endswith("conv_pwl") for name in hosts)


def _names(built):
    built.unfreeze(built.depth)
    return [name.removeprefix("backbone.") for name in _trained(built)]


def test_the_highest_blocks_train_and_no_others():
    built = tuning.network("bert", "lora", 2)
    assert {name.partition(".lora_")[0].split(".")[2] for name, _ in built.backbone.module.named_parameters()
            if ".lora_" in name} == {"1", "2"}  # fmt: skip
    built.unfreeze(1)
    assert all(name.startswith("backbone.encoder.layer.2.") for name in _trained(built))
    for method in ("bitfit", "norms"):
        built = tuning.network("bert", method, 2)
        built.unfreeze(2)
        assert all(
            name.startswith(("backbone.encoder.layer.1.", "backbone.encoder.layer.2.")) for name in _trained(built)
        )


@pytest.mark.parametrize(("family", "method"), CASES)
def test_everything_else_is_the_base_s_own_and_stays(family, method):
    before = {n: v.clone() for n, v in tuning.network(family, method).base.module.state_dict().items()}
    classifier = tuning.fit(family, "full", method, max_epochs=1)
    assert classifier.kept_ == "fine-tuned"
    tuned = classifier.embedder_.backbone
    built = tuning.network(family, method)
    assert all(torch.equal(value, before[name]) for name, value in built.base.module.state_dict().items())
    own = set(_names(built))
    stored = {name.replace("added_1", "added_0") for name in tuned.tensors()}
    assert stored <= own
    assert len(stored) > 0.5 * len(own)
    for name, value in built.backbone.module.named_parameters():
        plain = name.replace(".base_layer.", ".")
        if plain not in own:
            assert value.data_ptr() == built.base.module.get_parameter(plain).data_ptr(), name
    if method in ("bitfit", "norms"):
        assert not [name for name in stored if "running" in name or "tracked" in name]


@pytest.mark.parametrize(("family", "method", "n_unfrozen"), [
    *((family, method, n) for family, method in [*CASES, ("bert", "weights")] for n in (1, None)),
    ("bert", "prompt", None),
])  # fmt: skip
def test_gradients_are_those_of_torch_s_own_layers(family, method, n_unfrozen):
    """Of each tensor that trains, also of biases in the lowest block, behind which nothing has a gradient."""
    found = []
    for plainly in (True, False):
        built = tuning.network(family, method, n_unfrozen)
        built.unfreeze(built.depth if n_unfrozen is None else n_unfrozen)
        if plainly:
            multiply_plainly(built.backbone.module)
        rows = built.features(tuning.prepared(built, family, 4))
        (rows * torch.linspace(-1, 1, rows.shape[1])).sum().backward()
        found.append({name: value.grad for name, value in built.named_parameters() if name.startswith("backbone.")})
    theirs, ours = found
    assert theirs
    assert any(gradient is not None for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert (gradient is None) == (ours[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(ours[name].to_dense(), gradient.to_dense(), rtol=1e-3, atol=1e-4, msg=name)


# -- the replayed prefix --------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "method"), [
    *(("bert", method) for method in (*ADDED, "bitfit", "norms")), ("timm_resnet", "lora"), ("timm_vit", "adapter"),
    ("timm_swin", "adapter"),
])  # fmt: skip
def test_replayed_and_plain_training_have_the_same_losses(family, method):
    parameters = {
        "strategy__n_blocks": 2,
        "optimization__l2_sp": 0.01,
        "optimization__ema": 0.9,
        "validation_fraction": 0.3,
        "refit": False,
    }
    replayed, plain = (tuning.fit(family, "partial", method, replay=flag, **parameters) for flag in (True, False))
    assert all(record["replayed"] for record in replayed.history_)
    assert not any(record["replayed"] for record in plain.history_)
    for name in ("train_loss", "valid_loss"):
        a, b = ([record[name] for record in fitted.history_] for fitted in (replayed, plain))
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "timm_vit"])
def test_frozen_blocks_are_run_once_a_sample(family, monkeypatch):
    kind = TextBackbone if family == "bert" else TimmBackbone
    counts, original = {"whole": 0, "behind": 0}, kind.forward_blocks

    def counted(self, batch, layers):
        counts["behind" if "hidden" in batch else "whole"] += len(next(iter(batch.values())))
        return original(self, batch, layers)

    tuning.embedder(family).fit_transform(tuning.samples(family)[0][:1])
    monkeypatch.setattr(kind, "forward_blocks", counted)
    tuning.fit(family, "partial", "adapter", max_epochs=4)
    # Once for all, and a few to see that it is exact and of which shapes; not in each of four epochs.
    assert counts["whole"] < 3 * 20
    assert counts["behind"] >= 4 * 20


# -- stored and loaded ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "method"), [*CASES, ("bert", "prompt")])
def test_predictions_are_the_same_after_a_round_trip(family, method):
    classifier, (X, _) = tuning.fit(family, "full", method), tuning.samples(family)
    expected = classifier.predict_proba(X)
    data = pickle.dumps(classifier)
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(X), expected)
    loaded.clear()
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(X), expected)
    rows = clone(classifier.embedder_).fit(X[:1]).transform(X)
    np.testing.assert_array_equal(rows, classifier.transform(X))
    frozen = tuning.embedder(family).fit_transform(X)
    assert np.abs(rows - frozen).max() > 1e-4


@pytest.mark.parametrize(("family", "method"), [*CASES, ("bert", "prompt")])
def test_what_is_loaded_gives_what_was_trained(family, method):
    """The network in training, its factors apart, against the one that is built from the pickle."""
    built = tuning.network(family, method)
    built.unfreeze(built.depth)
    with torch.no_grad():
        for value in built.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    from skembed.backbones.spec import TunedWeights

    tuned = TunedWeights.of(built.base.spec, built.base.fingerprint, built.changed(), built.added)
    samples = tuning.prepared(built, family)
    with torch.no_grad():
        expected = built.features(samples).numpy()
    X = tuning.samples(family)[0][: len(samples)]
    found = tuning.embedder(family, backbone=tuned).fit_transform(X)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-5)
    backbone = load(tuning.embedder(family, backbone=tuned).fit(X).spec_, torch.device("cpu"), "float32")
    assert not any(value.requires_grad for value in backbone.module.parameters())
