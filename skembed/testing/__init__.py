"""Checks for your own embedders, and a double that reads rows of numbers.

scikit-learn's `check_estimator` skips most checks of estimators whose input is not a 2-D array. Therefore the base
class is checked with `ArrayEmbedder`, which reads rows of numbers and shares all other code with the real embedders.
`check_embedder` checks embedders of texts, images and sound in the same ways.
"""

from skembed.testing.checks import check_embedder, embedder_checks
from skembed.testing.double import ArrayBackbone, ArrayEmbedder, array_backbone

__all__ = ["ArrayBackbone", "ArrayEmbedder", "array_backbone", "check_embedder", "embedder_checks"]
