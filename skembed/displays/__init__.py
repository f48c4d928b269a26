"""Pictures of what was chosen, trained and predicted, in the form of scikit-learn's displays.

Each has a constructor that takes what is drawn, class methods that get it from an estimator or an embedder, and
``plot``. They need matplotlib, which is imported when something is drawn: ``pip install "skembed[plot]"``. Maps
by UMAP also need ``pip install umap-learn``; those by principal components and t-SNE do not.
"""

from skembed.displays.confusion import ConfusionExamplesDisplay
from skembed.displays.drift import DriftDisplay
from skembed.displays.embedding_map import EmbeddingMapDisplay
from skembed.displays.fine_tune import FineTuneDisplay
from skembed.displays.layer_probe import LayerProbeDisplay
from skembed.finetune.rate_display import RateCurveDisplay
from skembed.selection.display import TransferabilityDisplay

__all__ = [
    "ConfusionExamplesDisplay",
    "DriftDisplay",
    "EmbeddingMapDisplay",
    "FineTuneDisplay",
    "LayerProbeDisplay",
    "RateCurveDisplay",
    "TransferabilityDisplay",
]
