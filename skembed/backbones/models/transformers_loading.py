"""Strict and quiet loading of a directory, shared by the three transformers adapters."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from skembed.backbones.weights.files import require_safetensors
from skembed.backbones.weights.size_limits import limit_network
from skembed.backbones.weights.vetting import reading
from skembed.exceptions import BackboneNotFoundError, BackboneReadError

__all__ = ["layer_names", "load_pretrained", "quiet", "read_config", "read_part"]

#: Files of each part of a backbone, the usual one first.
_FILES = {
    "configuration": ("config.json",),
    "tokenizer": ("tokenizer.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"),
    "feature extractor": ("preprocessor_config.json", "processor_config.json"),
}


def read_config(directory: Path) -> Any:
    """Return the configuration of a directory, as transformers reads it.

    Raises
    ------
    BackboneReadError
        If transformers does not know the family, or cannot read the file.
    """
    return read_part(AutoConfig, directory, "configuration")


def read_part(cls: Any, directory: Path, what: str) -> Any:
    """Return what a transformers class reads from a directory, without running its code.

    Parameters
    ----------
    cls : class of transformers
        With `from_pretrained`.
    directory : Path
        Holds its files.
    what : str
        Its name in the message of an error: "configuration", "tokenizer" or "feature extractor".

    Raises
    ------
    BackboneReadError
        Whatever transformers or a library below it raises.
    """
    try:
        with quiet(), reading(directory):
            # Left out, transformers asks at the terminal whether code that lies in the directory may run.
            return cls.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except BackboneReadError as error:
        # The first line of a failed validation names the entry, the second says what is wrong with it.
        lines = str(error.__cause__ or error).split("\n")[:2]
        cause = " ".join(line.strip() for line in lines).strip() or type(error.__cause__).__name__
        raise BackboneReadError(
            f"{directory} has no {what} that transformers can read ({cause[:300]}). {_describe_files(directory, what)} "
            "Save network and tokenizer side by side with their save_pretrained(directory)."
        ) from error.__cause__


def _describe_files(directory: Path, what: str) -> str:
    """Name the files of a part, since the libraries do not say which one is damaged."""
    paths = {path.name for pattern in _FILES[what] for path in directory.glob(pattern)}
    usual = _FILES[what][0]
    missing = "" if usual in paths else f" {usual} is missing."
    return f"It is read from {', '.join(sorted(paths)) or 'no file here'}.{missing}"


@contextmanager
def quiet():
    """Silence advice and progress bars, since heads are left out on purpose."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_pretrained(cls: Any, directory: Path, **kwargs: Any) -> nn.Module:
    """Return a network in float32 from safetensors, with all of its weights.

    Parameters
    ----------
    cls : class of transformers
        With `from_pretrained`.
    directory : Path
        Holds config.json and safetensors.
    **kwargs
        Passed on.

    Raises
    ------
    BackboneReadError
        If the configuration makes no network, or one much larger than the weights.
    BackboneNotFoundError
        If weights are missing: transformers would make them up at random and go on.
    """
    require_safetensors(directory)
    with quiet(), reading(directory / "config.json"), limit_network(directory):
        module, report = cls.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            # Whatever config.json says: transformers would fetch the kernel of a name that it does not know.
            attn_implementation=None,
            experts_implementation=None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below with the missing ones
            **kwargs,
        )
    missing = sorted(report["missing_keys"]) + sorted(key[0] for key in report.get("mismatched_keys", ()))
    if missing:
        raise BackboneNotFoundError(
            f"The weights in {directory} lack {len(missing)} tensors of {cls.__name__} "
            f"({', '.join(missing[:3])}, ...), which would be random. Is config.json that of another network?"
        )
    return module.eval().requires_grad_(False)


def layer_names(module: nn.Module, count: int) -> list[str]:
    """Return the dotted names of the layers, the first list of `count` modules.

    Raises
    ------
    BackboneNotFoundError
        If there is none.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return [f"{name}.{i}" for i in range(count)]
    raise BackboneNotFoundError(f"{type(module).__name__} has no list of {count} layers, so its depth is unknown.")
