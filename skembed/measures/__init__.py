"""Measures of rows and targets for advice and diagnosis, on NumPy and SciPy alone.

duplicates.py       copies and near copies among samples
label_noise.py      labels that the other samples contradict
network_change.py   drift of weights, and linear CKA of outputs
The linear probe that leaves each sample out is in `skembed.probes`.
"""

from skembed.measures.duplicates import Twins, exact_groups, find_twins
from skembed.measures.label_noise import Suspects, noise_rate, suspect_labels
from skembed.measures.network_change import linear_cka, weight_drift
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
