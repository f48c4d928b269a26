"""A directory of weights and configuration: its fingerprint, and reading safetensors from it."""

from __future__ import annotations

import glob
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from skembed.exceptions import BackboneNotFoundError, BackboneReadError

__all__ = ["decisive_files", "fingerprint_directory", "read_json", "require_safetensors", "sha256_file"]

#: Files that decide what a backbone computes. READMEs, training arguments and pictures do not.
_DECISIVE = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json",
             "processor_config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model",
             "sentence_bert_config.json", "modules.json", "1_Pooling/config.json")  # fmt: skip


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decisive_files(directory: Path) -> list[Path]:
    """Files that decide what the backbone computes, in order; those in sub-folders included."""
    patterns = (*_DECISIVE, *(f"{folder}/config.json" for folder in _module_folders(directory)))
    return sorted({path for pattern in patterns for path in directory.glob(pattern) if path.is_file()})


def _module_folders(directory: Path) -> list[str]:
    """Sub-folders that sentence-transformers' modules.json names, whose configurations are read, too."""
    try:
        modules: Any = read_json(directory / "modules.json")
        paths = [PurePosixPath(module["path"]) for module in modules]
    except (ValueError, LookupError, TypeError):
        return []  # damaged: whoever reads the modules says so
    inside = [path for path in paths if path.parts and not path.is_absolute() and ".." not in path.parts]
    return [glob.escape(path.as_posix()) for path in inside]


def fingerprint_directory(directory: Path) -> str:
    """Hex digest over the names and contents of the files that decide what the backbone computes."""
    digest = hashlib.sha256()
    for path in decisive_files(directory):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's content, or {} if there is no such file.

    Raises
    ------
    BackboneReadError
        If the file is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BackboneReadError(
            f"{path} is not valid JSON ({type(error).__name__}: {str(error)[:100]}). Download the backbone again."
        ) from error


def require_safetensors(directory: Path) -> None:
    """Refuse a directory whose weights are pickles, which can run code when they are loaded."""
    if any(directory.glob("*.safetensors")):
        return
    others = sorted(p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".h5"})
    raise BackboneNotFoundError(
        f"{directory} holds no *.safetensors file"
        + (f" (only {', '.join(others)}, which can run code when loaded)" if others else "")
        + ". Save the model once with model.save_pretrained(directory), which writes safetensors."
    )
