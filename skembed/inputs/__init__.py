"""Raw samples: the containers they come in, and reading each of them with its guards."""

from skembed.inputs.audio import read_audio
from skembed.inputs.decode import decode_all, warn_unreadable
from skembed.inputs.image import read_image
from skembed.inputs.samples import as_samples
from skembed.inputs.text import read_text

__all__ = ["as_samples", "decode_all", "read_audio", "read_image", "read_text", "warn_unreadable"]
