"""Measurements for advice: samples, targets, twins, probes of layers, words, and training time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skembed.assessment.coverage import broken_share
from skembed.assessment.training_cost import measure_training_cost
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.embedders.layers import layer_rows
from skembed.inputs.target_kinds import KnownTargets
from skembed.measures import exact_groups, find_twins, noise_rate, suspect_labels
from skembed.measures.duplicates import join_groups
from skembed.probes.leave_one_out import MIN_LEFT_OUT_SAMPLES, N_SHUFFLES, LeftOut, LinearProbe

__all__ = ["Evidence", "gather"]

_NAN = float("nan")
_MAX_LAYER_SAMPLES = 600
#: Depths of the layers that are compared, as shares.
_COMPARED_DEPTHS = (0.25, 0.5, 0.75)
#: Regression samples that are worth one classification sample of a class.
_NUMBERS_PER_CLASS = 10


@dataclass
class Evidence:
    """Measurements that the rules of advice read.

    Parameters
    ----------
    task : {"classification", "multilabel", "regression"}
        Kind of target.
    modality : str
        "text", "image" or "audio".
    numbers : dict of str to float
        Measurements by name. NaN stands for those that were not made; rules that need them do not hold.
    samples : dict of str to tuple of int
        Positions in X: "duplicates", "conflicts", "suspects", the worst first.
    groups : ndarray of shape (n_samples,), or None
        Groups that keep twins together; None if there are no twins.
    """

    task: str
    modality: str
    numbers: dict[str, float]
    samples: dict[str, tuple[int, ...]] = field(default_factory=dict)
    groups: np.ndarray | None = None

    @property
    def lower_margin(self) -> float:
        """Gain of a lower layer that may be chance: twice its standard error.

        It is three times the standard error where the upper layer is no better than chance. Then all layers may be, and
        the best of three exceeds a bound by chance more often."""
        return (3 if self.is_chance == 1 else 2) * self.lower_error

    def __getattr__(self, name: str) -> float:
        # Rules read the better for it: `e.imbalance` for `e.numbers["imbalance"]`.
        try:
            return self.__dict__["numbers"][name]
        except KeyError:
            raise AttributeError(name) from None


def gather(
    embedder: BaseEmbedder,
    samples: Sequence[Any],
    known: KnownTargets,
    *,
    groups: np.ndarray | None,
    max_samples: int,
    rng: np.random.Generator,
    timed: bool,
) -> Evidence:
    """Measure samples, targets, embeddings and the machine.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted embedder.
    samples : sequence
        Raw samples.
    known : KnownTargets
        Targets of all samples.
    groups : ndarray of shape (n_samples,), optional
        Group of each sample. Samples of one group are never split.
    max_samples : int
        Largest number of samples that are embedded.
    rng : numpy Generator
        Generator that draws them.
    timed : bool
        If True, the network is timed, which gives different numbers in each run.
    """
    n_samples, encoder = len(samples), Encoder(embedder)
    drawn = np.sort(rng.permutation(n_samples)[:max_samples])
    rows = embedder.embed([samples[i] for i in drawn])
    drawn, rows = drawn[np.isfinite(rows).all(1)], rows[np.isfinite(rows).all(1)]
    if not len(drawn):
        raise ValueError("None of the samples could be read: there is nothing to advise on.")
    evidence = Evidence(known.task, encoder.modality, _of_targets(known))
    numbers = evidence.numbers
    numbers |= {"n_drawn": float(len(drawn)), "depth": float(encoder.depth)}
    same, shares = _of_twins(evidence, embedder, samples, known, groups, drawn, rows)
    # One of each group of copies: a probe that knows the sample's double is not asked anything.
    single = np.unique(same[drawn], return_index=True)[1]
    # Of these same samples, each with the target of whichever copy came first, nobody knows more.
    numbers["probe_ceiling"] = float(shares[drawn[single]].mean())
    _of_probes(evidence, embedder, samples, known, drawn[single], rows[single], rng)
    numbers["broken_share"] = _NAN
    if encoder.modality == "text":
        texts = [samples[i] for i in drawn if isinstance(samples[i], str)]
        numbers["broken_share"] = broken_share(texts, encoder.backbone(), encoder.readout.options)
    numbers |= dict.fromkeys(_COST_NAMES, _NAN)
    if timed:
        numbers |= measure_training_cost(embedder, [samples[i] for i in drawn[:64]], n_samples)
    return evidence


_COST_NAMES = (
    "cores", "accelerator", "sample_seconds", "epoch_seconds", "top_epoch_seconds", "training_bytes", "free_bytes"
)  # fmt: skip


def _of_targets(known: KnownTargets) -> dict[str, float]:
    counts = known.counts
    regression = known.task == "regression"
    classes = known.task == "classification"
    return {
        "n_samples": float(len(known.columns)),
        "n_targets": float(known.columns.shape[1]),
        "rarest": float(_NAN if regression else counts.min()),
        "largest": float(_NAN if regression else counts.max()),
        "imbalance": float(counts.max() / counts.min()) if classes else _NAN,
    }


def _of_distinct(known: KnownTargets, joined: np.ndarray) -> dict[str, float]:
    """Count the samples to learn from; copies and near copies count as one."""
    distinct = known.take(np.unique(joined, return_index=True)[1])
    if known.task == "regression":
        return {"n_distinct": float(len(distinct.columns)), "per_target": len(distinct.columns) / _NUMBERS_PER_CLASS}
    counts = distinct.counts
    return {
        "n_distinct": float(len(distinct.columns)),
        # Of two classes it is the smaller one that limits what can be learned.
        "per_target": float(np.percentile(counts, 50, method="lower")),
        "n_single": float((counts <= 1).sum()),
    }


def _of_twins(evidence: Evidence, embedder, samples, known: KnownTargets, groups, drawn, rows):
    """Fill in measurements of copies and near copies.

    Returns the groups of copies and near copies, and the result of `_best_shares` for exact copies.
    """
    n_samples = len(samples)
    key = Encoder(embedder).key()
    exact = exact_groups([key(sample) for sample in samples])
    near = drawn[find_twins(rows).pairs]
    first = np.unique(exact, return_index=True)[1][exact]
    same = np.flatnonzero(first != np.arange(n_samples))
    pairs = np.concatenate([np.stack([first[same], same], axis=1), near])
    joined = join_groups(pairs, n_samples)
    sizes = np.bincount(joined)
    conflicts, shares = known.conflicts(exact), _best_shares(exact, known)
    torn = _torn(pairs, groups)
    if groups is not None:
        # Twins, and what was one group before.
        _, number = np.unique(groups, return_inverse=True)
        leaders = np.unique(number, return_index=True)[1][number]
        merged = join_groups(np.concatenate([pairs, np.stack([leaders, np.arange(n_samples)], axis=1)]), n_samples)
    else:
        merged = joined
    evidence.numbers |= {
        "duplicate_share": len(same) / n_samples,
        "near_share": float((sizes[joined] > 1).mean() - (np.bincount(exact)[exact] > 1).mean()),
        "conflict_share": len(conflicts) / n_samples,
        "torn_share": len(np.unique(torn)) / n_samples,
        "n_groups": float(len(sizes)),
        "ceiling": float(shares.mean()),
        "n_single": _NAN,
        **_of_distinct(known, joined),
    }
    evidence.samples |= {"duplicates": tuple(np.unique(torn).tolist()), "conflicts": tuple(conflicts.tolist())}
    evidence.groups = merged if len(torn) else None
    return joined, shares


def _torn(pairs: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return the pairs that a split may separate."""
    return pairs if groups is None else pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]


def _best_shares(exact: np.ndarray, known: KnownTargets) -> np.ndarray:
    """Return for each sample the share of its exact copies that have their most frequent class.

    The copies include the sample itself. The mean of the shares is the best possible accuracy.
    """
    if known.codes is None:
        return np.ones(len(exact))
    both, counts = np.unique(np.stack([exact, known.codes]), axis=1, return_counts=True)
    most = np.zeros(exact.max() + 1, dtype=int)
    np.maximum.at(most, both[0], counts)
    return (most / np.bincount(exact))[exact]


# -- probes ---------------------------------------------------------------------------------------------


_PROBE_NAMES = (
    "probe", "probe_r2", "majority", "is_chance", "shuffled_low", "shuffled_high", "noise_rate", "noise_error",
    "n_suspects", "lower_gain", "lower_error", "lower_probe", "own_probe", "best_layer", "read_layer",
)  # fmt: skip


def _of_probes(evidence: Evidence, embedder, samples, known: KnownTargets, drawn, rows, rng) -> None:
    """Fill in scores of a linear probe on the embeddings and on lower layers."""
    evidence.numbers |= dict.fromkeys(_PROBE_NAMES, _NAN)
    evidence.numbers["n_probed"] = float(len(drawn))
    if len(drawn) < MIN_LEFT_OUT_SAMPLES:
        return
    targets = known.take(drawn)
    probe = LinearProbe(rows)
    left_out = probe.left_out(targets.columns)
    evidence.numbers |= {"probe": _score(left_out, targets), "probe_r2": left_out.r2}
    evidence.numbers |= _of_chance(probe, left_out, targets, rng)
    if targets.codes is not None:
        evidence.numbers["majority"] = float(targets.counts.max() / len(drawn))
        chances = left_out.probabilities(targets.codes)
        suspects = suspect_labels(chances, targets.codes)
        evidence.numbers["noise_rate"], evidence.numbers["noise_error"] = noise_rate(chances, targets.codes)
        evidence.numbers["n_suspects"] = float(len(suspects.positions))
        evidence.samples["suspects"] = tuple(drawn[suspects.positions].tolist())
    chosen = np.sort(rng.permutation(len(drawn))[:_MAX_LAYER_SAMPLES])
    evidence.numbers |= _compare_layers(embedder, [samples[i] for i in drawn[chosen]], targets.take(chosen))


def _score(left_out: LeftOut, known: KnownTargets) -> float:
    """Return the accuracy for classes, R² for numbers and labels."""
    return left_out.r2 if known.codes is None else float(left_out.quality(known.columns, known.codes).mean())


def _of_chance(probe: LinearProbe, found: LeftOut, known: KnownTargets, rng) -> dict[str, float]:
    """Return True if shuffled targets are predicted as well as these, by squared error and accuracy."""
    if not np.isfinite(found.r2):  # what is left when copies are is of one class
        return {}
    pairs = [(known.take(order), each) for order, each in probe.shuffled(known.columns, rng, N_SHUFFLES)]
    scores = [_score(each, targets) for targets, each in pairs]
    beaten = found.r2 > max(each.r2 for _, each in pairs) or _score(found, known) > max(scores)
    return {"is_chance": float(not beaten), "shuffled_low": min(scores), "shuffled_high": max(scores)}


def _compare_layers(embedder: BaseEmbedder, samples: Sequence[Any], known: KnownTargets) -> dict[str, float]:
    """Compare the best lower layer with the layer that is read, with the standard error.

    Higher layers are more specific to the pre-training data [1]_, so a better lower layer shows that the data differ.
    Classes are compared by accuracy, numbers by explained variance.

    References
    ----------
    .. [1] Yosinski et al. (2014), How Transferable are Features in Deep Neural Networks?
    """
    read = Encoder(embedder).readout.layers
    if len(read) != 1:
        return {}
    top = read[0]
    layers = sorted({round(part * top) for part in _COMPARED_DEPTHS} - {top})
    if not layers:
        return {}
    found = [
        LinearProbe(rows).left_out(known.columns).quality(known.columns, known.codes)
        for rows in layer_rows(embedder, samples, [*layers, top])
    ]
    own = found.pop()
    means = [gains.mean() for gains in found]
    best = int(np.argmax(means))
    higher = found[best] - own
    return {
        "lower_gain": float(higher.mean()),
        "lower_error": float(higher.std(ddof=1) / len(higher) ** 0.5),
        "lower_probe": float(means[best]),
        "own_probe": float(own.mean()),
        "best_layer": float(layers[best] - embedder.n_blocks_),
        "read_layer": float(top - embedder.n_blocks_),
    }
