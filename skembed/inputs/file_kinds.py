"""Names of file formats from a file's first bytes, for the errors of unreadable files."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Literal, NamedTuple

__all__ = ["START_SIZE", "FileKind", "explain", "kind_of", "kind_of_base64", "read_start"]

#: Bytes of a file's start that `kind_of` looks at; the last signature ends at byte 262.
START_SIZE = 512
#: Fewest characters of base64 text that a string is recognized by. Names of files without a dot are shorter.
_BASE64_LENGTH = 64
#: Characters of a text file that an error quotes.
_QUOTED = 40

Wanted = Literal["image", "recording"]


class FileKind(NamedTuple):
    """Format of a file.

    Parameters
    ----------
    name : str
        Name with its article.
    medium : {"image", "recording", "video", "document", "container", "other"}
        Kind of content. A container holds other files, or stands for one.
    is_read : bool, default=False
        True for the formats that the embedders decode.
    advice : str, default=""
        A sentence that says what to do with it; empty where that follows from `medium`.
    """

    name: str
    medium: str
    is_read: bool = False
    advice: str = ""


def _image(name: str, is_read: bool = False) -> FileKind:
    return FileKind(name, "image", is_read)


def _recording(name: str, is_read: bool = False) -> FileKind:
    return FileKind(name, "recording", is_read)


_UNPACK = "Unpack it, and give the files in it."
_LOAD = "Load it, and give the arrays in it."
_ZIP = FileKind("a zip archive", "container", advice=_UNPACK)
_MP4 = FileKind("an MP4 file (video or sound)", "video")
_RAW = _image("a camera's raw file")
_TIFF = _image("a TIFF image", True)
_MATROSKA = FileKind("a WebM or Matroska file (video or sound)", "video")
_PCM = _recording("a WAV recording", True)

#: (offset, bytes there, format). The first that fits decides.
_SIGNATURES: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"\xff\xd8\xff", _image("a JPEG image", True)),
    (0, b"\x89PNG\r\n\x1a\n", _image("a PNG image", True)),
    (0, b"GIF8", _image("a GIF image", True)),
    (8, b"CR\x02\0", _RAW),
    (0, b"II*\0", _TIFF),
    (0, b"MM\0*", _TIFF),
    (0, b"II+\0", _TIFF),
    (0, b"MM\0+", _TIFF),
    (0, b"IIU\0", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"MMOR", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"\0MRM", _RAW),
    (0, b"\0\0\0\x0cjP  \r\n", _image("a JPEG 2000 image")),
    (0, b"\xff\x4f\xff\x51", _image("a JPEG 2000 image")),
    (0, b"\0\0\0\x0cJXL \r\n", _image("a JPEG XL image")),
    (0, b"\xff\x0a", _image("a JPEG XL image")),
    (0, b"8BPS\0\x01", _image("a Photoshop file")),
    (0, b"\0\0\x01\0", _image("an ICO image")),
    (0, b"v/1\x01", _image("an OpenEXR image")),
    (0, b"#?RADIANCE", _image("a Radiance image")),
    (0, b"DDS |\0", _image("a DDS image")),
    (128, b"DICM", FileKind("a DICOM file", "image", advice="Read it with pydicom, and give its pixels as an array.")),
    (0, b"%!PS", FileKind("a PostScript document", "document")),
    (0, b"fLaC", _recording("a FLAC recording", True)),
    (0, b"OggS", _recording("an Ogg recording", True)),
    *((0, b"ID3" + version, _recording("an MP3 recording", True)) for version in (b"\x02", b"\x03", b"\x04")),
    (0, b".snd\0", _recording("an AU recording", True)),
    (0, b"caff\0", _recording("a CAF recording", True)),
    (0, b"RF64", _PCM),
    (0, b"RIFX", _PCM),
    (0, b"riff", _recording("a Wave64 recording", True)),
    (0, b"#!AMR", _recording("an AMR recording")),
    (0, b"0&\xb2u\x8ef\xcf\x11", _recording("a WMA or WMV file")),
    (0, b"wvpk", _recording("a WavPack recording")),
    (0, b"MThd\0", _recording("a MIDI file")),
    (0, b"\x1aE\xdf\xa3", _MATROSKA),
    (0, b"FLV\x01", FileKind("a Flash video", "video")),
    (0, b"\0\0\x01\xba", FileKind("an MPEG video", "video")),
    (0, b"\0\0\x01\xb3", FileKind("an MPEG video", "video")),
    (4, b"moov", _MP4),
    (4, b"mdat", _MP4),
    (4, b"wide", _MP4),
    (0, b"%PDF-", FileKind("a PDF document", "document")),
    (0, b"PK\x03\x04", _ZIP),
    (0, b"PK\x05\x06", _ZIP),
    (0, b"\x1f\x8b", FileKind("a gzip file", "container", advice="Decompress it, or give gzip.open(path).")),
    (0, b"BZh91AY&SY", FileKind("a bzip2 file", "container", advice="Decompress it, or give bz2.open(path).")),
    (0, b"\xfd7zXZ\0", FileKind("an xz file", "container", advice="Decompress it, or give lzma.open(path).")),
    (0, b"\x28\xb5\x2f\xfd", FileKind("a Zstandard file", "container", advice="Decompress it.")),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", "container", advice=_UNPACK)),
    (0, b"Rar!\x1a\x07", FileKind("a RAR archive", "container", advice=_UNPACK)),
    (257, b"ustar", FileKind("a tar archive", "container", advice=_UNPACK)),
    (0, b"PAR1", FileKind("a Parquet file", "other", advice="Read it with pandas.read_parquet, and give its column.")),
    (0, b"ARROW1", FileKind("an Arrow file", "other", advice="Read it with pandas.read_feather, and give its column.")),
    (0, b"\x93NUMPY", FileKind("a NumPy array file", "other", advice="Load it with numpy.load, and give the array.")),
    (0, b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file", "other", advice=_LOAD)),
    (0, b"MATLAB 5.0", FileKind("a MATLAB file", "other", advice=_LOAD)),
    (0, b"SQLite format 3\0", FileKind("an SQLite database", "other", advice=_LOAD)),
)

_RIFF_FORMS = {
    b"WAVE": _PCM,
    b"WEBP": _image("a WebP image", True),
    b"AVI ": FileKind("an AVI video", "video"),
    b"RMID": _recording("a MIDI file"),
}
_AVIF, _HEIC = _image("an AVIF image"), _image("a HEIC image")
_M4A = _recording("an M4A recording (MPEG-4 audio)")
#: Brands of ISO base media files that say more than "MPEG-4".
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"), _HEIC),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P "), _M4A),
    b"crx ": _RAW,
    b"qt  ": FileKind("a QuickTime video", "video"),
    # Any of the image formats, and so looked up after the others.
    b"mif1": _HEIC,
    b"msf1": _HEIC,
}
_TEXTS = (
    (
        r"version https://git-lfs\.github\.com/spec/",
        FileKind(
            "a pointer of Git LFS, not the file itself", "container", advice='Run "git lfs pull" in its repository.'
        ),
    ),
    (r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg\b", _image("an SVG drawing")),
    (
        r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype html|html|head|body)\b",
        FileKind("an HTML page", "other", advice="A download may have failed: fetch the file again."),
    ),
    (r"<\?xml\b", FileKind("an XML file", "other", advice="A download may have failed: fetch the file again.")),
)

#: What to do with a file of one medium where another is wanted.
_ADVICE = {
    ("image", "image"): "Convert it to JPEG or PNG.",
    ("image", "recording"): "Use ImageEmbedder() for images.",
    ("recording", "image"): "Use AudioEmbedder() for recordings.",
    ("recording", "recording"): "Convert it to WAV or FLAC, for example with ffmpeg.",
    ("video", "image"): "Extract a frame as JPEG or PNG.",
    ("video", "recording"): "Extract its sound as WAV or FLAC, for example with ffmpeg.",
    ("document", "image"): "Save its pages as JPEG or PNG.",
}
_WANTED = {"image": "an image", "recording": "a recording"}
_FORMATS = {"image": "JPEG, PNG, WebP, GIF, BMP and TIFF", "recording": "WAV, FLAC, Ogg, MP3, AIFF, AU and CAF"}


def kind_of(start: bytes) -> FileKind | None:
    """Return the format of a file from its first `START_SIZE` bytes, or None if unknown.

    Examples
    --------
    >>> kind_of(b"%PDF-1.7").name, kind_of(b"hello").name, kind_of(b"\\x80") is None
    ('a PDF document', "text that begins with 'hello'", True)
    """
    return _binary_kind(start) or _text_kind(start)


def explain(start: bytes | None, wanted: Wanted) -> str:
    """Explain which format a file has and what to do; empty for formats that are read.

    Parameters
    ----------
    start : bytes or None
        First `START_SIZE` bytes of the file, fewer if it is shorter; None, for which the result is empty, if they
        could not be read.
    wanted : {"image", "recording"}
        Kind of file that was expected.

    Examples
    --------
    >>> explain(b"%PDF-1.7", "image")
    'this is a PDF document, not an image. Save its pages as JPEG or PNG.'
    >>> explain(b"fLaC", "image"), explain(b"fLaC", "recording")
    ('this is a FLAC recording, not an image. Use AudioEmbedder() for recordings.', '')
    """
    if start is None:
        return ""
    if not start.strip(b"\0"):
        amount = "is empty (0 bytes)" if not start else "begins with nothing but zero bytes"
        return f"the file {amount}. Copy or download it again, or leave it out."
    kind = kind_of(start)
    if kind is None:
        return (
            f"this is not {_WANTED[wanted]} in one of the formats {_FORMATS[wanted]}: it begins with the bytes "
            f"{start[:8].hex(' ')}. {_ADVICE[wanted, wanted]}"
        )
    if kind.medium == wanted and kind.is_read:
        return ""
    advice = kind.advice or _ADVICE.get((kind.medium, wanted))
    return f"this is {kind.name}{_contrast(kind, wanted)}. {advice or f'Give the file of the {wanted} itself.'}"


def _contrast(kind: FileKind, wanted: Wanted) -> str:
    if kind.medium in (wanted, "video"):
        return ", which is not supported"
    return "" if kind.medium == "container" else f", not {_WANTED[wanted]}"


def read_start(file: Any) -> bytes | None:
    """Return the first bytes of a file that can seek, or None if that fails."""
    try:
        file.seek(0)
        return bytes(file.read(START_SIZE))
    # The code of foreign file objects raises anything; it is called after decoding has failed.
    except Exception:
        return None


def kind_of_base64(text: str | bytes) -> FileKind | None:
    """Return the format of a file that a string holds as base64, or None.

    Examples
    --------
    >>> kind_of_base64("iVBORw0KGgo" + "A" * 80).name, kind_of_base64("pictures/cats") is None
    ('a PNG image', True)
    """
    start = text[:START_SIZE]
    if isinstance(start, bytes):
        start = start.decode("latin-1")
    start = re.sub(r"\s", "", start).translate(str.maketrans("-_", "+/"))
    if len(start) < _BASE64_LENGTH or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", start):
        return None
    try:
        return _binary_kind(base64.b64decode(start[: len(start) // 4 * 4]))
    except binascii.Error:
        return None


def _binary_kind(start: bytes) -> FileKind | None:
    if start[:4] == b"RIFF":
        return _RIFF_FORMS.get(start[8:12])
    if start[:4] == b"FORM":
        return _recording("an AIFF recording", True) if start[8:12] in (b"AIFF", b"AIFC") else None
    if start[4:8] == b"ftyp":
        return _branded(start)
    for offset, signature, kind in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return kind
    if re.match(rb"P[1-7]\s", start):
        return _image("a PNM image (.ppm, .pgm or .pbm)")
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return _image("a BMP image", True)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return FileKind("a Python pickle", "other", advice="Load it only if you trust its source, and give its arrays.")
    return _mpeg_frame(start)


def _branded(start: bytes) -> FileKind:
    """Return the format of an ISO base media file: MPEG-4 and its relatives."""
    size = int.from_bytes(start[:4], "big")
    listed = start[8:12] + start[16 : max(size, 16)]
    brands = [listed[i : i + 4] for i in range(0, len(listed), 4)]
    brands.sort(key=lambda brand: brand in (b"mif1", b"msf1"))
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), _MP4)


def _mpeg_frame(start: bytes) -> FileKind | None:
    """Return the format of a bare stream of MPEG audio, from the header of its first frame."""
    if len(start) < 4 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0 or _text_of(start) is not None:
        return None
    version, layer, rate = start[1] >> 3 & 3, start[1] >> 1 & 3, start[2] >> 2 & 3
    if layer == 0 and version >= 2:  # twelve bits of sync, a bit of version, two of layer
        return _recording("an AAC recording")
    is_valid = version != 1 and layer != 0 and rate != 3 and start[2] >> 4 != 15
    return _recording("an MP3 recording", True) if is_valid else None


def _text_kind(start: bytes) -> FileKind | None:
    text = _text_of(start)
    if text is None:
        return None
    text = text.lstrip("\ufeff \t\r\n")
    for pattern, kind in _TEXTS:
        if re.match(pattern, text, re.IGNORECASE | re.DOTALL):
            return kind
    coded = kind_of_base64(text)
    if coded is not None:
        return FileKind(
            f"base64 text of {coded.name}", "container", advice="Decode it first: base64.b64decode(sample)."
        )
    first_line = text.partition("\n")[0].rstrip()
    return FileKind(f"text that begins with {first_line[:_QUOTED]!r}", "other")


def _text_of(start: bytes) -> str | None:
    """Return the start of a text file, or None for bytes that are no text."""
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        text = start.decode(encoding)
    except UnicodeDecodeError as error:
        # The last character may be cut off.
        if len(start) < START_SIZE or error.start < len(start) - 4:
            return None
        text = start[: error.start].decode(encoding)
    return text if text and not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\x80-\x9f]", text) else None
