"""Checks for your own embedders, and a double that reads rows of numbers.

scikit-learn's `check_estimator` does nearly nothing for estimators whose input is no 2-D array. So the base
class is put through the whole of it with `ArrayEmbedder`, which shares every line with the real embedders but
reads rows of numbers, and `check_embedder` does for texts, images and sound what those checks do for arrays.
"""

from skembed.testing.checks import check_embedder, embedder_checks
from skembed.testing.double import ArrayBackbone, ArrayEmbedder, array_backbone

__all__ = ["ArrayBackbone", "ArrayEmbedder", "array_backbone", "check_embedder", "embedder_checks"]
