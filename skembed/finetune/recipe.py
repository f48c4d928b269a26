"""Recipe of a fit: the stages that run, the weights that are kept, and the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skembed.exceptions import TrainingError
from skembed.finetune.data import TrainingData
from skembed.finetune.loop import (
    Averaged,
    Epoch,
    Settings,
    Targets,
    build_optimizer,
    epoch_rng,
    evaluate,
    train_epoch,
)
from skembed.finetune.network import FrozenNetwork
from skembed.finetune.plan import FitPlan
from skembed.finetune.tasks import Scores
from skembed.strategies import Stage
from skembed.utils.progress import progress_bar

__all__ = ["INTERRUPTED", "Progress", "Recipe"]

#: Reason for the end of a fit that was stopped by KeyboardInterrupt; see `Progress.ended`.
INTERRUPTED = "interrupted"
#: Smallest relative fall of a loss that counts as an improvement.
_LEAST_GAIN = 1e-4
#: Training samples are memorized if their loss is below this part of the held-out loss.
_KNOWN = 0.05


@dataclass
class Progress:
    """Progress of a fit: everything that resuming needs, besides tensors.

    Parameters
    ----------
    stage, attempt, epoch : int
        The next epoch to run: position in the plan, 0 or 1 (with stronger regularization), epochs done in it.
    stale : int
        Epochs since the best so far.
    tried : Scores, optional
        Best scores of this attempt.
    best : Scores
        Scores of the weights that are kept so far.
    baseline : Scores
        Scores of the linear probe.
    round : int
        Attempts made so far, in all stages.
    path : list of (int, int, int, int)
        Stage, attempt, epochs and round of every attempt that made things better, up to the best of its epochs.
    history : list of dict
        See `FineTuneClassifier.history_`.
    ended : str
        Reason for the end of the fit; empty while it runs.
    """

    best: Scores
    baseline: Scores
    stage: int = 0
    attempt: int = 0
    epoch: int = 0
    stale: int = 0
    tried: Scores | None = None
    round: int = 0
    path: list[tuple[int, int, int, int]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    ended: str = ""


def improves(found: Scores, best: Scores, baseline: Scores, *, by_score: bool) -> bool:
    """Return True if new scores are better than the best so far, and no worse than the probe's.

    Held-out losses are compared, and the score must not be below that of the probe. If the user named a metric, it
    comes first. The loss is a better judge of small changes: with a hundred held-out samples, accuracy moves in steps
    of a hundredth, and the best of many epochs is the luckiest.
    """
    if by_score:
        return (found.score, -found.loss) > (best.score, -best.loss)
    least = _LEAST_GAIN * abs(best.loss) if np.isfinite(best.loss) else 0.0
    lower = found.loss < best.loss - least
    return lower and not found.score < baseline.score


class Recipe:
    """Stages in order, with the best weights restored after each, until nothing improves.

    Parameters
    ----------
    plan : FitPlan
        Plan of the fit.
    network : FrozenNetwork
        Network with the probe as its head.
    data : TrainingData
        Source of features.
    report : callable, optional
        Called with the history's record after each epoch; it may return True to end the fit.
    save : callable, optional
        Called with this recipe, the optimizer and the average after each epoch, to write a checkpoint.
    """

    def __init__(
        self,
        plan: FitPlan,
        network: FrozenNetwork,
        data: TrainingData,
        *,
        report: Callable[[dict[str, Any]], bool | None] | None = None,
        save: Callable[..., None] | None = None,
    ):
        self.plan, self.network, self.data = plan, network, data
        self.report, self.save = report, save
        self.targets = Targets(torch.from_numpy(plan.targets).float(), torch.from_numpy(plan.weights).float())
        self.best_state: dict[str, Tensor] = _copied(network.state(0))
        self.progress = Progress(Scores(np.inf, -np.inf), Scores(np.inf, -np.inf))
        #: State from a checkpoint, for the first epoch that runs.
        self.resumed: dict[str, Any] | None = None

    # -- the search -------------------------------------------------------------------------------------

    def begin(self, baseline: Scores) -> None:
        """Start from the probe, with which everything is compared."""
        self.progress = Progress(best=baseline, baseline=baseline)

    def run(self) -> None:
        """Run stages until one brings no improvement; restore the best weights at the end."""
        progress = self.progress
        try:
            while not progress.ended and progress.stage < len(self.plan.stages):
                self._attempt()
        except TrainingError as error:
            progress.ended = f"diverged: {error}"
        except KeyboardInterrupt:
            progress.ended = INTERRUPTED
        self.network.load(self.best_state)

    def _attempt(self) -> None:
        """Run one stage with one strength of regularization, and decide how to continue."""
        progress, stage = self.progress, self.plan.stages[self.progress.stage]
        settings = self.plan.settings.stronger() if progress.attempt else self.plan.settings
        resumed, self.resumed = self.resumed, None
        if resumed is None:
            self.network.load(self.best_state)
        trainer = self.trainer(stage, settings, resumed)
        while progress.epoch < stage.epochs and len(progress.history) < self.plan.max_epochs:
            if progress.stale >= self.plan.patience or progress.ended:
                break
            self._epoch(trainer, stage, settings)
        self._decide(stage)

    def _decide(self, stage: Stage) -> None:
        """Decide what follows an attempt: a deeper stage, the same again, or the end.

        An attempt with neither gain nor harm is followed by a deeper stage: in a far domain, the top block alone may
        change nothing, and all blocks everything.
        """
        progress = self.progress
        gained = bool(progress.path) and progress.path[-1][3] == progress.round
        harmed = progress.tried is not None and not gained and progress.tried.is_worse_than(progress.best)
        deepest = progress.stage == len(self.plan.stages) - 1
        if progress.ended:
            pass
        elif len(progress.history) >= self.plan.max_epochs:
            progress.ended = "max_epochs was reached"
        elif not deepest and (gained or not harmed or stage.n_unfrozen == 0):
            progress.stage, progress.attempt = progress.stage + 1, 0
        elif len(self.plan.stages) > 1 and gained and len(self.plan.held_out) and not self._knows_by_heart():
            pass  # as deep as it goes, and another round may gain again
        elif len(self.plan.stages) > 1 and gained and len(self.plan.held_out):
            progress.ended = f"{stage.name}: the training samples are memorized"
        elif len(self.plan.stages) > 1 and not gained and progress.attempt == 0:
            progress.attempt = 1
        elif not gained:
            again = ", also with stronger regularization" if progress.attempt else ""
            progress.ended = f"{stage.name}: {'worse than before' if harmed else 'no gain'}{again}"
        else:
            progress.ended = f"{stage.name}: done"
        progress.round += 1
        progress.epoch = progress.stale = 0
        progress.tried = None

    def _knows_by_heart(self) -> bool:
        """Return True if the training loss is so small that another round can learn very little."""
        return self.progress.history[-1]["train_loss"] < _KNOWN * self.progress.best.loss

    def trainer(self, stage: Stage, settings: Settings, resumed: dict[str, Any] | None = None) -> Epoch:
        """Return an epoch for the blocks of a stage, with a new optimizer."""
        network = self.network
        source, self.replayed = self.data.source(network, stage.n_unfrozen)
        network.unfreeze(stage.n_unfrozen)
        network.head.dropout.p = settings.dropout
        optimizer = build_optimizer(network, stage.n_unfrozen, settings)
        average = None if settings.ema is None else Averaged(network, settings.ema)
        if resumed is not None:
            network.load(resumed["state"])
            resumed["restore"](optimizer, average)
        return Epoch(network, self.plan.task, source, self.targets, settings, optimizer, average)

    def _epoch(self, trainer: Epoch, stage: Stage, settings: Settings) -> None:
        progress, started = self.progress, time.perf_counter()
        steps = -(-len(self.plan.train) // settings.batch_size)
        # The first of a fit sees the samples as they are, where views are stored.
        trainer.view = len(progress.history) + (not self.data.replay)
        with progress_bar(len(self.plan.train), f"epoch {len(progress.history) + 1}, {stage.name}", leave=False) as bar:
            loss = train_epoch(
                trainer,
                self.plan.train,
                epoch_rng(self.plan.seed, progress.round, progress.epoch),
                first_step=progress.epoch * steps,
                total_steps=stage.epochs * steps,
                progress=bar.update,
            )
        progress.epoch += 1
        if trainer.average is not None:
            trainer.average.swap()
        scores = self._judge(trainer)
        by_score = self.plan.task.scoring is not None
        error = None if scores is None else scores.error_against(progress.best)
        better = scores is None or improves(scores, progress.best, progress.baseline, by_score=by_score)
        if scores is not None and (progress.tried is None or scores.loss < progress.tried.loss):
            progress.tried = scores
        if better:
            self._keep(stage, scores)
        if trainer.average is not None:
            trainer.average.swap()
        progress.stale = 0 if better else progress.stale + 1
        self._record(trainer, stage, loss, scores, error, better, time.perf_counter() - started)
        if self.save is not None:
            self.save(self, trainer.optimizer, trainer.average)

    def _judge(self, trainer: Epoch) -> Scores | None:
        if not len(self.plan.held_out):
            return None
        outputs = evaluate(self.network, trainer.source, self.plan.held_out)
        return self.judge(outputs)

    def judge(self, outputs: np.ndarray) -> Scores:
        """Return scores of outputs for the held-out samples."""
        held_out = self.plan.held_out
        values, weights = self.targets.values.numpy()[held_out], self.targets.weights.numpy()[held_out]
        return self.plan.task.judge(outputs, self.plan.y[held_out], values.astype(float), weights.astype(float))

    def _keep(self, stage: Stage, scores: Scores | None) -> None:
        progress = self.progress
        best_state = {**self.best_state, **_copied(self.network.state(stage.n_unfrozen))}
        earlier = [done for done in progress.path if done[3] != progress.round]
        path = [*earlier, (progress.stage, progress.attempt, progress.epoch, progress.round)]
        # One statement after all copies, so that an interrupt does not leave scores of other weights.
        self.best_state, progress.path, progress.best = best_state, path, scores or progress.best

    def _record(
        self,
        trainer: Epoch,
        stage: Stage,
        loss: float,
        scores: Scores | None,
        error: float | None,
        better: bool,
        seconds: float,
    ) -> None:
        progress = self.progress
        done = len(progress.history) + 1
        record = {
            "epoch": done,
            "max_epochs": min(self.plan.max_epochs, done + self._most_epochs_left(stage)),
            "stage": stage.name,
            "stage_number": progress.stage + 1,
            "n_stages": len(self.plan.stages),
            "attempt": progress.attempt + 1,
            "round": progress.round + 1,
            "unfrozen": [block.name for block in self.network.top(stage.n_unfrozen)],
            "n_trained": sum(parameter.numel() for parameter in self.network.parameters()),
            "rates": {group["name"]: group["lr"] for group in trainer.optimizer.param_groups},
            "train_loss": loss,
            "valid_loss": None if scores is None else scores.loss,
            "valid_score": None if scores is None else scores.score,
            "valid_error": error,
            "best": better,
            "replayed": self.replayed,
            "seconds": seconds,
        }
        progress.history.append(record)
        if self.report is not None and self.report(record):
            progress.ended = "stopped by a callback"

    def _most_epochs_left(self, stage: Stage) -> int:
        """Return the largest number of epochs left: each stage may be repeated once."""
        progress = self.progress
        second_attempt = 0 if progress.attempt else stage.epochs
        later = sum(2 * other.epochs for other in self.plan.stages[progress.stage + 1 :])
        return stage.epochs - progress.epoch + second_attempt + later

    # -- once more, with all samples --------------------------------------------------------------------

    def repeat(self, path: Sequence[tuple[int, int, int, int]]) -> None:
        """Repeat the stages, strengths and numbers of epochs of the search on all samples."""
        view = 0
        with progress_bar(
            sum(epochs for _, _, epochs, _ in path) * len(self.plan.train), "fitting on all samples"
        ) as bar:
            for number, attempt, epochs, round_ in path:
                self._repeat_stage(self.plan.stages[number], attempt, epochs, round_, view, bar.update)
                view += epochs

    def _repeat_stage(
        self, stage: Stage, attempt: int, epochs: int, round_: int, view: int, report: Callable[[int], Any]
    ) -> None:
        settings = self.plan.settings.stronger() if attempt else self.plan.settings
        trainer = self.trainer(stage, settings)
        steps = -(-len(self.plan.train) // settings.batch_size)
        for epoch in range(epochs):
            trainer.view = view + epoch + 1
            train_epoch(
                trainer,
                self.plan.train,
                epoch_rng(self.plan.seed, round_, epoch, 1),
                first_step=epoch * steps,
                total_steps=stage.epochs * steps,
                progress=report,
            )
        if trainer.average is not None:
            trainer.average.swap()
        self.best_state = {**self.best_state, **_copied(self.network.state(stage.n_unfrozen))}


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
