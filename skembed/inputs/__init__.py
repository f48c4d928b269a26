"""Raw samples: the containers they come in, and reading each of them with its guards; and targets."""

from skembed.inputs.audio import read_audio
from skembed.inputs.decode import decode_all, is_missing, warn_unreadable
from skembed.inputs.image import read_image
from skembed.inputs.keys import KEY_SIZE, array_key, content_key, text_key
from skembed.inputs.samples import as_samples
from skembed.inputs.targets import as_numbers, as_targets, check_comparable, check_present, target_kind
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
