"""The same rows, sooner. Each module names what it was measured to gain.

linear.py, convolution.py   oneDNN's kernels; folding.py folds batch norms into convolutions
inference_copies.py         copies of image networks that use both; openvino.py another engine for them
mixed_precision.py          products in bfloat16 while training; memory.py keeps freed pages
"""
