"""Mixing of the samples of a batch and of their targets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from skembed.utils.naming import did_you_mean
from skembed.utils.parameters import ParameterObject
from skembed.utils.sklearn_private import Interval, StrOptions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CutMix", "Mix", "Mixup", "cutmix", "draw_mix", "mixed_level", "mixup", "resolve_mix"]

#: Reasons why inputs without pixels cannot be mixed.
_NO_PIXELS = {
    "text": "the inputs of texts are the numbers of their tokens, which have no average",
    "audio": "the inputs of recordings differ in length, and the shorter of two would be mixed with silence",
}


class Mixup(ParameterObject):
    """Average the samples of a batch in pairs, and their targets with them [1]_.

    Parameters
    ----------
    alpha : float, default=0.2
        Parameter of the Beta distribution of the shares. Small values mostly leave one of the two samples almost alone;
        1 makes all shares equally likely. Raise it to regularize more.
    on : {"auto", "inputs", "features"}, default="auto"
        Values to average: pixels, or embeddings. "auto" uses "inputs" for images, as in the paper, and "features" for
        texts and recordings, whose inputs cannot be averaged. With mixed inputs, activations of frozen blocks cannot be
        stored: all blocks run in every epoch, even with `Head`. "features" takes no additional time.

    See Also
    --------
    CutMix : Paste a rectangle instead of averaging.

    References
    ----------
    .. [1] Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization. On features: Verma et al. (2019), Manifold
       Mixup.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, Mixup
    >>> FineTuneClassifier(mix=Mixup(alpha=0.4))
    FineTuneClassifier(mix=Mixup(alpha=0.4))
    """

    name = "mixup"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "on": [StrOptions({"auto", "inputs", "features"})],
    }

    def __init__(self, alpha=0.2, on="auto"):
        self.alpha = alpha
        self.on = on


class CutMix(ParameterObject):
    """Paste a rectangle of another image into every image, and mix targets by area [1]_.

    It mixes pixels, so activations of frozen blocks cannot be stored: all blocks run in every epoch.

    Parameters
    ----------
    alpha : float, default=1
        Parameter of the Beta distribution of the share of the area that stays. 1 makes all shares equally likely.

    See Also
    --------
    Mixup : Average samples instead. With a list of both, one is drawn per batch with equal probability.

    References
    ----------
    .. [1] Yun et al. (2019), CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features.

    Examples
    --------
    >>> from skembed import CutMix, FineTuneClassifier, ImageEmbedder
    >>> FineTuneClassifier(ImageEmbedder(), mix=[CutMix(), "mixup"])
    FineTuneClassifier(embedder=ImageEmbedder(), mix=[CutMix(), 'mixup'])
    """

    name = "cutmix"
    _parameter_constraints: ClassVar[dict[str, Any]] = {"alpha": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, alpha=1.0):
        self.alpha = alpha


MIXERS = {"mixup": Mixup, "cutmix": CutMix}


def resolve_mix(mix: Any) -> tuple[Mixup | None, CutMix | None]:
    """Return the mixers that an estimator's `mix` asks for, with checked parameters.

    Parameters
    ----------
    mix : None, Mixup, CutMix, "mixup", "cutmix", or a list of these
        Value of `mix`. None or an empty list mixes nothing.

    Raises
    ------
    ValueError
        If it is something else, has one kind twice, or has a parameter out of range.

    Examples
    --------
    >>> resolve_mix("mixup"), resolve_mix([CutMix(0.5), "mixup"])
    ((Mixup(), None), (Mixup(), CutMix(alpha=0.5)))
    """
    parts = [] if mix is None else list(mix) if isinstance(mix, list | tuple) else [mix]
    mixers: dict[str, Any] = {}
    for part in parts:
        mixer = MIXERS[part]() if isinstance(part, str) and part in MIXERS else part
        if not isinstance(mixer, Mixup | CutMix):
            hint = did_you_mean(part, MIXERS) if isinstance(part, str) else ""
            hint = f" Give an object, not its class: {part.__name__}()." if isinstance(part, type) else hint
            raise ValueError(
                f"mix={mix!r}: use Mixup(), CutMix(), their names 'mixup' and 'cutmix', a list of both, or None.{hint}"
            )
        if mixer.name in mixers:
            raise ValueError(f"mix={mix!r} has {type(mixer).__name__} twice. Give each kind at most once.")
        mixer.validate()
        mixers[mixer.name] = mixer
    return mixers.get("mixup"), mixers.get("cutmix")


@dataclass(frozen=True)
class Mix:
    """Mixing of one batch, drawn before it is computed, so that the batch may run in parts.

    Parameters
    ----------
    share : float
        Share of each sample that stays, from 0 to 1: a weight, or a share of the area.
    other : ndarray of int
        Position in the batch of the sample that each sample is mixed with.
    centre : (float, float), optional
        Center of the rectangle as shares of height and width; None averages.
    """

    share: float
    other: np.ndarray
    centre: tuple[float, float] | None = None

    def part(self, start: int, stop: int) -> tuple[np.ndarray, Mix]:
        """Return the positions that mixing some samples requires, these samples first, and their mix."""
        own = np.arange(start, stop)
        partners = self.other[own]
        needed = np.concatenate([own, np.setdiff1d(partners, own)])
        place = {position: i for i, position in enumerate(needed.tolist())}
        return needed, replace(self, other=np.array([place[i] for i in partners.tolist()]))

    def __call__(self, values: Tensor) -> tuple[Tensor, float]:
        """Return mixed samples, and the share of each that stayed."""
        own = values[: len(self.other)]
        if self.centre is None:
            return _blend(own, values[self.other.tolist()], self.share), self.share
        height, width = values.shape[2:]
        rows, columns = (
            _cut(length, self.share, at * length) for length, at in zip((height, width), self.centre, strict=True)
        )
        mixed = own.clone()
        mixed[:, :, rows, columns] = values[self.other.tolist(), :, rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, 1 - pasted / (height * width)


def draw_mix(n: int, rng: np.random.Generator, *, mixup: float = 0.0, cutmix: float = 0.0) -> Mix:
    """Draw the mixing of a batch; of two ways, one is drawn with equal probability.

    Parameters
    ----------
    n : int
        Number of samples of the batch.
    rng : numpy.random.Generator
        The only source of chance.
    mixup, cutmix : float
        Value of `alpha` of each way, 0 for none; at least one is positive.

    Examples
    --------
    >>> import numpy as np
    >>> mix = draw_mix(4, np.random.default_rng(0), mixup=0.2, cutmix=1.0)
    >>> sorted(mix.other.tolist())
    [0, 1, 2, 3]
    """
    # Nothing is drawn where there is no choice, so that a second way does not move the draws of the first.
    pastes = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    alpha = cutmix if pastes else mixup
    share, other = float(rng.beta(alpha, alpha)), rng.permutation(n)
    return Mix(share, other, (rng.random(), rng.random()) if pastes else None)


def mixed_level(mixup: Mixup | None, cutmix: CutMix | None, modality: str) -> str:
    """Return the values that mixup averages for a modality, "inputs" or "features".

    Parameters
    ----------
    mixup, cutmix
        From `resolve_mix`.
    modality : {"image", "text", "audio", "array"}
        Modality of the embedder.

    Raises
    ------
    ValueError
        If the inputs of such samples cannot be mixed in this way.

    Examples
    --------
    >>> mixed_level(Mixup(), None, "image"), mixed_level(Mixup(), None, "text")
    ('inputs', 'features')
    """
    if cutmix is not None and modality != "image":
        reason = _NO_PIXELS.get(modality, "there is no rectangle to cut out")
        raise ValueError(f"mix={cutmix!r} is for images: {reason}. Use Mixup(), which mixes embeddings.")
    on = "auto" if mixup is None else mixup.on
    if on == "inputs" and modality in _NO_PIXELS:
        raise ValueError(
            f"mix={mixup!r} is for images: {_NO_PIXELS[modality]}. Use Mixup(on='features'), which mixes embeddings."
        )
    if on == "auto":
        return "inputs" if modality == "image" else "features"
    return on


def mixup(inputs: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float = 0.2) -> tuple[Tensor, Tensor]:
    """Average every sample and its targets with another sample of the batch [1]_.

    Parameters
    ----------
    inputs : Tensor of shape (batch, ...), floating
        Pixels, or features of any kind. Not written to.
    targets : Tensor of shape (batch, n_classes) or (batch,), floating
        Soft targets, one-hot at first; or the numbers of a regression.
    rng : numpy.random.Generator
        The only source of chance.
    alpha : float, default=0.2
        The share of the first sample is drawn from Beta(alpha, alpha), once for the batch: 0 changes nothing, small
        values leave one of the two nearly alone, 1 makes all shares equally likely.

    Returns
    -------
    inputs, targets : Tensor
        Of the same shapes, types and devices.

    References
    ----------
    .. [1] Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization.

    Examples
    --------
    >>> import numpy as np, torch
    >>> inputs, targets = mixup(torch.eye(3), torch.eye(3), np.random.default_rng(0), alpha=1.0)
    >>> targets.sum(dim=1)
    tensor([1., 1., 1.])
    """
    _check(inputs, targets, alpha, "mixup")
    if not alpha:
        return inputs, targets
    return _mixed(inputs, targets, draw_mix(len(inputs), rng, mixup=alpha))


def cutmix(inputs: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image into every image, and mix targets by area [1]_.

    Parameters
    ----------
    inputs : Tensor of shape (batch, channels, height, width), floating
        Images. Not written to.
    targets : Tensor of shape (batch, n_classes) or (batch,), floating
        Soft targets, one-hot at first; or the numbers of a regression.
    rng : numpy.random.Generator
        The only source of chance.
    alpha : float, default=1.0
        The share of the area that stays is drawn from Beta(alpha, alpha), once for the batch; 0 changes nothing.

    Returns
    -------
    inputs, targets : Tensor
        Of the same shapes, types and devices. The center of the rectangle may be anywhere, so part of the rectangle may
        be outside of the image; targets are mixed by the part inside.

    References
    ----------
    .. [1] Yun et al. (2019), CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features.

    Examples
    --------
    >>> import numpy as np, torch
    >>> images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    >>> mixed, targets = cutmix(images, torch.tensor([0.0, 1.0]), np.random.default_rng(3))
    >>> bool((mixed.mean(dim=(1, 2, 3)) == targets).all())
    True
    """
    _check(inputs, targets, alpha, "cutmix")
    if inputs.ndim != 4:
        raise ValueError(
            f"cutmix: inputs of shape {tuple(inputs.shape)} are not images. Use (batch, channels, height, width), or "
            "mixup."
        )
    if not alpha:
        return inputs, targets
    return _mixed(inputs, targets, draw_mix(len(inputs), rng, cutmix=alpha))


def _mixed(inputs: Tensor, targets: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    mixed, share = mix(inputs)
    return mixed, _blend(targets, targets[mix.other.tolist()], share)


def _cut(length: int, share: float, centre: float) -> slice:
    """Return one side of a rectangle of the area 1 - share, clipped at the borders."""
    half = length * math.sqrt(1 - share) / 2
    return slice(round(max(0.0, centre - half)), round(min(length, centre + half)))


def _blend(values: Tensor, others: Tensor, share: float) -> Tensor:
    return share * values + (1 - share) * others


def _check(inputs: Tensor, targets: Tensor, alpha: float, name: str) -> None:
    if not isinstance(alpha, Real) or not 0 <= alpha < math.inf:
        raise ValueError(f"{name}: alpha={alpha!r} is out of range. Use 0 or more.")
    if not inputs.is_floating_point():
        raise ValueError(f"{name}: inputs are {inputs.dtype}, which cannot be mixed. Use floats, or mix features.")
    if not targets.is_floating_point():
        raise ValueError(
            f"{name}: targets are {targets.dtype}. Use soft targets, such as "
            "torch.nn.functional.one_hot(labels, n_classes).float()."
        )
    if len(inputs) != len(targets):
        raise ValueError(f"{name}: {len(inputs)} inputs and {len(targets)} targets. Give one target for each input.")
