"""Diagnosis after training: what went wrong in a fit, by which numbers, and the remedy."""

from skembed.diagnosis.examine import diagnose
from skembed.diagnosis.report import Diagnosis

__all__ = ["Diagnosis", "diagnose"]
