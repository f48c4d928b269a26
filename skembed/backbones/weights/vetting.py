"""Checks of a directory for damage and foreign code, before any library reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skembed.backbones.weights.files import decisive_files, read_json
from skembed.backbones.weights.sentence_modules import network_directory
from skembed.backbones.weights.size_limits import check_sizes
from skembed.exceptions import BackboneReadError, SkembedError
from skembed.utils.device import is_device_fault, is_out_of_memory

__all__ = ["check_directory", "reading"]

#: Attention and expert implementations that transformers has itself. Any other name is one of a kernel on the hub.
_IMPLEMENTATIONS = {
    None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm",
}  # fmt: skip
#: Arguments of `timm.create_model` that make it load or download another file.
_TIMM_SOURCES = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a library's exceptions while reading into a `BackboneReadError`.

    Parameters
    ----------
    path : Path
        Named in the message.

    Raises
    ------
    BackboneReadError
        Instead of any other error. Errors of skembed's own, a library that is not installed and memory that runs out
        are raised as they are.
    """
    try:
        yield
    except (SkembedError, ImportError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error) or is_device_fault(error):
            raise
        raise _unreadable(path, error) from error
    except BaseException as error:
        # A panic of a library in Rust, such as tokenizers, is not an Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> BackboneReadError:
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    return BackboneReadError(
        f"{path} cannot be read as part of a backbone ({reason}).{_damaged_files(path)} "
        "Download the backbone again, or save it with save_pretrained(directory)."
    )


def _damaged_files(path: Path) -> str:
    """Name the files that may be damaged where only their directory is known."""
    if not path.is_dir():
        return ""
    try:
        names = [file.relative_to(path).as_posix() for file in decisive_files(path)]
    except Exception:  # whatever is wrong with the directory was reported already
        return ""
    return f" One of its files is damaged: {', '.join(names)}."


def check_directory(directory: Path) -> None:
    """Refuse a directory with damaged files or requests for code or files from elsewhere.

    Custom code beside the weights (``auto_map``) is never run, and not refused where transformers knows the family.

    Parameters
    ----------
    directory : Path
        With config.json and weights.

    Raises
    ------
    BackboneReadError
        Names the file, what is wrong in it, and what to do.
    """
    with reading(directory):
        files = decisive_files(directory)
    for path in files:
        if not os.access(path, os.R_OK):
            raise BackboneReadError(f"{path} may not be read by this user. Change its permissions.")
        if path.suffix == ".json":
            _check_json(path, list if path.name == "modules.json" else dict)
    network = network_directory(directory)
    adapter = network / "adapter_config.json"
    if adapter.is_file():
        raise BackboneReadError(
            f"{adapter} belongs to a PEFT adapter, which names another network to load. Merge the adapter with "
            "model.merge_and_unload() and save the result with save_pretrained(directory)."
        )
    config = network / "config.json"
    _check_foreign(read_json(config), config)
    check_sizes(network)


def _check_json(path: Path, expected: type) -> None:
    content: Any = read_json(path)
    if not isinstance(content, expected):
        raise BackboneReadError(
            f"{path} holds a {type(content).__name__}, not a {expected.__name__}. Download the backbone again."
        )


def _check_foreign(config: dict[str, Any], path: Path) -> None:
    """Refuse keys that make a library fetch or run code, at any depth of a configuration."""
    if config.get("architecture") is not None:
        arguments = config.get("model_args") or {}
        if not isinstance(arguments, dict):
            raise BackboneReadError(
                f"{path}: model_args must be a dict of arguments, got a {type(arguments).__name__}. "
                "Download the backbone again."
            )
        sources = sorted(_TIMM_SOURCES.intersection(arguments))
        if sources:
            raise BackboneReadError(f"{path}: model_args may not have {', '.join(sources)}. Remove the entry.")
    for section in _sections(config):
        for key, value in section.items():
            if "attn_implementation" in key or "experts_implementation" in key:
                _check_implementation(path, key, value)
            elif key in ("quantization_config", "compression_config") and value:
                raise BackboneReadError(
                    f"{path} has a {key}: quantized weights need kernels of other packages. "
                    "Use the backbone without quantization."
                )


def _check_implementation(path: Path, key: str, value: Any) -> None:
    for name in value.values() if isinstance(value, dict) else [value]:
        # Switches, such as "_attn_implementation_autoset", name nothing.
        if not isinstance(name, bool) and (not isinstance(name, (str, type(None))) or name not in _IMPLEMENTATIONS):
            raise BackboneReadError(
                f"{path} asks for {key}={name!r}, which would fetch native code from the hub. "
                "Remove the entry; skembed chooses the implementation itself."
            )


def _sections(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dicts in a configuration, at any depth."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += value.values()
        elif isinstance(value, list):
            pending += value
