"""One fit from beginning to end: probe, recipe, guard, and what is kept."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from skembed.exceptions import FitWarning
from skembed.finetune.checkpoint import Checkpoint, warn_unwritable
from skembed.finetune.checks import describe_alike, describe_copies
from skembed.finetune.data import TrainingData, Views
from skembed.finetune.loop import Targets, evaluate
from skembed.finetune.methods import check_method
from skembed.finetune.network import FrozenNetwork, Head, Network
from skembed.finetune.recipe import INTERRUPTED, Recipe, Stage, plan_stages
from skembed.finetune.report import describe_advice, describe_nothing_unfrozen, describe_resumption
from skembed.finetune.request import Linear, Outcome, Request
from skembed.finetune.snapshot import best_so_far
from skembed.finetune.tasks import Scores
from skembed.finetune.tuned import tuned_embedder
from skembed.probes.linear import STRENGTHS, Probe, Standardizer, search_probe
from skembed.strategies import parse_strategy
from skembed.utils.device import resolve_precision
from skembed.utils.progress import progress_bar
from skembed.utils.torch_modes import standard_modes
from skembed.utils.warnings import warn

__all__ = ["run_fit", "untrained"]

_LOGGER = logging.getLogger(__name__)


@standard_modes()
def run_fit(request: Request) -> Outcome:
    """Fit a probe, train from it, and keep the better of the two.

    Parameters
    ----------
    request : Request
        All of it checked.
    """
    _check(request)
    data = _data(request)
    frozen = data.embeddings
    request = _with_words_on(request, frozen)
    encoded = request.task.encode(request.y)
    standardizer, probe = _probe(request, frozen, encoded, request.train)
    recipe = _recipe(request, data, encoded, standardizer, probe)
    baseline = (
        recipe.judge(probe(standardizer(frozen[request.held_out])))
        if len(request.held_out)
        else Scores(float("nan"), float("nan"))
    )
    recipe.begin(baseline)
    if request.follow is not None:
        request.follow(lambda: best_so_far(request, recipe, standardizer, probe))
    checkpoint = _checkpoint(request, frozen)
    if checkpoint is not None:
        recipe.save = checkpoint.save
        if checkpoint.resume(recipe):
            request = _with_resumption(request, recipe)
    recipe.run()
    outcome = _keep(request, recipe, frozen, encoded, standardizer, probe)
    if checkpoint is not None and outcome.progress.ended != INTERRUPTED:
        checkpoint.remove()
    return outcome


def _check(request: Request) -> None:
    """Refuse a method that this backbone has no place for, before every sample has been embedded."""
    if request.method.name == "weights" or not request.max_epochs:
        return
    backbone, depth = request.encoder.backbone("float32"), request.encoder.depth
    blocks = backbone.blocks[depth - _most_unfrozen(request) : depth]
    check_method(backbone, blocks, request.method, request.encoder.readout.options)


def _with_words_on(request: Request, frozen: np.ndarray) -> Request:
    """The request, with notes on samples that cannot be told apart, or that are no judges."""
    alike = describe_alike(request.encoder.embedder, request.samples, frozen)
    copies = [] if alike else describe_copies(frozen, request.train, request.held_out)
    # X_val was chosen, and is warned of; what was drawn from X is a note in the report.
    for sentence in [*alike, *(copies if request.own_validation else [])]:
        warn(sentence, FitWarning)
    return replace(request, notes=(*request.notes, *alike, *copies))


def _with_resumption(request: Request, recipe: Recipe) -> Request:
    """Return the request with a note on the epoch it resumes at, which is also logged and printed."""
    sentence = describe_resumption(len(recipe.progress.history), request.max_epochs, request.checkpoint_dir)
    _LOGGER.info(sentence)
    if request.announce is not None:
        request.announce(sentence)
    return replace(request, notes=(*request.notes, sentence))


def _most_unfrozen(request: Request) -> int:
    return max(stage.n_unfrozen for stage in _stages(request))


@standard_modes()
def untrained(request: Request) -> Recipe:
    """A recipe whose head knows nothing yet, to see how fast it learns."""
    data = _data(request)
    frozen = data.embeddings
    standardizer = Standardizer.fit(frozen.astype(np.float64)[request.train], request.weights[request.train])
    n_outputs = request.task.n_outputs
    nothing = Probe(np.zeros((n_outputs, frozen.shape[1])), np.zeros(n_outputs), 1.0)
    return _recipe(request, data, request.task.encode(request.y), standardizer, nothing)


def _probe(request: Request, frozen: np.ndarray, encoded: np.ndarray, train: np.ndarray) -> tuple[Standardizer, Probe]:
    """The linear probe; or the head of the fit before, where there is one and it is better."""
    task, weights, held_out = request.task, request.weights, request.held_out
    rows = frozen.astype(np.float64)
    standardizer = Standardizer.fit(rows[train], weights[train])
    features = standardizer(rows)

    def judge(probe: Probe, judges: np.ndarray = held_out) -> float:
        outputs = probe(features[judges])
        return task.judge(outputs, request.y[judges], encoded[judges], weights[judges]).loss

    with progress_bar(len(STRENGTHS), "fitting the linear probe", "penalty") as bar:
        judging = judge if len(held_out) else None
        probe = search_probe(
            task.fit_probe, features[train], encoded[train], weights[train], judging, report=bar.update
        )
    if request.start is not None:
        earlier = request.start.to_probe(standardizer, probe)
        if len(held_out):
            better = judge(earlier) < judge(probe)
        else:
            # A head with fresh outputs is not what the earlier fit ended with, and has to fit the samples at hand.
            better = not request.start.fresh.any() or judge(earlier, train) < judge(probe, train)
        probe = earlier if better else probe
    return standardizer, probe


def _recipe(
    request: Request, data: TrainingData, encoded: np.ndarray, standardizer: Standardizer, probe: Probe
) -> Recipe:
    encoder, settings = request.encoder, request.settings
    head = Head(standardizer, probe, settings.dropout)
    device = encoder.device
    network: FrozenNetwork
    if request.max_epochs == 0 or (request.strategy == "head" and data.replay):
        # Frozen features are all that it takes: the weights need not even be loaded.
        network = FrozenNetwork(head.to(device))
    else:
        backbone = encoder.backbone("float32")
        precision = resolve_precision(encoder.embedder.precision, device, keeps_in_half=backbone.keeps_in_half)
        network = Network(
            backbone,
            encoder.readout,
            head,
            n_features=encoder.n_features,
            normalize=encoder.normalizes,
            n_scaled=encoder.n_scaled,
            method=request.method,
            n_trainable=_most_unfrozen(request),
            probe=backbone.preprocess([encoder.example()], encoder.readout.options)[0][:1],
            seed=request.seed,
            mixed_precision=precision == torch.bfloat16,
        )
    targets = Targets(torch.from_numpy(encoded).float(), torch.from_numpy(request.weights).float())
    return Recipe(
        network,
        request.task,
        data,
        targets,
        request.y,
        request.train,
        request.held_out,
        settings,
        _stages(request) if request.max_epochs else [],
        max_epochs=request.max_epochs,
        patience=request.patience,
        seed=request.seed,
        report=request.report,
    )


def _data(request: Request) -> TrainingData:
    augmentation = request.augmentation
    return TrainingData(
        request.encoder,
        request.samples,
        replay=request.replay,
        views=None if augmentation is None else Views(augmentation, request.seed, request.augment_views),
        stages=[stage.n_unfrozen for stage in _stages(request)] if request.max_epochs else [],
        mixers=request.settings.mixers,
    )


def _stages(request: Request) -> list[Stage]:
    depth, embedder = request.encoder.depth, request.encoder.embedder
    strategy = parse_strategy(request.strategy)
    if strategy.depth == "partial" and request.n_unfrozen > depth:
        raise ValueError(
            f"n_unfrozen={request.n_unfrozen} is more than the {depth} blocks that can train: "
            f"{request.encoder.spec.name} has {embedder.n_blocks_}, stem included, and those above the "
            f"highest of layers={embedder.layers!r} are not used. Use a smaller number, or strategy='full'."
        )
    return plan_stages(
        strategy.depth,
        depth,
        n_unfrozen=request.n_unfrozen,
        max_epochs=request.max_epochs,
        stage_epochs=request.stage_epochs,
        unfreeze_step=request.unfreeze_step,
        method=strategy.method,
    )


def _checkpoint(request: Request, frozen: np.ndarray) -> Checkpoint | None:
    if request.checkpoint_dir is None or request.max_epochs == 0:
        return None
    what = (
        request.encoder.namespace,
        request.settings,
        request.strategy,
        request.method,
        request.n_unfrozen,
        request.max_epochs,
        request.stage_epochs,
        request.unfreeze_step,
        request.patience,
        request.seed,
        request.augmentation,
        request.augment_views,
        request.train.tolist(),
        type(request.task).__name__,
        request.task.scoring,
    )
    start = [] if request.start is None else [request.start.head.weight, request.start.head.bias]
    try:
        return Checkpoint(request.checkpoint_dir, what, request.y, [frozen, request.weights, *start])
    except OSError as error:
        # Hours of training are worth more than the means to resume them, and `save` does the same for a full disk.
        warn_unwritable(request.checkpoint_dir, error)
        return None


def _keep(
    request: Request,
    recipe: Recipe,
    frozen: np.ndarray,
    encoded: np.ndarray,
    standardizer: Standardizer,
    probe: Probe,
) -> Outcome:
    """The better of the two; fitted once more on all samples where that is asked for."""
    progress, notes = recipe.progress, [*request.notes, *recipe.data.notes]
    notes += describe_nothing_unfrozen(progress, recipe.stages, request.max_epochs)
    if request.advice is not None:
        notes += describe_advice(request.advice)
    whole = np.arange(len(request.y))
    refit = request.refit and len(request.held_out) > 0 and progress.ended != INTERRUPTED
    kept = "fine-tuned" if progress.path else "probe"
    network = recipe.network
    # An interrupt of the second fit ends with the result of the first, which is whole.
    try:
        if refit and kept == "fine-tuned":
            network, note = _repeated(request, recipe, frozen, encoded, probe)
            notes.append(note)
        elif refit and probe.strength:
            standardizer, probe = _refitted_probe(request, frozen, encoded, probe.strength)
            notes.append(f"The probe was fitted once more on all {len(whole)} samples.")
    except KeyboardInterrupt:
        progress.ended = INTERRUPTED
        notes.append("The second fit, on all samples, was interrupted: the first was kept.")
    if kept == "probe":
        head, embedder = Linear.of_probe(standardizer, probe, progress.baseline.temperature), request.encoder.embedder
    else:
        head = Linear.of_head(network.head, progress.best.temperature)
        embedder = tuned_embedder(request.encoder.embedder, network)
    return Outcome(embedder, head, kept, progress, recipe.stages, progress.best, progress.baseline, frozen, notes)


def _refitted_probe(request: Request, frozen, encoded, strength: float) -> tuple[Standardizer, Probe]:
    rows = frozen.astype(np.float64)
    standardizer = Standardizer.fit(rows, request.weights)
    # The penalty stands against the sum of the losses, so it stays what it is as samples are added.
    features = standardizer(rows)
    probe = search_probe(request.task.fit_probe, features, encoded, request.weights, None, strengths=(strength,))
    return standardizer, probe


def _repeated(
    request: Request, found: Recipe, frozen: np.ndarray, encoded: np.ndarray, probe: Probe
) -> tuple[FrozenNetwork, str]:
    """The same way with all samples. It must know the held-out samples at least as well, having seen them."""
    strength = probe.strength or 1.0
    standardizer, start = _refitted_probe(request, frozen, encoded, strength)
    if request.start is not None and not probe.strength:
        start = request.start.to_probe(standardizer, start)
    whole = replace(request, train=np.arange(len(request.y)), report=None)
    again = _recipe(whole, found.data, encoded, standardizer, start)
    again.repeat(found.progress.path)
    last = found.stages[found.progress.path[-1][0]]
    source, _ = again.data.source(again.network, last.n_unfrozen)
    scores = again.judge(evaluate(again.network, source, request.held_out))
    if scores.loss > found.progress.best.loss or scores.score < found.progress.best.score:
        return found.network, (
            "Fitted once more on all samples it knew the held-out ones no better than before: the first fit was kept."
        )
    return again.network, f"It was then fitted once more, in the same way, on all {len(request.y)} samples."
