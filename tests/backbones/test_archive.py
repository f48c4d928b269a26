"""Packing backbone directories into bytes, and writing them to disk again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from skembed.backbones.weights import bundled
from skembed.backbones.weights.archive import pack_directory, unpack_directory
from skembed.backbones.weights.bundled import publish_directory
from skembed.backbones.weights.files import fingerprint_directory
from skembed.exceptions import SkembedWarning


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(bundled, "_temporary", {})
    return tmp_path / "home"


def _directory(path: Path, pooling: str = "1_Pooling", weights=("model.safetensors",)) -> Path:
    """Files of a sentence-transformers directory; none is ever loaded."""
    modules = [{"path": "", "type": "models.Transformer"}, {"path": pooling, "type": "models.Pooling"}]
    contents = {"modules.json": json.dumps(modules), "config.json": "{}", f"{pooling}/config.json": "{}"}
    for name, content in {**contents, **dict.fromkeys(weights, "weights")}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def _contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("pooling", ["1_Pooling", "2_Pooling", "modules/pool [1]"])
@pytest.mark.parametrize("weights", [("model.safetensors",), ("model-1-of-2.safetensors", "model-2-of-2.safetensors")])
def test_unpacked_directory_has_the_packed_files(home, tmp_path, pooling, weights):
    source = _directory(tmp_path / "source", pooling, weights)
    target = unpack_directory(pack_directory(source), fingerprint_directory(source))
    assert target.is_relative_to(home)
    assert _contents(target) == _contents(source)


def test_fingerprint_covers_the_folders_that_modules_name(tmp_path):
    source = _directory(tmp_path, "2_Pooling")
    before = fingerprint_directory(source)
    (source / "2_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert fingerprint_directory(source) != before


@pytest.mark.parametrize("path", ["../outside", "/etc", "..", 3, None])
def test_module_folders_outside_the_directory_are_not_packed(tmp_path, path):
    source = _directory(tmp_path / "source")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text("secret")
    (source / "modules.json").write_text(json.dumps([{"path": path, "type": "models.Pooling"}]))
    assert b"secret" not in pack_directory(source)


@pytest.mark.parametrize(
    "damage",
    [
        lambda target: (target / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}'),
        lambda target: shutil.rmtree(target / "1_Pooling"),
        lambda target: (target / "tokenizer.json").write_text("planted"),
    ],
    ids=["file in a sub-folder changed", "sub-folder gone", "file added"],
)
def test_damaged_unpacked_directory_is_written_again(home, tmp_path, damage):
    source = _directory(tmp_path / "source")
    archive, fingerprint = pack_directory(source), fingerprint_directory(source)
    damage(unpack_directory(archive, fingerprint))
    assert _contents(unpack_directory(archive, fingerprint)) == _contents(source)


def test_manifest_covers_sub_folders(tmp_path):
    target = publish_directory(tmp_path / "a", _directory)
    (target / "1_Pooling" / "config.json").write_text("damaged")
    publish_directory(target, _directory)
    assert (target / "1_Pooling" / "config.json").read_text() == "{}"


def test_two_publishers_of_sharded_weights_agree(tmp_path, monkeypatch):
    """The second finds the directory of the first, which has no file called model.safetensors."""
    shards = ("model-1-of-2.safetensors", "model-2-of-2.safetensors")
    rename = os.rename

    def another_is_faster(source, destination):
        monkeypatch.setattr(os, "rename", rename)
        publish_directory(tmp_path / "a", lambda directory: _directory(directory, weights=shards))
        rename(source, destination)

    monkeypatch.setattr(os, "rename", another_is_faster)
    publish_directory(tmp_path / "a", lambda directory: _directory(directory, weights=shards))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_unwritable_cache_directory_costs_a_warning_only(home, tmp_path):
    home.write_text("in the way")
    source = _directory(tmp_path / "source")
    archive, fingerprint = pack_directory(source), fingerprint_directory(source)
    with pytest.warns(SkembedWarning, match="SKEMBED_HOME"):
        target = unpack_directory(archive, fingerprint)
    assert _contents(target) == _contents(source)
    assert unpack_directory(archive, fingerprint) == target
