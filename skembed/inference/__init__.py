"""Computation of rows from raw samples.

lookup.py    finds equal samples and cached rows, has the others computed, and stores them
extract.py   decodes, prepares, batches, runs and pools samples
batching.py  plans batches by length; bounded_map.py bounds the memory of decoded samples
pooling.py   turns the positions of a block into one row; reading.py says which blocks and pooling
nonfinite.py finds rows that are not finite
"""
