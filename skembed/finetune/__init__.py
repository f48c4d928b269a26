"""Estimators that train a pre-trained backbone, from a frozen head to the whole network."""
