"""Findings in data or in a fit: name, severity, verdict, numbers and remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

__all__ = ["LINE_WIDTH", "SEVERITIES", "VERDICTS", "Finding", "describe", "of_positions", "worst_first"]

#: From the mildest to the worst; `Finding` has their meaning.
SEVERITIES = ("note", "warning", "serious")
#: One sentence per finding, printed before its numbers.
VERDICTS: Mapping[str, str] = {
    # before training
    "classes of one sample": "Some classes are too small to be both learned and tested.",
    "conflicting labels": "Copies of the same sample have different targets.",
    "far domain": "The data differ from what the network was pre-trained on.",
    "imbalance": "Classes differ so much in size that accuracy misleads.",
    "leakage": "A random split would test on copies of training samples.",
    "memory": "Training all blocks needs more memory than is free.",
    "slow": "Training all blocks takes longer than the budget allows.",
    "unknown words": "The tokenizer was not made for these texts.",
    # before or after training
    "few samples": "The data are too few for certain results.",
    "label noise": "Some labels are probably wrong.",
    "no signal": "The embeddings say nothing about the targets.",
    # after training
    "class imbalance": "Rare classes are predicted badly, or cannot be judged.",
    "forgetting": "The network differs much from the pre-trained one.",
    "generalization gap": "The model fits training samples much better than new ones.",
    "instability": "The learning rate is too high for stable training.",
    "leaked duplicates": "Held-out scores are too good, because samples were also trained on.",
    "miscalibration": "The outputs were overconfident before calibration.",
    "negative transfer": "Training blocks made the held-out loss worse.",
    "not judged": "Too few samples are held out to judge this fit.",
    "overfitting": "Training went on past the best held-out loss.",
    "underfitting": "The model has not learned all that it could.",
}
#: Width of printed advice and diagnoses, in characters.
LINE_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """Finding about data or a fit; print it for verdict, numbers and remedy.

    Parameters
    ----------
    name : str
        Name, such as "overfitting".
    severity : {"note", "warning", "serious"}
        A "note" needs no action, a "warning" costs accuracy, and a "serious" finding makes the result or its score
        worthless.
    evidence : str
        Sentences with the numbers.
    remedy : str
        What to do, in terms of the estimator's parameters.
    samples : tuple of int, default=()
        Positions in X of the samples that the finding is about, if any. Positions in a fit's X_val continue those of X.
    numbers : dict, default={}
        Numbers of the evidence by name.
    """

    name: str
    severity: str
    evidence: str
    remedy: str
    samples: tuple[int, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        evidence = self.evidence[:1].upper() + self.evidence[1:]
        sentences = [self.verdict, evidence] if self.verdict else [evidence]
        parts = [f"{self.name} ({self.severity}): {sentences[0]}", *sentences[1:], f"Remedy: {self.remedy}"]
        lines = [textwrap.fill(part, LINE_WIDTH, initial_indent="  ", subsequent_indent="  ") for part in parts]
        return "-" + "\n".join(lines)[1:]

    @property
    def verdict(self) -> str:
        """Sentence without numbers that sums up the finding; empty for an unknown name."""
        return VERDICTS.get(self.name, "")


def of_positions(findings: Iterable[Finding], positions: Any) -> tuple[Finding, ...]:
    """Return findings with ``positions[i]`` in the place of sample i.

    Examples
    --------
    >>> found = Finding("label noise", "warning", "2 suspects.", "Look at them.", samples=(0, 2))
    >>> of_positions([found], [10, 11, 12])[0].samples
    (10, 12)
    """
    where = np.asarray(positions)
    return tuple(replace(found, samples=tuple(where[list(found.samples)].tolist())) for found in findings)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings by severity; equal ones keep their order."""
    return tuple(sorted(findings, key=lambda found: -SEVERITIES.index(found.severity)))


def describe(findings: Iterable[Finding]) -> str:
    """Return printed findings, one below the other."""
    return "\n".join(map(str, findings))
