"""Raw samples: the containers they come in, and reading each of them with its guards; and missing targets."""

from skembed.inputs.audio import read_audio
from skembed.inputs.decode import decode_all, is_missing, warn_unreadable
from skembed.inputs.image import read_image
from skembed.inputs.keys import KEY_SIZE, array_key, content_key, text_key
from skembed.inputs.samples import as_samples
from skembed.inputs.targets import as_plain, check_one_kind, check_present
from skembed.inputs.text import read_text, warn_of_file_names

__all__ = [
    "KEY_SIZE",
    "array_key",
    "as_plain",
    "as_samples",
    "check_one_kind",
    "check_present",
    "content_key",
    "decode_all",
    "is_missing",
    "read_audio",
    "read_image",
    "read_text",
    "text_key",
    "warn_of_file_names",
    "warn_unreadable",
]
