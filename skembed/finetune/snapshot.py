"""Fitted attributes of the best model of a running fit."""

from __future__ import annotations

from typing import Any

from skembed.finetune.plan import FitPlan
from skembed.finetune.recipe import Recipe
from skembed.finetune.record import Linear
from skembed.finetune.tuned import tuned_embedder
from skembed.probes.linear import Probe, Standardizer

__all__ = ["best_so_far"]


def best_so_far(plan: FitPlan, recipe: Recipe, standardizer: Standardizer, probe: Probe) -> dict[str, Any]:
    """Return the fitted attributes with which the estimator predicts as if the fit had stopped here.

    Parameters
    ----------
    plan : FitPlan
        Plan of the fit.
    recipe : Recipe
        Recipe between two epochs; its network does not change.
    standardizer, probe
        Probe that training started from.

    Returns
    -------
    dict of str to object
        Values of attributes by name.
    """
    progress, network = recipe.progress, recipe.network
    if progress.path:
        current = network.state(recipe.plan.stages[progress.stage].n_unfrozen)
        current = {**recipe.best_state, **{name: value.detach().clone() for name, value in current.items()}}
        network.load(recipe.best_state)
        try:
            head = Linear.of_head(network.head, progress.best.temperature)
            embedder = tuned_embedder(plan.encoder.embedder, network)
        finally:
            network.load(current)
        if embedder is not plan.encoder.embedder:
            # Rows of weights that the next epoch changes would fill a cache and never be asked for again.
            embedder.set_params(cache=None)
    else:
        head = Linear.of_probe(standardizer, probe, progress.baseline.temperature)
        embedder = plan.encoder.embedder
    return {
        "embedder_": embedder,
        "kept_": "fine-tuned" if progress.path else "probe",
        "head_coef_": head.weight,
        "head_intercept_": head.bias,
        "temperature_": head.temperature,
        "strategy_": plan.strategy,
        "method_": plan.method,
        "history_": list(progress.history),
        "n_epochs_": len(progress.history),
        "_predicting": plan.task,
    }
