"""Loading of backbones from specs, at most once per process.

What fine-tuning made of a base is built from the base that is held: all tensors that it did not change are the base's.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from skembed.backbones.accelerate.linear import multiply_by_onednn
from skembed.backbones.accelerate.memory import keep_freed_memory
from skembed.backbones.base import Backbone
from skembed.backbones.loading.card import Located, identify
from skembed.backbones.loading.modality import refuse_other_reader
from skembed.backbones.loading.trial import run_trial
from skembed.backbones.spec import BackboneSpec, TunedWeights
from skembed.backbones.weights.files import read_json
from skembed.backbones.weights.sentence_modules import network_directory
from skembed.backbones.weights.vetting import check_directory, reading
from skembed.exceptions import BackboneNotFoundError
from skembed.utils.device import resolve_precision
from skembed.utils.torch_modes import standard_modes

__all__ = ["LoadedBackbones", "load", "loaded", "open_spec"]

_LOGGER = logging.getLogger(__name__)


class _Family:
    """Loaded base with the networks that fine-tuning made of it.

    Parameters
    ----------
    base : Backbone
        On its device and in its precision.
    """

    def __init__(self, base: Backbone):
        self.base = base
        # A network in use has hooks and replaced methods, which a copy must not have: this one never is.
        self._unused = _sharing(base.module)
        self._tuned: OrderedDict[TunedWeights, Backbone] = OrderedDict()
        self._shared = {tensor.data_ptr() for tensor in base.module.state_dict().values()}

    def member(self, spec: BackboneSpec) -> Backbone:
        """Return the base, or a network made of it."""
        if spec.tuned is None:
            return self.base
        if spec.tuned not in self._tuned:
            spec.tuned.check_base(self.base.fingerprint)
            backbone = replace(self.base, spec=spec, module=_sharing(self._unused))
            _apply(backbone, spec.tuned)
            self._tuned[spec.tuned] = backbone
            # So much of their own as the base has, at most: they are built from bytes again in a moment.
            most = _bytes(self.base.module)
            while len(self._tuned) > 1 and sum(map(self._own_bytes, self._tuned.values())) > most:
                self._tuned.popitem(last=False)
        self._tuned.move_to_end(spec.tuned)
        return self._tuned[spec.tuned]

    def _own_bytes(self, backbone: Backbone) -> int:
        return _bytes(backbone.module, besides=self._shared)


def _sharing(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a network that shares its tensors."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def _bytes(module: torch.nn.Module, besides: Collection[int] = ()) -> int:
    return sum(value.nbytes for value in module.state_dict().values() if value.data_ptr() not in besides)


class LoadedBackbones:
    """Most recently loaded backbones of this process.

    A grid search runs all folds of one candidate before the next, so two are enough; a third would only hold
    memory. What was fine-tuned counts with its base, and shares its weights: several tasks on one base take one place.
    A forked child starts with none: what its parent had on a GPU is not usable there.

    Parameters
    ----------
    capacity : int
        Bases held.

    Attributes
    ----------
    n_loads : int
        Backbones read so far by this process.
    """

    def __init__(self, capacity: int = 2):
        self.capacity = capacity
        self.n_loads = 0
        self._held: OrderedDict[tuple, _Family] = OrderedDict()
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def get(self, spec: BackboneSpec, device: torch.device, precision: str) -> Backbone:
        """Return a backbone on a device in a precision; read its base if it is not loaded."""
        if self._pid != os.getpid():
            # A lock that the parent held at the fork would never be released here.
            self._lock, self._held, self._pid, self.n_loads = threading.RLock(), OrderedDict(), os.getpid(), 0
        base, located = replace(spec, tuned=None), identify(spec)
        if located is not None and spec.tuned is not None:
            located = Located(located.directory, spec.tuned.base_fingerprint)
        # Not by directory: a base that came along in an archive is the one that is installed.
        key = (base, located and located.fingerprint, str(device), precision)
        with self._lock:
            if key not in self._held:
                backbone = open_spec(base, located)
                dtype = resolve_precision(precision, device, keeps_in_half=backbone.keeps_in_half)
                backbone.module.to(device=device, dtype=dtype).eval().requires_grad_(False)
                if device.type == "cpu":
                    multiply_by_onednn(backbone.module)
                    keep_freed_memory()
                self.n_loads += 1
                place = "a function" if located is None else located.directory
                _LOGGER.info("loaded %s from %s on %s in %s", base.name, place, device, dtype)
                self._held[key] = _Family(backbone)
            self._held.move_to_end(key)
            while len(self._held) > self.capacity:
                self._held.popitem(last=False)
            return self._held[key].member(spec)

    def clear(self) -> None:
        """Drop all loaded backbones."""
        with self._lock:
            self._held.clear()


loaded = LoadedBackbones()


@standard_modes()
def load(spec: BackboneSpec, device: torch.device, precision: str) -> Backbone:
    """Return the backbone of a spec, shared by all estimators of this process.

    Its weights must not be changed in place: rows are cached by the weights that were loaded, and inference runs on
    copies that are made once. They require no gradients, so that no optimizer can train them.
    """
    return loaded.get(spec, device, precision)


def open_spec(spec: BackboneSpec, located: Located | None = None) -> Backbone:
    """Read a new backbone in float32 on the CPU, from its directory or factory."""
    located = located or identify(spec)
    if located is None:
        backbone = _from_factory(spec)
        if spec.tuned is not None:
            spec.tuned.check_base(backbone.fingerprint)
    else:
        check_directory(located.directory)
        with reading(located.directory):
            network = network_directory(located.directory)
            refuse_other_reader(spec, network)
            adapter = importlib.import_module(f"skembed.backbones.models.{_adapter(spec.source, network)}")
            backbone = adapter.open_backbone(spec, located.directory, located.fingerprint)
            backbone.prepare_inference()
            run_trial(backbone)
    if spec.tuned is not None:
        _apply(backbone, spec.tuned)
    return backbone


def _apply(backbone: Backbone, tuned: TunedWeights) -> None:
    from skembed.backbones.tuning.apply import apply_tuned

    apply_tuned(backbone, tuned)


def _adapter(modality: str, directory: Path) -> str:
    """Return the adapter module that reads a directory, by its configuration."""
    config = read_json(directory / "config.json")
    if not config:
        raise BackboneNotFoundError(
            f"{directory} has no config.json, which describes its weights. Save the model with save_pretrained."
        )
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
    """Return a hex digest of names, types, shapes and values of parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
