"""Fingerprints of directories with weights, and reading of safetensors."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path
from typing import Any

from skembed.backbones.weights.json_files import read_json
from skembed.backbones.weights.sentence_modules import has_module_list, module_folders
from skembed.exceptions import BackboneNotFoundError, BackboneReadError

__all__ = ["decisive_files", "fingerprint_directory", "read_json", "require_safetensors", "sha256_file"]

#: Files that decide what a backbone computes. READMEs, training arguments and pictures do not.
_DECISIVE = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json",
             "processor_config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model",
             "sentence_*_config.json", "modules.json", "1_Pooling/config.json")  # fmt: skip
#: The file of sentence-transformers with defaults for a whole model, and those of them that change rows.
_DEFAULTS = "config_sentence_transformers.json"
_DECISIVE_DEFAULTS = ("default_prompt_name", "truncate_dim")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decisive_files(directory: Path) -> list[Path]:
    """Return the files that decide what the backbone computes, sub-folders included."""
    folders = [glob.escape(folder) for folder in module_folders(directory)]
    patterns = [*_DECISIVE, *(f"{folder}/config.json" for folder in folders if folder)]
    patterns += [f"{folder}/{pattern}" for folder in folders[:1] if folder for pattern in _DECISIVE]
    files = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    if _has_defaults(directory / _DEFAULTS):
        files.add(directory / _DEFAULTS)
    return sorted(files)


def _has_defaults(path: Path) -> bool:
    """Return True if a file sets what rows depend on, or may do so.

    Most of these files only record versions, which change no rows.
    """
    try:
        content: Any = read_json(path)
    except BackboneReadError:
        return True
    return not isinstance(content, dict) or any(content.get(key) is not None for key in _DECISIVE_DEFAULTS)


def fingerprint_directory(directory: Path) -> str:
    """Return a hex digest of the names and contents of the deciding files.

    Raises
    ------
    BackboneReadError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    if not has_module_list(directory):
        # What the folders of modules are called is all that is known of them.
        digest.update("".join(f"{folder}\n" for folder in module_folders(directory)).encode())
    for path in decisive_files(directory):
        try:
            digest.update(f"{path.relative_to(directory).as_posix()}\0{sha256_file(path)}\n".encode())
        except OSError as error:
            raise BackboneReadError(f"{path} cannot be read ({error.strerror}). Change its permissions.") from error
    return digest.hexdigest()


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
