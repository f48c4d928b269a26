"""Loading backbones: from a spec to a network on a device, at most once a process."""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

import torch

from skembed.backbones.base import Backbone, BackboneSpec
from skembed.backbones.linear import multiply_by_onednn
from skembed.backbones.locating import Located, identify
from skembed.backbones.weights import read_json
from skembed.engine.device import resolve_precision
from skembed.exceptions import BackboneNotFoundError

__all__ = ["LoadedBackbones", "load", "loaded", "open_spec"]


class LoadedBackbones:
    """The last few loaded backbones of this process.

    A grid search runs all folds of one candidate before the next, so two are enough; a third would only hold
    memory. A forked child starts with none: what its parent had on a GPU is not usable there.

    Parameters
    ----------
    capacity : int
        Backbones held.

    Attributes
    ----------
    n_loads : int
        Backbones loaded so far by this process.
    """

    def __init__(self, capacity: int = 2):
        self.capacity = capacity
        self.n_loads = 0
        self._held: OrderedDict[tuple, Backbone] = OrderedDict()
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def get(self, spec: BackboneSpec, device: torch.device, precision: str) -> Backbone:
        """The backbone on the device in the precision, loaded where it is not held."""
        if self._pid != os.getpid():
            # A lock that the parent held at the fork would never be released here.
            self._lock, self._held, self._pid, self.n_loads = threading.RLock(), OrderedDict(), os.getpid(), 0
        located = identify(spec)
        key = (spec, located, str(device), precision)
        with self._lock:
            if key not in self._held:
                backbone = open_spec(spec, located)
                dtype = resolve_precision(precision, device, keeps_in_half=backbone.keeps_in_half)
                backbone.module.to(device=device, dtype=dtype).eval().requires_grad_(False)
                if device.type == "cpu":
                    multiply_by_onednn(backbone.module)
                self.n_loads += 1
                self._held[key] = backbone
            self._held.move_to_end(key)
            while len(self._held) > self.capacity:
                self._held.popitem(last=False)
            return self._held[key]

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._held.clear()


loaded = LoadedBackbones()


def load(spec: BackboneSpec, device: torch.device, precision: str) -> Backbone:
    """The backbone of a spec, shared by all estimators of this process; it must not be trained in place."""
    return loaded.get(spec, device, precision)


def open_spec(spec: BackboneSpec, located: Located | None = None) -> Backbone:
    """Read a backbone from its directory, or ask its factory; a new one each time, float32 on the CPU."""
    located = located or identify(spec)
    if located is None:
        backbone = _from_factory(spec)
        if spec.tuned is not None:
            spec.tuned.check_base(backbone.fingerprint)
    else:
        adapter = importlib.import_module(f"skembed.backbones.{_adapter(spec.source, located.directory)}")
        backbone = adapter.open_backbone(spec, located.directory, located.fingerprint)
    if spec.tuned is not None:
        spec.tuned.load_into(backbone)
    return backbone


def _adapter(modality: str, directory: Path) -> str:
    """The adapter module that reads a directory, by its configuration."""
    config = read_json(directory / "config.json")
    if not config:
        raise BackboneNotFoundError(f"{directory} has no config.json, so what its weights are cannot be told.")
    if modality == "image" and "architecture" in config:
        return "image_timm"
    if modality == "audio" and config.get("library_name") == "torchaudio":
        return "audio_torchaudio"
    return f"{modality}_transformers"


def _from_factory(spec: BackboneSpec) -> Backbone:
    module, _, function = spec.name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BackboneNotFoundError(
            f"backbone={spec.name!r} cannot be imported: {error}. The module must be importable here, "
            "and in every process that uses the embedder."
        ) from error
    backbone = factory(**dict(spec.options))
    if not isinstance(backbone, Backbone):
        raise TypeError(f"backbone={spec.name!r} returned a {type(backbone).__name__}, not a Backbone.")
    backbone.spec = spec
    backbone.fingerprint = backbone.fingerprint or fingerprint_module(backbone.module)
    return backbone


def fingerprint_module(module: torch.nn.Module) -> str:
    """Hex digest over names, types, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
