"""Choice of a backbone by scores of its embeddings for labeled data, before any training.

scores.py             LogME, H-score and TransRate, by linear algebra; leep_scores.py LEEP and NLEEP
cross_validation.py   nearest neighbors and linear probes, cross-validated
candidates.py         names and estimators that users give as embedders to compare
ranking.py            `rank_backbones`: a table of scores; timing.py adds seconds
selector.py           `BackboneSelector`: the best candidate as a transformer
transferability_display.py   the ranking as a picture
"""

from skembed.selection.cross_validation import knn_score, linear_probe_score
from skembed.selection.leep_scores import leep, nleep
from skembed.selection.ranking import rank_backbones
from skembed.selection.scores import h_score, logme, transrate
from skembed.selection.selector import BackboneSelector
from skembed.selection.transferability_display import TransferabilityDisplay

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
