"""Ratios against what people would write themselves, measured in one run; run by people, never by tests.

Everything is offline and on the CPU: both sides read the same weights from the same directories.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
