"""Training whose products are of bfloat16, against the same in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skembed import FineTuneClassifier, LoRA
from skembed.backbones.accelerate import linear, mixed_precision
from skembed.backbones.accelerate.linear import OneDnnLinear
from skembed.finetune import fitting
from tests.finetune import tuning

pytestmark = pytest.mark.skipif(
    torch.bfloat16 not in linear.faster_types(), reason="this processor does not multiply in bfloat16"
)


@pytest.fixture
def networks(monkeypatch):
    """The networks of the fits that follow."""
    made, build = [], fitting.Network

    def building(*arguments, **settings):
        made.append(build(*arguments, **settings))
        return made[-1]

    monkeypatch.setattr(fitting, "Network", building)
    return made


def _fit(family: str, strategy: str, precision: str, *, replay: bool = True, **parameters) -> FineTuneClassifier:
    X, y = tuning.samples(family)
    settings = {**tuning.SHORT, "learning_rate": 1e-3, "optimization__dropout": 0.0, **parameters}
    classifier = FineTuneClassifier(tuning.embedder(family, precision=precision), strategy=strategy)
    classifier._replay = replay
    return classifier.set_params(**settings).fit(X, y)


def _rounds(network) -> set[bool]:
    return {layer.rounds for layer in network.backbone.module.modules() if type(layer) is OneDnnLinear}


def _stay_rounded(network) -> int:
    return sum(layer.stays_rounded for layer in network.backbone.module.modules() if type(layer) is OneDnnLinear)


@pytest.mark.parametrize("family", ["bert", "timm_vit", "wav2vec2"])
@pytest.mark.parametrize(("strategy", "method"), [("full", "weights"), ("partial", "weights"), ("partial", "lora")])
def test_the_embedder_s_precision_is_that_of_training(networks, family, strategy, method):
    curves, rows = [], []
    for precision in ("float32", "auto"):
        fitted = _fit(family, strategy, precision, method=method)
        assert _rounds(networks[-1]) == {precision == "auto"}
        # One in each feed-forward network.
        assert (_stay_rounded(networks[-1]) > 1) == (precision == "auto")
        curves.append([record["train_loss"] for record in fitted.history_])
        rows.append(fitted.transform(tuning.samples(family)[0]))
        # What is learned is float32 all along.
        assert {p.dtype for p in networks[-1].backbone.module.parameters()} == {torch.float32}
    # The probes that they begin with are of rounded features too.
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-2, atol=1e-2)
    assert curves[1] != curves[0]
    cosines = (rows[0] * rows[1]).sum(1) / np.linalg.norm(rows[0], axis=1) / np.linalg.norm(rows[1], axis=1)
    assert cosines.min() > 0.999


def test_the_base_is_not_rounded(networks):
    """Embedders of float32 share it."""
    before = tuning.embedder("bert").fit_transform(tuning.TEXTS)
    _fit("bert", "full", "auto")
    assert _rounds(networks[-1]) == {True}
    assert {layer.rounds for layer in networks[-1].base.module.modules() if type(layer) is OneDnnLinear} == {False}
    np.testing.assert_array_equal(tuning.embedder("bert").fit_transform(tuning.TEXTS), before)


def test_to_see_what_is_rounded_draws_nothing(networks):
    """What LoRA adds begins in training mode, and would drop some of what is traced."""
    pytest.importorskip("peft")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _fit("bert", "partial", "auto", method=LoRA(dropout=0.5), max_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert _stay_rounded(networks[-1])


def test_a_seed_repeats_the_fit(networks):
    curves = [
        [r["train_loss"] for r in _fit("bert", "full", "auto", optimization__dropout=0.1).history_] for _ in range(2)
    ]
    assert curves[0] == curves[1]


def test_a_replayed_prefix_trains_as_the_whole_network_does(networks):
    curves = [
        [r["train_loss"] for r in _fit("bert", "partial", "auto", replay=replay, max_epochs=4).history_]
        for replay in (True, False)
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-2, atol=1e-2)


def test_networks_that_lose_by_it_train_in_float32(networks):
    """Convolutional ones, whose rows "auto" computes in float32 on processors."""
    _fit("timm_convnext", "full", "auto")
    assert _rounds(networks[-1]) == {False}
    assert not networks[-1].mixed_precision


def test_where_nothing_is_rounded_nothing_is_said_to_be(networks, monkeypatch):
    """A network without linear layers, and a processor that does not multiply in bfloat16."""
    _fit("timm_resnet", "full", "bfloat16", max_epochs=1)
    assert not networks[-1].mixed_precision
    monkeypatch.setattr(mixed_precision, "faster_types", lambda: (torch.float32,))
    _fit("bert", "full", "bfloat16", max_epochs=1)
    assert not networks[-1].mixed_precision
    assert _rounds(networks[-1]) == {False}
