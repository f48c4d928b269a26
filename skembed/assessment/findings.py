"""What was found in data or in a fit: a name, how bad it is, the numbers, and the remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

__all__ = ["LINE_WIDTH", "SEVERITIES", "Finding", "describe", "of_positions", "worst_first"]

#: From what need not be acted on to what makes the result worthless.
SEVERITIES = ("note", "warning", "serious")
#: Characters of a line of printed advice and diagnoses.
LINE_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters
    ----------
    name : str
        Such as "overfitting".
    severity : {"note", "warning", "serious"}
        "note" need not be acted on, "warning" costs accuracy, "serious" makes the result or its score worthless.
    evidence : str
        A sentence with the numbers.
    remedy : str
        What to do, in the estimator's own parameters.
    samples : tuple of int, default=()
        Positions in X of the samples that it is about, where it is about some; those of a fit's X_val follow them.
    numbers : dict, default={}
        The numbers of the evidence by name.
    """

    name: str
    severity: str
    evidence: str
    remedy: str
    samples: tuple[int, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        first = textwrap.fill(
            f"{self.name} ({self.severity}): {self.evidence}", LINE_WIDTH, initial_indent="- ", subsequent_indent="  "
        )
        then = textwrap.fill(f"Remedy: {self.remedy}", LINE_WIDTH, initial_indent="  ", subsequent_indent="  ")
        return f"{first}\n{then}"


def of_positions(findings: Iterable[Finding], positions: Any) -> tuple[Finding, ...]:
    """The same findings, where sample i stands for ``positions[i]``.

    Examples
    --------
    >>> found = Finding("label noise", "warning", "2 suspects.", "Look at them.", samples=(0, 2))
    >>> of_positions([found], [10, 11, 12])[0].samples
    (10, 12)
    """
    where = np.asarray(positions)
    return tuple(replace(found, samples=tuple(where[list(found.samples)].tolist())) for found in findings)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by severity; those of one severity stay in their order."""
    return tuple(sorted(findings, key=lambda found: -SEVERITIES.index(found.severity)))


def describe(findings: Iterable[Finding]) -> str:
    """Findings in words, one below the other."""
    return "\n".join(map(str, findings))
