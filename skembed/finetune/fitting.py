"""Fit from beginning to end: probe, recipe, choice of the better model, and refit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from skembed.exceptions import FitWarning
from skembed.finetune.checkpoint import Checkpoint, warn_unwritable
from skembed.finetune.checks import describe_alike, describe_copies
from skembed.finetune.data import TrainingData
from skembed.finetune.loop import evaluate
from skembed.finetune.network import FrozenNetwork, LinearHead, Network
from skembed.finetune.plan import FitHooks, FitPlan
from skembed.finetune.recipe import INTERRUPTED, Recipe
from skembed.finetune.record import FitRecord, Linear
from skembed.finetune.report import describe_advice, describe_nothing_unfrozen, describe_resumption
from skembed.finetune.snapshot import best_so_far
from skembed.finetune.tasks import Scores
from skembed.finetune.tuned import tuned_embedder
from skembed.probes.linear import STRENGTHS, Probe, Standardizer, search_probe
from skembed.utils.device import resolve_precision
from skembed.utils.progress import progress_bar
from skembed.utils.torch_modes import standard_modes
from skembed.utils.warnings import warn

__all__ = ["run_fit", "untrained"]

_LOGGER = logging.getLogger(__name__)


@standard_modes()
def run_fit(plan: FitPlan, hooks: FitHooks) -> FitRecord:
    """Fit a probe, train from it, and keep the better of the two.

    Parameters
    ----------
    plan : FitPlan
        Plan of the fit.
    hooks : FitHooks
        Functions that are called during the fit.
    """
    _check(plan)
    data = _data(plan)
    frozen = data.embeddings
    notes = [*plan.notes, *_describe_samples(plan, frozen)]
    standardizer, probe = _probe(plan, frozen)
    recipe = _recipe(plan, data, standardizer, probe, hooks.report)
    baseline = (
        recipe.judge(probe(standardizer(frozen[plan.held_out])))
        if len(plan.held_out)
        else Scores(float("nan"), float("nan"))
    )
    recipe.begin(baseline)
    if hooks.follow is not None:
        hooks.follow(lambda: best_so_far(plan, recipe, standardizer, probe))
    checkpoint = _checkpoint(plan, frozen)
    if checkpoint is not None:
        recipe.save = checkpoint.save
        if checkpoint.resume(recipe):
            notes.append(_announce_resumption(plan, recipe, hooks))
    recipe.run()
    record = _keep(plan, recipe, frozen, standardizer, probe, notes)
    if checkpoint is not None and record.progress.ended != INTERRUPTED:
        checkpoint.remove()
    return record


def _check(plan: FitPlan) -> None:
    """Refuse a method that cannot train this backbone, before samples are embedded."""
    if plan.method.name == "weights" or not plan.n_trainable:
        return
    backbone, depth = plan.encoder.backbone("float32"), plan.encoder.depth
    plan.method.check(backbone, backbone.blocks[depth - plan.n_trainable : depth], plan.encoder.readout.options)


def _describe_samples(plan: FitPlan, frozen: np.ndarray) -> list[str]:
    """Return notes on samples that cannot be told apart, or that cannot judge."""
    alike = describe_alike(plan.encoder.embedder, plan.samples, frozen)
    copies = [] if alike else describe_copies(frozen, plan.train, plan.held_out)
    # X_val was chosen, and is warned of; what was drawn from X is a note in the report.
    for sentence in [*alike, *(copies if plan.own_validation else [])]:
        warn(sentence, FitWarning)
    return [*alike, *copies]


def _announce_resumption(plan: FitPlan, recipe: Recipe, hooks: FitHooks) -> str:
    """Log, print and return a sentence on the epoch at which the fit resumes."""
    sentence = describe_resumption(len(recipe.progress.history), plan.max_epochs, plan.checkpoint_dir)
    _LOGGER.info(sentence)
    if hooks.announce is not None:
        hooks.announce(sentence)
    return sentence


@standard_modes()
def untrained(plan: FitPlan) -> Recipe:
    """Return a recipe with an untrained head, to measure how fast it learns."""
    data = _data(plan)
    frozen = data.embeddings
    standardizer = Standardizer.fit(frozen.astype(np.float64)[plan.train], plan.weights[plan.train])
    n_outputs = plan.task.n_outputs
    nothing = Probe(np.zeros((n_outputs, frozen.shape[1])), np.zeros(n_outputs), 1.0)
    return _recipe(plan, data, standardizer, nothing)


def _probe(plan: FitPlan, frozen: np.ndarray) -> tuple[Standardizer, Probe]:
    """Return the linear probe, or the head of an earlier fit if that is better."""
    task, weights, train, held_out = plan.task, plan.weights, plan.train, plan.held_out
    rows = frozen.astype(np.float64)
    standardizer = Standardizer.fit(rows[train], weights[train])
    features = standardizer(rows)

    def judge(probe: Probe, judges: np.ndarray = held_out) -> float:
        outputs = probe(features[judges])
        return task.judge(outputs, plan.y[judges], plan.targets[judges], weights[judges]).loss

    with progress_bar(len(STRENGTHS), "fitting the linear probe", "penalty") as bar:
        judging = judge if len(held_out) else None
        probe = search_probe(
            task.fit_probe, features[train], plan.targets[train], weights[train], judging, report=bar.update
        )
    if plan.start is not None:
        earlier = plan.start.to_probe(standardizer, probe)
        if len(held_out):
            better = judge(earlier) < judge(probe)
        else:
            # A head with fresh outputs is not what the earlier fit ended with, and has to fit the samples at hand.
            better = not plan.start.fresh.any() or judge(earlier, train) < judge(probe, train)
        probe = earlier if better else probe
    return standardizer, probe


def _recipe(
    plan: FitPlan,
    data: TrainingData,
    standardizer: Standardizer,
    probe: Probe,
    report: Callable[[dict[str, Any]], bool | None] | None = None,
) -> Recipe:
    return Recipe(plan, _network(plan, LinearHead(standardizer, probe, plan.settings.dropout)), data, report=report)


def _data(plan: FitPlan) -> TrainingData:
    return TrainingData(
        plan.encoder,
        plan.samples,
        replay=plan.replay,
        views=plan.views,
        stages=[stage.n_unfrozen for stage in plan.stages],
        mixers=plan.settings.mixers,
    )


def _network(plan: FitPlan, head: LinearHead) -> FrozenNetwork:
    encoder, device = plan.encoder, plan.encoder.device
    if not plan.needs_network:
        # The weights of the backbone need not even be loaded.
        return FrozenNetwork(head.to(device))
    backbone = encoder.backbone("float32")
    precision = resolve_precision(encoder.embedder.precision, device, keeps_in_half=backbone.keeps_in_half)
    return Network(
        backbone,
        encoder.readout,
        head,
        n_features=encoder.n_features,
        normalize=encoder.normalizes,
        n_scaled=encoder.n_scaled,
        method=plan.method,
        n_trainable=plan.n_trainable,
        probe=backbone.preprocess([encoder.example()], encoder.readout.options)[0][:1],
        seed=plan.seed,
        mixed_precision=precision == torch.bfloat16,
    )


def _checkpoint(plan: FitPlan, frozen: np.ndarray) -> Checkpoint | None:
    if plan.checkpoint_dir is None or plan.max_epochs == 0:
        return None
    start = [] if plan.start is None else [plan.start.head.weight, plan.start.head.bias]
    try:
        return Checkpoint(plan.checkpoint_dir, plan.identity(), plan.y, [frozen, plan.weights, *start])
    except OSError as error:
        # Hours of training are worth more than the means to resume them, and `save` does the same for a full disk.
        warn_unwritable(plan.checkpoint_dir, error)
        return None


def _keep(
    plan: FitPlan, recipe: Recipe, frozen: np.ndarray, standardizer: Standardizer, probe: Probe, notes: list[str]
) -> FitRecord:
    """Return the better of probe and network, fitted once more on all samples if asked for."""
    progress, notes = recipe.progress, [*notes, *recipe.data.notes]
    notes += describe_nothing_unfrozen(progress, plan.stages, plan.max_epochs)
    if plan.advice is not None:
        notes += describe_advice(plan.advice)
    refit = plan.refit and len(plan.held_out) > 0 and progress.ended != INTERRUPTED
    kept = "fine-tuned" if progress.path else "probe"
    network = recipe.network
    # An interrupt of the second fit ends with the result of the first, which is whole.
    try:
        if refit and kept == "fine-tuned":
            network, note = _repeated(plan, recipe, frozen, probe)
            notes.append(note)
        elif refit and probe.strength:
            standardizer, probe = _refitted_probe(plan, frozen, probe.strength)
            notes.append(f"The probe was fitted once more on all {len(plan.y)} samples.")
    except KeyboardInterrupt:
        progress.ended = INTERRUPTED
        notes.append("The second fit, on all samples, was interrupted, so the first fit was kept.")
    if kept == "probe":
        head, embedder = Linear.of_probe(standardizer, probe, progress.baseline.temperature), plan.encoder.embedder
    else:
        head = Linear.of_head(network.head, progress.best.temperature)
        embedder = tuned_embedder(plan.encoder.embedder, network)
    return FitRecord(embedder, head, kept, progress, progress.best, progress.baseline, frozen, notes)


def _refitted_probe(plan: FitPlan, frozen: np.ndarray, strength: float) -> tuple[Standardizer, Probe]:
    rows = frozen.astype(np.float64)
    standardizer = Standardizer.fit(rows, plan.weights)
    # The penalty stands against the sum of the losses, so it stays what it is as samples are added.
    features = standardizer(rows)
    probe = search_probe(plan.task.fit_probe, features, plan.targets, plan.weights, None, strengths=(strength,))
    return standardizer, probe


def _repeated(plan: FitPlan, first: Recipe, frozen: np.ndarray, probe: Probe) -> tuple[FrozenNetwork, str]:
    """Train in the same way on all samples; keep the result if held-out losses did not rise."""
    strength = probe.strength or 1.0
    standardizer, start = _refitted_probe(plan, frozen, strength)
    if plan.start is not None and not probe.strength:
        start = plan.start.to_probe(standardizer, start)
    again = _recipe(replace(plan, train=np.arange(len(plan.y))), first.data, standardizer, start)
    again.repeat(first.progress.path)
    last = plan.stages[first.progress.path[-1][0]]
    source, _ = again.data.source(again.network, last.n_unfrozen)
    scores = again.judge(evaluate(again.network, source, plan.held_out))
    if scores.loss > first.progress.best.loss or scores.score < first.progress.best.score:
        return first.network, (
            "A second fit on all samples was no better on the held-out ones, so the first fit was kept."
        )
    return again.network, f"It was then fitted once more, in the same way, on all {len(plan.y)} samples."
