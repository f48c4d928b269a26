"""Readers and checks of raw samples and targets: containers, files and arrays.

samples.py        X in any container as one list; describing.py and keys.py name and digest a sample
text.py           one text
image.py          one image as RGB; image_limits.py, image_modes.py and image_strips.py bound size and memory
audio.py          one recording as mono float32; recordings.py, decoders.py and mono.py are its sources and its mixing
decode.py         many samples, of which some cannot be read
arrays.py, streams.py, file_kinds.py   tensors, file objects, and formats by a file's first bytes
labels.py         y in any form as one array of one plain type
target_kinds.py   classes, labels or numbers: the task, columns for linear models, and targets of the wrong kind
"""

from skembed.inputs.audio import read_audio
from skembed.inputs.decode import decode_all, is_missing, warn_unreadable
from skembed.inputs.image import read_image
from skembed.inputs.keys import KEY_SIZE, array_key, content_key, text_key
from skembed.inputs.labels import as_numbers, as_targets, check_comparable, check_present, target_kind
from skembed.inputs.samples import as_samples
from skembed.inputs.text import read_text, warn_of_file_names

__all__ = [
    "KEY_SIZE",
    "array_key",
    "as_numbers",
    "as_samples",
    "as_targets",
    "check_comparable",
    "check_present",
    "content_key",
    "decode_all",
    "is_missing",
    "read_audio",
    "read_image",
    "read_text",
    "target_kind",
    "text_key",
    "warn_of_file_names",
    "warn_unreadable",
]
