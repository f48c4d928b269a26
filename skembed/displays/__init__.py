"""Displays, in scikit-learn's form, of embeddings, backbones, fits and predictions.

Each has a constructor that takes what is drawn, class methods that get it from an estimator or an embedder, and
``plot``. They need matplotlib, which is imported when something is drawn: ``pip install "skembed[plot]"``. Maps
by UMAP also need ``pip install umap-learn``; those by principal components and t-SNE do not.

confusion.py       classes mistaken for each other, with examples
drift.py           change of each block's weights and features by training
embedding_map.py   samples in two dimensions; projections.py computes their positions
fine_tune.py       losses, scores and learning rates of a fit
layer_probe.py     linear probe of each layer
estimators.py      estimators and pipelines as displays take them; samples.py draws raw samples
"""

from skembed.displays.confusion import ConfusionExamplesDisplay
from skembed.displays.drift import DriftDisplay
from skembed.displays.embedding_map import EmbeddingMapDisplay
from skembed.displays.fine_tune import FineTuneDisplay
from skembed.displays.layer_probe import LayerProbeDisplay
from skembed.finetune.rate_display import RateCurveDisplay
from skembed.selection.transferability_display import TransferabilityDisplay

__all__ = [
    "ConfusionExamplesDisplay",
    "DriftDisplay",
    "EmbeddingMapDisplay",
    "FineTuneDisplay",
    "LayerProbeDisplay",
    "RateCurveDisplay",
    "TransferabilityDisplay",
]
