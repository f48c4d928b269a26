"""Training loop: batches, losses, penalties and steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from skembed.augment.mixing import Mix, draw_mix
from skembed.exceptions import DeviceWarning, TrainingError
from skembed.finetune.network import FrozenNetwork
from skembed.finetune.tasks import Task
from skembed.optimization import Optimization
from skembed.schedules import SCHEDULES
from skembed.utils.device import is_out_of_memory
from skembed.utils.seeding import seeded
from skembed.utils.warnings import warn

__all__ = ["Averaged", "Settings", "Source", "Targets", "build_optimizer", "epoch_rng", "evaluate", "train_epoch"]


@dataclass(frozen=True)
class Settings:
    """Settings of training; see `FineTuneClassifier`, `Optimization`, `Mixup` and `CutMix`."""

    learning_rate: float = 1e-3
    backbone_factor: float = 0.1
    layer_decay: float = 0.8
    schedule: str = "slanted_triangular"
    batch_size: int = 32
    dropout: float = 0.1
    weight_decay: float = 0.01
    l2_sp: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    mixup_on: str = "features"
    cutmix: float = 0.0
    clip_norm: float | None = 1.0
    ema: float | None = None

    @classmethod
    def of(cls, optimization: Optimization, *, rate_factor: float, **others: Any) -> Settings:
        """Return the settings that an `Optimization` describes.

        Parameters
        ----------
        optimization : Optimization
        rate_factor : float
            Value of `backbone_factor` where it is "auto".
        **others
            Settings that are not part of it.
        """
        values = optimization.get_params()
        factor = rate_factor if isinstance(values["backbone_factor"], str) else values["backbone_factor"]
        numbers = {
            name: value if value is None or isinstance(value, str) else float(value) for name, value in values.items()
        }
        return cls(**{**numbers, "backbone_factor": float(factor), **others})

    @property
    def mixers(self) -> tuple[str, ...]:
        """Names of the mixers of network inputs: "mixup", "cutmix", both or none."""
        pixels = self.mixup > 0 and self.mixup_on == "inputs"
        return (*(["mixup"] if pixels else []), *(["cutmix"] if self.cutmix > 0 else []))

    @property
    def mixes_inputs(self) -> bool:
        """True if batches are mixed before they enter the network, so that inputs differ from epoch to epoch."""
        return bool(self.mixers)

    def stronger(self) -> Settings:
        """Return settings with stronger regularization, for a second attempt after a harmful one."""
        return replace(
            self,
            learning_rate=self.learning_rate / 2,
            dropout=min(0.5, self.dropout + 0.2),
            weight_decay=max(0.01, 10 * self.weight_decay),
            l2_sp=max(1e-3, 10 * self.l2_sp),
        )


class Source(Protocol):
    """Source of features: a table of them, or the network."""

    def features(self, indices: np.ndarray, view: int = 0) -> Tensor: ...


class MixingSource(Source, Protocol):
    """Source that can also mix inputs of the network."""

    def mixed_features(self, indices: np.ndarray, mix: Mix, view: int = 0) -> tuple[Tensor, float]: ...


@dataclass(frozen=True)
class Targets:
    """Targets and weights of the samples of a source.

    Parameters
    ----------
    values : Tensor of shape (n_samples, n_outputs), float32
        Targets as the task encodes them.
    weights : Tensor of shape (n_samples,), float32
        Sample weights times class weights.
    """

    values: Tensor
    weights: Tensor

    def of(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return targets and weights of samples."""
        at = torch.from_numpy(indices)
        return self.values[at], self.weights[at]

    def mixed(self, indices: np.ndarray, others: np.ndarray, share: float) -> tuple[Tensor, Tensor]:
        """Return targets and weights of mixed samples.

        Each of the two targets keeps the weight of its own sample, as with class weights in torch's cross-entropy with
        soft targets. So a sample of small weight has little influence, whatever it is mixed with. The sum of the
        weights of a batch does not change.
        """
        (values, weights), (other_values, other_weights) = self.of(indices), self.of(others)
        kept, whole = share * weights, share * weights + (1 - share) * other_weights
        # Both may be zero, where a class has no weight.
        return torch.lerp(other_values, values, (kept / whole.clamp_min(1e-30)).unsqueeze(1)), whole


def epoch_rng(seed: int, *place: int) -> np.random.Generator:
    """Return the random generator of one epoch, the same in every process."""
    return np.random.default_rng(np.random.SeedSequence([seed, *place]))


def build_optimizer(network: FrozenNetwork, n_unfrozen: int, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW over the head and the highest blocks, each with its own rate."""
    groups = network.optimizer_groups(
        n_unfrozen,
        head_rate=settings.learning_rate,
        backbone_rate=settings.learning_rate * settings.backbone_factor,
        layer_decay=settings.layer_decay,
        weight_decay=settings.weight_decay,
    )
    return torch.optim.AdamW(groups, fused=True if network.device.type in ("cpu", "cuda") else None)


class Averaged:
    """Exponential moving average of the weights that train, which is evaluated and kept [1]_.

    Parameters
    ----------
    network : Network
        Network whose trainable tensors are averaged.
    decay : float
        Weight of earlier steps. It is smaller at first: min(decay, (1 + n) / (10 + n)).

    References
    ----------
    .. [1] Polyak & Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.
    """

    def __init__(self, network: FrozenNetwork, decay: float):
        self.decay = decay
        self.n_steps = 0
        self._parameters = list(network.parameters())
        self.values = [p.detach().clone() for p in self._parameters]

    def update(self) -> None:
        self.n_steps += 1
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        with torch.no_grad():
            for value, parameter in zip(self.values, self._parameters, strict=True):
                value.lerp_(parameter, 1 - decay)

    def swap(self) -> None:
        """Exchange the averages with the network's values; a second call exchanges them back."""
        with torch.no_grad():
            for value, parameter in zip(self.values, self._parameters, strict=True):
                own = parameter.clone()
                parameter.copy_(value)
                value.copy_(own)


class Pull:
    """L2-SP: the squared distance of trained weights from the pre-trained network [1]_.

    Parameters
    ----------
    network : Network
        Network with unfrozen blocks.
    strength : float
        The loss grows by half of this value times the squared distance.

    References
    ----------
    .. [1] Li, Grandvalet & Davoine (2018), Explicit Inductive Bias for Transfer Learning with Convolutional Networks.
    """

    def __init__(self, network: FrozenNetwork, strength: float):
        self.network, self.strength = network, strength

    def __call__(self) -> Tensor | float:
        distance = self.network.distance() if self.strength else None
        return 0.0 if distance is None else self.strength / 2 * distance


class Epoch:
    """State of one epoch, which its steps share.

    Parameters
    ----------
    network, task, source, targets, settings
        Network that trains, its data, and how it trains.
    optimizer : torch.optim.AdamW
        Optimizer of the parameters that train.
    average : Averaged, optional
        Updated at each step.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        task: Task,
        source: Source,
        targets: Targets,
        settings: Settings,
        optimizer: torch.optim.AdamW,
        average: Averaged | None = None,
    ):
        self.network, self.task, self.source, self.targets = network, task, source, targets
        self.settings, self.optimizer, self.average = settings, optimizer, average
        #: Parameters that train. Asking the network at each step would walk over all of its modules.
        self.parameters = [value for group in optimizer.param_groups for value in group["params"]]
        self.pull = Pull(network, settings.l2_sp)
        #: View of the samples; 0 is unchanged, and others differ with augmentation.
        self.view = 0
        #: Number of samples that fit into memory together; larger batches run in parts.
        self.fits = settings.batch_size

    def step(self, batch: np.ndarray, rng: np.random.Generator) -> float:
        """Run one step of the optimizer; return the loss of the batch without the penalty."""
        settings = self.settings
        mix = None
        if (settings.mixup or settings.cutmix) and len(batch) > 1:
            # For the whole batch and once, so that a second attempt in smaller parts is the same step.
            mix = draw_mix(len(batch), rng, mixup=settings.mixup, cutmix=settings.cutmix)
        while True:
            try:
                return self._step(batch, mix)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.fits == 1:
                    raise MemoryError(
                        "Training ran out of memory on a single sample. Unfreeze fewer blocks, use shorter or smaller "
                        'inputs, a smaller backbone, or device="cpu".'
                    ) from error
            self._take_smaller_parts()

    def _take_smaller_parts(self) -> None:
        self._forget_gradients()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.fits = (min(self.fits, self.settings.batch_size) + 1) // 2
        warn(
            f"Out of memory; batches of {self.settings.batch_size} are now trained in parts of {self.fits}, which "
            "changes nothing else.",
            DeviceWarning,
        )

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _part(self, batch: np.ndarray, start: int, mix: Mix | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, targets and weights of as many samples of a batch as fit."""
        part = batch[start : start + self.fits]
        if mix is None:
            return self.source.features(part, self.view), *self.targets.of(part)
        needed, mix = mix.part(start, start + len(part))
        indices = batch[needed]
        if mix.centre is not None or self.settings.mixup_on == "inputs":
            features, share = cast(MixingSource, self.source).mixed_features(indices, mix, self.view)
        else:
            features, share = mix(self.source.features(indices, self.view))
        return features, *self.targets.mixed(part, indices[mix.other], share)

    def _step(self, batch: np.ndarray, mix: Mix | None) -> float:
        network, settings = self.network, self.settings
        total = float(self.targets.weights[torch.from_numpy(batch)].sum())
        if total == 0:
            return 0.0
        self._forget_gradients()
        summed = 0.0
        for start in range(0, len(batch), self.fits):
            features, targets, weights = self._part(batch, start, mix)
            losses = self.task.losses(network.head(features), targets.to(features.device), settings.label_smoothing)
            loss = (losses * weights.to(losses.device)).sum() / total
            loss.backward()
            summed += float(loss.detach())
        penalty = self.pull()
        if isinstance(penalty, Tensor):
            penalty.backward()
        if not math.isfinite(summed):
            raise TrainingError(f"The training loss became {summed}.")
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return summed


def train_epoch(
    epoch: Epoch,
    indices: np.ndarray,
    rng: np.random.Generator,
    *,
    first_step: int,
    total_steps: int,
    progress: Callable[[int], Any] | None = None,
) -> float:
    """Go once through the samples in random order.

    Parameters
    ----------
    epoch : Epoch
        State of the epoch.
    indices : ndarray of shape (n_train,), int64
        Positions in the source.
    rng : numpy Generator
        Generator that orders the samples and seeds torch's draws. torch's global state does not change.
    first_step, total_steps : int
        Position in the schedule.
    progress : callable, optional
        Called with the number of samples of each batch.

    Returns
    -------
    float
        Mean loss over the samples.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    order = rng.permutation(indices)
    schedule = SCHEDULES[epoch.settings.schedule]
    size = epoch.settings.batch_size
    summed = 0.0
    epoch.network.train(True)
    try:
        with seeded(int(rng.integers(2**62)), epoch.network.device):
            for number, start in enumerate(range(0, len(order), size)):
                factor = schedule(first_step + number, total=total_steps)
                for group in epoch.optimizer.param_groups:
                    group["lr"] = group["base_rate"] * factor
                batch = order[start : start + size]
                summed += epoch.step(batch, rng) * len(batch)
                if progress is not None:
                    progress(len(batch))
    finally:
        epoch.network.train(False)
    return summed / len(order)


def evaluate(network: FrozenNetwork, source: Source, indices: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Return outputs of shape (n_samples, n_outputs), float64, without training or dropout."""
    network.train(False)
    with torch.no_grad():
        parts = [
            network.outputs(source.features(indices[i : i + batch_size])) for i in range(0, len(indices), batch_size)
        ]
    return np.concatenate(parts)
