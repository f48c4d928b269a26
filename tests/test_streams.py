"""File objects: streams that cannot seek, closed and text-mode files, and files whose reading fails."""

from __future__ import annotations

import codecs
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from PIL import Image

from skembed import ImageEmbedder
from skembed.exceptions import DecodeError
from skembed.inputs import content_key, read_audio, read_image, streams
from tests.finetune.tuning import directory

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(120, 120, 3), dtype=np.uint8)


def _png(pixels=PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _wav(seed=0, n_samples=40_000) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).normal(scale=0.1, size=n_samples)
    soundfile.write(file, samples, 8000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def _read_audio(sample):
    return read_audio(sample, rate=8000)[0]


#: Reader, content, ending of a file's name.
MEDIA = pytest.mark.parametrize(
    ("read", "content", "ending"), [(read_image, _png(), "png"), (_read_audio, _wav(), "wav")], ids=["image", "audio"]
)


class Stream:
    """The least that a file object has, in small blocks."""

    def __init__(self, content):
        self._file = io.BytesIO(content)

    def read(self, size=-1):
        return self._file.read(min(size, 1000) if size >= 0 else size)


class Failing(io.BytesIO):
    """A file on a disk or a server that is gone after some bytes."""

    def __init__(self, content, n_bytes, error):
        super().__init__(content)
        self.n_bytes, self.error = n_bytes, error

    def read(self, size=-1):
        content = super().read(size)
        if self.tell() > self.n_bytes:
            raise self.error
        return content

    def readinto(self, buffer):
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _pipe(content):
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    threading.Thread(target=write, daemon=True).start()
    return os.fdopen(reading, "rb")


@MEDIA
def test_streams_that_cannot_seek_are_read_into_memory(read, content, ending):
    expected = np.asarray(read(content))
    np.testing.assert_array_equal(np.asarray(read(Stream(content))), expected)
    with _pipe(content) as pipe:
        assert content_key(pipe) is None  # to compute a key would use the stream up
        np.testing.assert_array_equal(np.asarray(read(pipe)), expected)
        with pytest.raises(DecodeError, match=r"nothing is left in this stream.* path or bytes"):
            read(pipe)


def test_a_stream_is_embedded_as_its_bytes():
    rows = ImageEmbedder(directory("timm_resnet"), device="cpu").fit_transform([_png(), Stream(_png())])
    np.testing.assert_array_equal(rows[0], rows[1])


@MEDIA
def test_endless_streams_are_refused(read, content, ending, monkeypatch):
    monkeypatch.setattr(streams, "_MAX_STREAM_BYTES", 2**20)

    class Endless:
        n_bytes = 0

        def read(self, size=-1):
            self.n_bytes += 1000
            return bytes(1000)

    with pytest.raises(DecodeError, match=r"more than the 1 MB.* Save it as a file"):
        read(endless := Endless())
    assert endless.n_bytes < 2**20 + 2000


@MEDIA
def test_files_that_are_not_open_for_bytes_are_named(tmp_path, read, content, ending):
    path = tmp_path / f"file.{ending}"
    path.write_bytes(content)
    with path.open("rb") as closed:
        pass
    with pytest.raises(DecodeError, match=r"BufferedReader is closed\. Open it again"):
        read(closed)
    with path.open() as file, pytest.raises(DecodeError, match=r"TextIOWrapper is opened as text.*mode 'rb'"):
        read(file)
    with codecs.open(str(path), encoding="latin-1") as file, pytest.raises(DecodeError, match="opened as text"):
        read(file)
    with pytest.raises(DecodeError, match="StringIO is opened as text"):
        read(io.StringIO("a text"))
    with path.open("ab") as file, pytest.raises(DecodeError, match=r"not open for reading.*mode 'rb'"):
        read(file)
    assert content_key(closed) is None


@MEDIA
def test_objects_that_read_something_else_are_named(read, content, ending):
    class Upload:
        async def read(self, size=-1):
            return content

        async def seek(self, position):
            pass

    with pytest.raises(DecodeError, match="Upload is read with await"):
        read(Upload())
    with (
        soundfile.SoundFile(io.BytesIO(_wav())) as sound,
        pytest.raises(DecodeError, match="returned ndarray instead of bytes"),
    ):
        read(sound)


def test_an_image_whose_file_was_closed_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(_png())
    with Image.open(path) as image:
        pass
    with pytest.raises(DecodeError, match=r"a\.png\): the image was closed before its pixels were read.*load\(\)"):
        read_image(image)
    with Image.open(path) as image:
        image.load()
    assert read_image(image).size == (120, 120)


@MEDIA
@pytest.mark.parametrize("n_bytes", [0, 30, 30_000])
@pytest.mark.filterwarnings("error")
def test_a_file_that_fails_is_not_read_as_a_shorter_one(read, content, ending, n_bytes):
    error = ConnectionResetError(104, "Connection reset by peer")
    with pytest.raises(DecodeError, match=r"ConnectionResetError: Connection reset by peer\. Check the disk"):
        read(Failing(content, n_bytes, error))


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_lack_of_memory_and_interrupts_in_reading_a_recording_are_passed_on(error):
    with pytest.raises(error):
        _read_audio(Failing(_wav(), 30_000, error()))


def test_recordings_from_short_reads_are_whole():
    class Raw(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 1000))

        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:1000])

    np.testing.assert_array_equal(_read_audio(Raw(_wav())), _read_audio(_wav()))


def test_a_recording_s_format_is_read_off_its_content(tmp_path):
    for name in ("a.raw", "b.mp3", "c.jpg"):
        path = tmp_path / name
        path.write_bytes(_wav())
        np.testing.assert_array_equal(_read_audio(path), _read_audio(_wav()))


def test_one_file_object_in_many_threads_gives_one_recording():
    file = io.BytesIO(_wav())
    expected = _read_audio(file)
    with ThreadPoolExecutor(8) as pool:
        for waveform in pool.map(_read_audio, [file] * 40):
            np.testing.assert_array_equal(waveform, expected)
