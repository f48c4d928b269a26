"""Measures of rows, targets and their twins that advice and diagnosis share: NumPy and SciPy only."""

from skembed.measures.drift import weight_drift
from skembed.measures.duplicates import Twins, exact_groups, find_twins
from skembed.measures.label_noise import Suspects, noise_rate, suspect_labels
from skembed.measures.similarity import linear_cka
from skembed.probes.leave_one_out import LeftOut, LinearProbe

__all__ = [
    "LeftOut",
    "LinearProbe",
    "Suspects",
    "Twins",
    "exact_groups",
    "find_twins",
    "linear_cka",
    "noise_rate",
    "suspect_labels",
    "weight_drift",
]
