"""Choosing a backbone: how well embeddings suit a labelled set, before anything is trained on them."""

from skembed.selection.cross_validation import knn_score, linear_probe_score
from skembed.selection.display import TransferabilityDisplay
from skembed.selection.prediction import leep, nleep
from skembed.selection.ranking import rank_backbones
from skembed.selection.scores import h_score, logme, transrate
from skembed.selection.selector import BackboneSelector

__all__ = [
    "BackboneSelector",
    "TransferabilityDisplay",
    "h_score",
    "knn_score",
    "leep",
    "linear_probe_score",
    "logme",
    "nleep",
    "rank_backbones",
    "transrate",
]
