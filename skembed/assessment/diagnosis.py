"""Diagnosis: findings, measurements, and the names of the checks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from skembed.assessment.findings import LINE_WIDTH, Finding, describe

__all__ = ["Diagnosis"]


@dataclass(frozen=True)
class Diagnosis:
    """Findings about a fit, and its measurements; print it.

    Parameters
    ----------
    findings : tuple of Finding
        Findings, the worst first.
    checked : tuple of str
        Names of all findings that were looked for.
    blocks : dict of str to dict of str to float
        Measurements of each block of the backbone, the lowest first: "drift" is the norm of the change of its weights
        divided by their norm; "cka" is the similarity of its outputs to those before the fit, if samples were given.
    numbers : dict of str to float
        Other measurements.
    judging : str
        Held-out scores with confidence intervals, if fewer than 100 samples were held out.

    Examples
    --------
    >>> from skembed.diagnosis import Diagnosis
    >>> diagnosis = Diagnosis(findings=(), checked=("overfitting", "underfitting"))
    >>> print(diagnosis)
    Healthy: nothing was found. Looked for overfitting, underfitting.
    >>> diagnosis.healthy, "overfitting" in diagnosis
    (True, False)
    """

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    blocks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    judging: str = ""

    @property
    def healthy(self) -> bool:
        """True if there are no findings but notes."""
        return all(found.severity == "note" for found in self.findings)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the findings, the worst first."""
        return tuple(found.name for found in self.findings)

    def __contains__(self, name: str) -> bool:
        """Return True if there is a finding of that name."""
        return name in self.names

    def __getitem__(self, name: str) -> Finding:
        """Return the finding of that name."""
        if name not in self.names:
            raise KeyError(f"unknown finding {name!r}; this diagnosis has {list(self.names)}.")
        return self.findings[self.names.index(name)]

    def __str__(self) -> str:
        # A wide gap is a form of overfitting, even if the held-out loss did not rise.
        named = (*self.names, "overfitting") if "generalization gap" in self else self.names
        left = [name for name in self.checked if name not in named]
        looked = f"Looked for {', '.join(left)}." if left else ""
        if not self.findings:
            lines = [f"Healthy: nothing was found. {looked}".strip()]
        else:
            n_findings = len(self.findings)
            fine = "Not judged, but without problems; notes" if "not judged" in self else "Healthy, with notes"
            first = fine if self.healthy else f"{n_findings} finding{'s' if n_findings > 1 else ''}"
            lines = [f"{first}, the worst first:", describe(self.findings)]
            lines += [f"Not found: {', '.join(left)}."] if left else []
        lines += [self.judging] if self.judging else []
        plain = ("Not", "Healthy:", "Decided")
        lines = [textwrap.fill(line, LINE_WIDTH) if line.startswith(plain) else line for line in lines]
        return "\n".join([*lines, *self._table()])

    def _table(self) -> list[str]:
        changed = {name: row for name, row in self.blocks.items() if row.get("drift", 0) > 0 or "cka" in row}
        if not changed:
            return []
        width = max(map(len, changed))
        compared = any("cka" in row for row in changed.values())
        lines = [f"{'block':{width}}  drift of weights{'  CKA of outputs' if compared else ''}"]
        for name, row in changed.items():
            alike = f"{row['cka']:16.3f}" if "cka" in row else ""
            lines.append(f"{name:{width}}  {row.get('drift', 0.0):16.2%}{alike}")
        return lines
