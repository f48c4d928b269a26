"""Transformers that embed raw samples: one sample in, one row out.

base.py     `BaseEmbedder`: parameters, fit, transform, tags
encoder.py  `Encoder`: everything that the rest of the package may ask of a fitted embedder
image.py, text.py, audio.py   the public embedders
layers.py   rows of several layers from one pass

Samples become rows in `skembed.inference`, where pooling is too.
"""
